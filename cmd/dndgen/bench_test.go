package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// The Go backend is there on every machine.
func TestBench(t *testing.T) {
	baseline := filepath.Join(t.TempDir(), "baseline.json")
	r := clitest.Run(t, "bench", "--shape", "mini", "--backend", "cpu", "--stage", "decode", "--runs", "2", "--json", "--quiet", "--out", baseline)
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	var got benchResult
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.DecodeMACs != 18778752 || got.DecodeSeconds <= 0 || got.DecodeFirstSeconds < got.DecodeSeconds || got.Efficiency <= 0 || len(got.Kernels) == 0 {
		t.Errorf("measured %s", r.Stdout)
	}
	list, err := readResults(baseline)
	if err != nil || len(list) != 1 || list[0].key() != got.key() {
		t.Fatalf("baseline %+v, %v", list, err)
	}
	if err := compareResults(baseline, &got); err != nil {
		t.Errorf("the same result: %v", err)
	}
	for name, change := range map[string]func(*benchResult){
		"multiply-accumulates": func(r *benchResult) { r.DecodeWorkMACs *= 2 },
		"of what the device":   func(r *benchResult) { r.Efficiency /= 3 },
		"has no result":        func(r *benchResult) { r.Shape = "0.5b" },
	} {
		worse := got
		change(&worse)
		if err := compareResults(baseline, &worse); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a worse result: %v, expected %q", err, name)
		}
	}
	got.DecodeWorkMACs = 1
	if err := saveResult(baseline, &got); err != nil {
		t.Fatal(err)
	}
	if list, err = readResults(baseline); err != nil || len(list) != 1 || list[0].DecodeWorkMACs != 1 {
		t.Errorf("replaced: %+v, %v", list, err)
	}
}

func TestBenchCount(t *testing.T) {
	for _, shape := range generator.Shapes() {
		r := clitest.Run(t, "bench", "--shape", shape, "--backend", "cpu", "--count", "--json", "--quiet")
		var got benchResult
		if err := json.Unmarshal([]byte(r.Stdout), &got); r.Code != 0 || err != nil || got.DecodeMACs < 1e7 || got.DecodeWorkMACs > got.DecodeMACs {
			t.Errorf("%s: %s %s", shape, r.Stdout, r.Stderr)
		}
	}
}

// A stand-in for bench/pytorch.py that knows its own answer.
func TestBenchAgainst(t *testing.T) {
	script := write(t, "other.sh", `echo '{"tool":"other","shape":"mini","device":"none","dtype":"f32","decode_seconds":1000,"peak_bytes":1}'`)
	r := clitest.Run(t, "bench", "--shape", "mini", "--backend", "cpu", "--stage", "decode", "--against", script, "--python", "/bin/sh", "--json", "--quiet")
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	var p pair
	if err := json.Unmarshal([]byte(r.Stdout), &p); err != nil {
		t.Fatal(err)
	}
	if p.Theirs.Tool != "other" || p.Ours.Tool != "dndgen" || p.Ratios["decode_seconds"] < 1 || p.Ratios["peak_bytes"] > 1 {
		t.Errorf("compared %s", r.Stdout)
	}
}

func TestBenchBadInput(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--shape", "huge"}, {"--shape", "mini", "--stage", "sleep"}, {"--shape", "mini", "--runs", "0"},
		{"--shape", "mini", "--against", "x", "--count"},
	} {
		if r := clitest.Run(t, append([]string{"bench"}, args...)...); r.Code != 2 {
			t.Errorf("%v: exit code %d, %s", args, r.Code, r.Stderr)
		}
	}
	for _, text := range []string{"", "{}", "[null]", "[1]"} {
		path := write(t, "bad.json", text)
		if _, err := readResults(path); err == nil {
			t.Errorf("%q was taken", text)
		}
		if err := saveResult(path, &benchResult{}); err == nil {
			t.Errorf("%q was written over", text)
		}
		if raw, err := os.ReadFile(path); err != nil || string(raw) != text {
			t.Errorf("%q became %q, %v", text, raw, err)
		}
	}
}
