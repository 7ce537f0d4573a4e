package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const good = `{"backend":"cpu","case":"decoder/a","error":1e-6,"allowed":2e-5}
{"backend":"gpu","case":"conv/[1 2] k3","error":3e-7,"allowed":4e-6}
{"backend":"gpu","case":"conv/[1 2] k5","error":2e-7,"allowed":4e-6}
{"backend":"gpu","case":"decoder/a binding0","error":0,"allowed":2e-5}
{"backend":"gpu","case":"rows/1 row","skipped":"no subgroups"}
{"backend":"gpu","case":"rows/2 rows","skipped":"no subgroups"}
{"backend":"a GPU","skipped":"none here"}
`
	for _, c := range []struct {
		name, records string
		ok            bool
		want          []string // on stdout
		err           string
	}{
		{"good", good, true, []string{"cpu", "decoder a", "1.0e-06", "kernels: conv", "3.0e-07", "–", "gpu, kernels: rows: 2 cases not run: no subgroups", "a GPU: not run: none here"}, ""},
		{"an error too large", good + `{"backend":"gpu","case":"conv/x","error":1,"allowed":4e-6}` + "\n", false, []string{"FAILED 1 of 3"}, ""},
		{"nothing", "", false, nil, "no record"},
		{"no JSON", "x\n", false, nil, "invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			from := filepath.Join(dir, "records")
			if err := os.WriteFile(from, []byte(c.records), 0o644); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			ok, err := report(from, dir, &out)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil || ok != c.ok {
				t.Fatalf("ok %v, error %v", ok, err)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in\n%s", want, out.String())
				}
			}
			html, err := os.ReadFile(filepath.Join(dir, "conformance.html"))
			if err != nil || !strings.Contains(string(html), "decoder a") || strings.Contains(string(html), "a GPU: not run: none here") != strings.Contains(c.records, "none here") || strings.Contains(string(html), "failed\"") != !c.ok {
				t.Errorf("the page: %v\n%s", err, html)
			}
		})
	}
}
