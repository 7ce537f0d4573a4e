// Package docs is documentation; its tests hold what it says of the sources to them.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	goTest  = regexp.MustCompile("`([a-z][a-z/0-9]*)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")
	webTest = regexp.MustCompile("`(web/test/[a-z.]+): ([^`]+)`")
)

// Every threat names tests, and they are there.
func TestSecurity(t *testing.T) {
	raw, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	read := func(pattern string) string {
		if text, ok := sources[pattern]; ok {
			return text
		}
		names, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(raw)
		}
		sources[pattern] = b.String()
		return b.String()
	}
	rows := 0
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		row := len(cells) == 5 && !strings.Contains(line, "---") && !strings.Contains(line, "| tests |")
		named := 0
		for _, m := range goTest.FindAllStringSubmatch(line, -1) {
			named++
			if !strings.Contains(read(m[1]+"/*_test.go"), "func "+m[2]+"(") {
				t.Errorf("%s has no %s: %s", m[1], m[2], line)
			}
		}
		for _, m := range webTest.FindAllStringSubmatch(line, -1) {
			named++
			if !strings.Contains(read(m[1]), m[2]) {
				t.Errorf("%s has no test %q", m[1], m[2])
			}
		}
		if row {
			rows++
			if named == 0 {
				t.Errorf("a threat without a test: %s", line)
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d threats were read, expected the tables of security.md", rows)
	}
}
