package clitest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var comment = regexp.MustCompile(`\s#\s.*`)

// Documented holds the examples in files of documentation to the command name: in every line of a
// code block that calls it, command and flags must be such that --help lists. It returns how many calls
// there are.
func Documented(t *testing.T, name string, files ...string) int {
	t.Helper()
	calls, help := 0, map[string]string{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block := false
		text := strings.ReplaceAll(string(raw), "\\\n", " ")
		for line := range strings.Lines(text) {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				block = !block
			}
			words := strings.Fields(comment.ReplaceAllString(line, ""))
			if !block || len(words) < 2 || strings.TrimPrefix(words[0], "build/bin/") != name {
				continue
			}
			calls++
			command := words[1]
			if _, ok := help[command]; !ok {
				r := Run(t, command, "--help")
				if r.Code != 0 {
					t.Errorf("%s: there is no command %s: %s", file, command, line)
				}
				help[command] = r.Stdout + r.Stderr
			}
			for _, word := range words[2:] {
				flag, _, _ := strings.Cut(word, "=")
				if strings.HasPrefix(flag, "--") && !strings.Contains(help[command], flag+" ") && !strings.Contains(help[command], flag+"\n") {
					t.Errorf("%s: %s %s has no flag %s", file, name, command, flag)
				}
			}
		}
	}
	return calls
}
