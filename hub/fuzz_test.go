package hub_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// Whatever the hub answers, the cache holds a package that passes or none.
func FuzzAnswers(f *testing.F) {
	s := serve(f)
	manifest := s.commits[commitA][generator.ManifestName]
	f.Add(`{"id":"org/gen","sha":"`+commitA+`","siblings":[]}`, manifest, "", "")
	f.Add(`{"sha":"`+commitB+`"}`, manifest, "bytes 0-1/2", "short")
	f.Add(`{"sha":"../../x"}`, `{"format_version":1}`, "", "")
	var listing, first, span, body string
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/api/"):
			w.Write([]byte(listing))
		case strings.HasSuffix(r.URL.Path, generator.ManifestName):
			w.Write([]byte(first))
		case span != "":
			w.Header().Set("Content-Range", span)
			w.WriteHeader(http.StatusPartialContent)
			w.Write([]byte(body))
		default:
			return false
		}
		return true
	})
	c, dir := cache(f, s)
	f.Fuzz(func(t *testing.T, l, m, r, b string) {
		listing, first, span, body = l, m, strings.Map(printable, r), b
		e, err := c.Pull(t.Context(), "org/gen")
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("error of several lines: %v", err)
			}
			if list, _ := os.ReadDir(filepath.Join(dir, "packages")); len(list) > 0 {
				t.Fatalf("refused with %v, but the cache holds %v", err, list)
			}
			return
		}
		if _, err := generator.Verify(t.Context(), e.Dir, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Remove(t.Context(), e.SHA256); err != nil {
			t.Fatal(err)
		}
	})
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// What says in the cache which package a source is.
func FuzzRef(f *testing.F) {
	s := serve(f)
	c, dir := cache(f, s)
	e, err := c.Get(f.Context(), "org/gen")
	if err != nil {
		f.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "refs", "*.json"))
	if err != nil || len(names) != 1 {
		f.Fatal(names, err)
	}
	good, err := os.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Setenv("HF_HUB_OFFLINE", "1")
	c = reopen(f, dir)
	f.Add(good)
	f.Add([]byte(`{"sha256":"../../etc"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(names[0], raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c.List()
		if got, err := c.Get(t.Context(), "org/gen"); err == nil && got.Dir != e.Dir {
			t.Fatalf("%q is %+v", raw, got)
		}
	})
}
