package clitest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var comment = regexp.MustCompile(`\s#\s.*`)

// Calls are the arguments of all calls of the command name in a documentation file's code blocks.
func Calls(t *testing.T, name, file string) [][]string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var calls [][]string
	block := false
	for line := range strings.Lines(strings.ReplaceAll(string(raw), "\\\n", " ")) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			block = !block
		}
		words := strings.Fields(comment.ReplaceAllString(line, ""))
		if block && len(words) > 1 && strings.TrimPrefix(words[0], "build/bin/") == name {
			calls = append(calls, words[1:])
		}
	}
	return calls
}

// Documented holds the examples in files of documentation to the command name: every call has a
// command and flags that --help lists. It returns how many calls there are.
func Documented(t *testing.T, name string, files ...string) int {
	t.Helper()
	calls, help := 0, map[string]string{}
	for _, file := range files {
		for _, call := range Calls(t, name, file) {
			calls++
			command := call[0]
			if _, ok := help[command]; !ok {
				r := Run(t, command, "--help")
				if r.Code != 0 {
					t.Errorf("%s: there is no command %s: %q", file, command, call)
				}
				help[command] = r.Stdout + r.Stderr
			}
			for _, word := range call[1:] {
				flag, _, _ := strings.Cut(word, "=")
				if strings.HasPrefix(flag, "--") && !strings.Contains(help[command], flag+" ") && !strings.Contains(help[command], flag+"\n") {
					t.Errorf("%s: %s %s has no flag %s", file, name, command, flag)
				}
			}
		}
	}
	return calls
}
