// Command report makes the conformance table of what tests recorded (conformance.Save): a
// matrix of the largest errors, a row a case and a column a backend, on stdout, as JSON and
// as a page of HTML. It ends with exit code 1 if an error is larger than allowed.
//
//	report RECORDS OUT_DIR
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: report RECORDS OUT_DIR")
		os.Exit(2)
	}
	ok, err := report(os.Args[1], os.Args[2], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// Table is the matrix.
type Table struct {
	Backends []string `json:"backends"`
	Rows     []Row    `json:"rows"`
	Skipped  []Skip   `json:"skipped"` // what was not run, and why
}

// Skip is cases that a backend did not run.
type Skip struct {
	Backend string `json:"backend"`
	Row     string `json:"row,omitempty"` // empty: all
	Cases   int    `json:"cases,omitempty"`
	Why     string `json:"why"`
}

func (s Skip) String() string {
	if s.Row == "" {
		return fmt.Sprintf("%s: not run: %s", s.Backend, s.Why)
	}
	return fmt.Sprintf("%s, %s: %d cases not run: %s", s.Backend, s.Row, s.Cases, s.Why)
}

// Row is one case, or the cases of one kernel taken together.
type Row struct {
	Case  string          `json:"case"`
	Cells map[string]Cell `json:"cells"` // by backend; absent: the backend has no such case
}

// Cell is the largest error of a row on a backend, and what was allowed there.
type Cell struct {
	Cases   int     `json:"cases"`
	Error   float64 `json:"error"`
	Allowed float64 `json:"allowed"`
	Failed  int     `json:"failed"`
}

func (c Cell) String() string {
	text := fmt.Sprintf("%.1e", c.Error)
	if c.Error == 0 {
		text = "0"
	}
	if c.Failed > 0 {
		text += fmt.Sprintf(" FAILED %d of %d", c.Failed, c.Cases)
	}
	return text
}

func report(from, dir string, w io.Writer) (ok bool, err error) {
	f, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer f.Close()
	t, err := read(f)
	if err != nil {
		return false, fmt.Errorf("%s: %w", from, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	if err := atomicfile.Write(filepath.Join(dir, "conformance.json"), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(t)
	}); err != nil {
		return false, err
	}
	if err := atomicfile.Write(filepath.Join(dir, "conformance.html"), func(w io.Writer) error { return page.Execute(w, t) }); err != nil {
		return false, err
	}
	ok = true
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "case\t%s\n", strings.Join(t.Backends, "\t"))
	for _, r := range t.Rows {
		fmt.Fprint(tab, r.Case)
		for _, b := range t.Backends {
			c, there := r.Cells[b]
			if !there {
				fmt.Fprint(tab, "\t–")
				continue
			}
			fmt.Fprintf(tab, "\t%v", c)
			ok = ok && c.Failed == 0
		}
		fmt.Fprintln(tab)
	}
	if err := tab.Flush(); err != nil {
		return false, err
	}
	for _, s := range t.Skipped {
		fmt.Fprintln(w, s)
	}
	fmt.Fprintf(w, "\n%s\n", legend)
	return ok, nil
}

func read(r io.Reader) (*Table, error) {
	t := &Table{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var rec conformance.Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			return nil, err
		}
		if rec.Skipped != "" {
			t.skip(rec)
			continue
		}
		if !slices.Contains(t.Backends, rec.Backend) {
			t.Backends = append(t.Backends, rec.Backend)
		}
		t.add(rec)
	}
	if len(t.Rows) == 0 {
		return nil, fmt.Errorf("no record in it")
	}
	return t, lines.Err()
}

func (t *Table) skip(rec conformance.Record) {
	s := Skip{Backend: rec.Backend, Why: rec.Skipped}
	if rec.Case != "" {
		s.Row = row(rec.Case)
	}
	i := slices.IndexFunc(t.Skipped, func(o Skip) bool { return o.Backend == s.Backend && o.Row == s.Row && o.Why == s.Why })
	if i < 0 {
		i = len(t.Skipped)
		t.Skipped = append(t.Skipped, s)
	}
	if rec.Case != "" {
		t.Skipped[i].Cases++
	}
}

func (t *Table) add(rec conformance.Record) {
	name := row(rec.Case)
	i := slices.IndexFunc(t.Rows, func(r Row) bool { return r.Case == name })
	if i < 0 {
		i = len(t.Rows)
		t.Rows = append(t.Rows, Row{name, map[string]Cell{}})
	}
	c := t.Rows[i].Cells[rec.Backend]
	c.Cases++
	if rec.Error > rec.Allowed {
		c.Failed++
	}
	if rec.Error >= c.Error {
		c.Error, c.Allowed = rec.Error, rec.Allowed
	}
	t.Rows[i].Cells[rec.Backend] = c
}

// row is the row of a case: the kernels' many sizes share one, and so do a network's cases
// under other limits.
func row(name string) string {
	group, rest, _ := strings.Cut(name, "/")
	switch group {
	case "conv", "planes", "tokens", "rows":
		return "kernels: " + group
	case "decoder", "encoder":
		first, _, _ := strings.Cut(rest, " ")
		return group + " " + first
	}
	return strings.ReplaceAll(name, "/", ": ")
}

const legend = "A dash: the backend has no such case. Under wazero the guest plans and the same device runs: " +
	"where no program differs, the errors are those of the device's own column. On pjrt and cpu whole networks run, not kernels."

var page = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Conformance</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { border: 1px solid #8885; padding: 0.25rem 0.75rem; text-align: left; }
td { font-variant-numeric: tabular-nums; }
.failed { background: #c003; }
</style>
<h1>Conformance</h1>
<p>Largest errors against the official PyTorch outputs and plain references. ` + legend + `</p>
<table><thead><tr><th scope="col">case</th>{{range .Backends}}<th scope="col">{{.}}</th>{{end}}</tr></thead>
<tbody>{{range $row := .Rows}}<tr><th scope="row">{{$row.Case}}</th>{{range $b := $.Backends}}{{with index $row.Cells $b}}{{if .Cases}}<td title="allowed {{.Allowed}}, {{.Cases}} cases"{{if .Failed}} class="failed"{{end}}>{{.}}</td>{{else}}<td>–</td>{{end}}{{end}}{{end}}</tr>
{{end}}</tbody></table>
{{with .Skipped}}<h2>Not run</h2>
<ul>{{range .}}<li>{{.}}</li>
{{end}}</ul>
{{end}}</html>
`))
