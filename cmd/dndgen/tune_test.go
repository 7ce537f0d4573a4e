package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
)

// What tune measures is kept, used by a later run, told of when damaged, and forgotten.
func TestTune(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	run := func(code int, args ...string) clitest.Result {
		t.Helper()
		r := clitest.Run(t, args...)
		if r.Code != code {
			t.Fatalf("dndgen %s: exit code %d\n%s", strings.Join(args, " "), r.Code, r.Stderr)
		}
		return r
	}
	var got tuneResult
	if err := json.Unmarshal([]byte(run(0, "tune", "--shape", "mini", "--json", "--quiet").Stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Results) != 10 || got.Results[0].Shape.Kernel != 3 || got.Results[0].Seconds <= 0 {
		t.Errorf("measured %+v", got)
	}
	count := func(convolution string) (work int64, messages string) {
		t.Helper()
		r := run(0, "bench", "--shape", "mini", "--backend", "webgpu", "--count", "--json", "--convolution", convolution)
		var b benchResult
		if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil {
			t.Fatal(err)
		}
		return b.DecodeWorkMACs, r.Stderr
	}
	fourier, _ := count("fourier")
	planned, _ := count("auto")
	// Every choice becomes the frequency domain, which the planner does not take here.
	raw, err := os.ReadFile(got.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(got.File, []byte(strings.ReplaceAll(string(raw), `"direct"`, `"fourier"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	if tuned, messages := count("tuned"); tuned != fourier || tuned == planned || strings.Contains(messages, "damaged") {
		t.Errorf("work %d with what was measured, %d in the frequency domain, %d planned; %s", tuned, fourier, planned, messages)
	}
	if err := os.WriteFile(got.File, raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if tuned, messages := count("tuned"); tuned != planned || !strings.Contains(messages, "damaged") {
		t.Errorf("work %d with a damaged file, %d planned; %s", tuned, planned, messages)
	}
	run(0, "tune", "--forget")
	if _, err := os.Stat(got.File); !os.IsNotExist(err) {
		t.Errorf("after --forget: %v", err)
	}
	run(2, "tune", "--shape", "mini", "--generator", "x")
	run(2, "tune", "--batch", "0")
	run(2, "tune", "--shape", "nonesuch")
}
