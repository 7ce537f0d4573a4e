package main

import (
	"encoding/json"
	"math"
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
	if err := compareResults(baseline, &got); err != nil || got.Earlier["decode_work_macs"] != 1 {
		t.Errorf("the same result: %v, %v", got.Earlier, err)
	}
	// Only a device has memory of its own.
	list[0].DeviceNeed, got.DeviceNeed = 1000, 1000
	if err := saveResult(baseline, list[0]); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*benchResult){
		"multiply-accumulates": func(r *benchResult) { r.DecodeWorkMACs *= 2 },
		"of what the device":   func(r *benchResult) { r.Efficiency /= 3 },
		"of device memory":     func(r *benchResult) { r.DeviceNeed *= 2 },
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
		{"--shape", "mini", "--against", "x", "--count"}, {"--shape", "mini", "--sweep", "batch"}, {"--sweep", "all", "--count"}, {"--sweep", "noise"},
		{"--shape", "mini", "--roof", "1"}, {"--shape", "mini", "--roof", "1,-1"}, {"--start", "--plot", "x.png"},
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

// Counting needs no device's time: the model of a GPU is arithmetic, and follows the rates.
func TestBenchRoof(t *testing.T) {
	seconds := func(flops, bytes string) *benchRoof {
		var r benchResult
		clitest.JSON(t, &r, "bench", "--quiet", "--json", "--shape", "0.5b", "--backend", "cpu", "--count", "--roof", flops+","+bytes)
		if r.Roof == nil || r.DecodeSeconds != 0 {
			t.Fatalf("%+v", r)
		}
		return r.Roof
	}
	fast, slow, starved := seconds("2e12", "1e15"), seconds("1e12", "1e15"), seconds("1e18", "1e9")
	if d := slow.DecodeSeconds / fast.DecodeSeconds; d < 1.99 || d > 2.01 || fast.ComputeShare < 0.999 {
		t.Errorf("bound by arithmetic: %+v and %+v", fast, slow)
	}
	// The weights alone are 4.45 GB.
	if starved.DecodeSeconds < 4.45 || starved.ComputeShare != 0 {
		t.Errorf("bound by traffic: %+v", starved)
	}
}

func TestBenchPlot(t *testing.T) {
	layout, out := write(t, "own.json", `{"class": "HyperConvDecoderModel_FullCond", "features": [[4, 8, 384], [8, 4, 16], [16, 4, 8]], "kernel_size": 3}`), filepath.Join(t.TempDir(), "roofline.png")
	var r benchResult
	clitest.JSON(t, &r, "bench", "--quiet", "--json", "--layout", layout, "--backend", "cpu", "--stage", "decode", "--plot", out)
	if r.Shape != "own" || len(r.Kernels) == 0 || r.Kernels[0].Bytes == 0 {
		t.Errorf("%+v", r)
	}
	if raw := mustRead(t, out); !strings.HasPrefix(string(raw), "\x89PNG") {
		t.Errorf("%s is no PNG", out)
	}
}

func TestFitPower(t *testing.T) {
	for _, c := range []struct{ a, b, p float64 }{{0, 2, 1}, {5, 0.25, 2}, {3, 1, 0.5}} {
		x := []float64{1, 2, 4, 8, 16, 32}
		y := make([]float64, len(x))
		for i := range x {
			y[i] = c.a + c.b*math.Pow(x[i], c.p)
		}
		a, b, p, r2 := fitPower(x, y)
		if math.Abs(a-c.a) > 1e-3 || math.Abs(b-c.b) > 1e-3 || math.Abs(p-c.p) > 1e-3 || r2 < 0.9999 {
			t.Errorf("%+v: %v + %v x^%v, R2 %v", c, a, b, p, r2)
		}
	}
	if a, b, _, _ := fitPower([]float64{1, 2, 4}, []float64{7, 7, 7}); math.Abs(a+b-7) > 1e-9 {
		t.Errorf("a constant: %v + %v", a, b)
	}
	r := swept{Backend: "cpu", Device: "test", Curves: []sweptCurve{
		{Against: "prompts", Measure: "encode_seconds", X: []float64{1, 2}, Y: []float64{1, 2}, B: 1, Exponent: 1},
		{Against: "prompts", Measure: "decode_seconds", X: []float64{1, 2}, Y: []float64{1, 2}, B: 1, Exponent: 1, Arithmetic: 0.5},
		{Against: "batch", Measure: "decode_seconds", X: []float64{1, 2}, Y: []float64{1, 2}, B: 1, Exponent: 1, Traffic: 0.5},
	}}
	var text strings.Builder
	if r.print(&text); !strings.Contains(text.String(), "arithmetic (50 %") || !strings.Contains(text.String(), "memory traffic (50 %") {
		t.Error(text.String())
	}
	out := filepath.Join(t.TempDir(), "curves.png")
	if err := r.plot(out); err != nil || !strings.HasPrefix(string(mustRead(t, out)), "\x89PNG") {
		t.Errorf("plot: %v", err)
	}
}

// What make bench calls fails where more work is counted than in the baseline, and says so.
func TestBenchRegression(t *testing.T) {
	baseline := filepath.Join(t.TempDir(), "baseline.json")
	args := []string{"bench", "--quiet", "--shape", "0.5b", "--backend", "cpu", "--count"}
	clitest.OK(t, append(args, "--out", baseline)...)
	if r := clitest.OK(t, append(args, "--compare", baseline)...); !strings.Contains(r.Stdout, "decode_work_macs is 1 times the earlier") {
		t.Errorf("the same: %s", r.Stdout)
	}
	list, err := readResults(baseline)
	if err != nil {
		t.Fatal(err)
	}
	list[0].DecodeWorkMACs = list[0].DecodeWorkMACs / 102 * 100
	if err := saveResult(baseline, list[0]); err != nil {
		t.Fatal(err)
	}
	if r := clitest.Run(t, append(args, "--compare", baseline)...); r.Code != 1 || !strings.Contains(r.Stderr, "worse") || !strings.Contains(r.Stderr, "multiply-accumulates") {
		t.Errorf("worse: exit code %d, %s", r.Code, r.Stderr)
	}
}
