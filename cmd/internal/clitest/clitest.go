// Package clitest runs a command of this project as a process of its own, from tests: the
// test binary starts itself again, and is the command then.
package clitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// env makes the test binary the command.
const env = "DND_CLITEST"

// Main is TestMain's body: it runs the command's main in a process that Run started, the
// tests in any other.
func Main(m *testing.M, main func()) {
	if os.Getenv(env) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Result is how a command ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Command is a process that is ready to start, with args as the command's arguments.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), env+"=1")
	return cmd
}

// Run runs the command to its end.
func Run(t testing.TB, args ...string) Result {
	t.Helper()
	return Wait(t, Command(t, args...))
}

// Wait runs cmd to its end.
func Wait(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// OK runs the command, which must end well, and returns what it printed.
func OK(t testing.TB, args ...string) Result {
	t.Helper()
	r := Run(t, args...)
	if r.Code != 0 {
		t.Fatalf("%q: exit code %d\n%s", args, r.Code, r.Stderr)
	}
	return r
}

// JSON runs the command, which must end well and print exactly one JSON object, and
// decodes that.
func JSON(t testing.TB, v any, args ...string) {
	t.Helper()
	r := OK(t, args...)
	d := json.NewDecoder(strings.NewReader(r.Stdout))
	if err := d.Decode(v); err != nil {
		t.Fatalf("%q: %v in %q", args, err, r.Stdout)
	}
	if d.More() {
		t.Errorf("%q printed more than one object: %q", args, r.Stdout)
	}
}

// Fails runs the command, which must end with code, print nothing on stdout, and one line
// on stderr that has all of words in it. It returns that line.
func Fails(t testing.TB, code int, words []string, args ...string) string {
	t.Helper()
	r := Run(t, args...)
	if r.Code != code {
		t.Errorf("%q: exit code %d, want %d\n%s", args, r.Code, code, r.Stderr)
	}
	if r.Stdout != "" {
		t.Errorf("%q: stdout has %q, want nothing", args, r.Stdout)
	}
	line := strings.TrimSuffix(r.Stderr, "\n")
	if line == "" || strings.Contains(line, "\n") {
		t.Errorf("%q: stderr has %q, want one line", args, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			t.Errorf("%q: %q does not say %q", args, line, w)
		}
	}
	return line
}
