package clitest

import (
	"os"
	"path/filepath"
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

// Documented holds the examples in the project's documentation, as a test of a command's folder sees
// it, to the command name: every call has a command and flags that --help lists, and there are at least
// so many calls.
func Documented(t *testing.T, name string, least int) {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	calls, help := 0, map[string]string{}
	for _, file := range append(files, "../../README.md", "../../RATIONALE.md", "../../models/README.md") {
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
	if calls < least {
		t.Errorf("%d examples were read, expected those of README.md, docs and models", calls)
	}
}
