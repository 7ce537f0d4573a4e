//go:build unix

package lm_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// smol loads SmolLM2-135M-Instruct in a precision.
func smol(b *testing.B, dtype string) *lm.Model {
	b.Helper()
	path := filepath.Join("..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		b.Fatalf("%v: run `make deps`", err)
	}
	m, err := lm.LoadWith(path, lm.Options{DType: dtype}, open(b, backend.PJRT))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(m.Close)
	return m
}

// cpuTime is the processor time of this process so far: what a machine shared with others
// still tells.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTunerStep is a step of collect at the size of models/data: 8 examples of 54
// tokens, 7 of which are the answer's.
func BenchmarkTunerStep(b *testing.B) {
	for _, dtype := range []string{lm.F32, lm.BF16} {
		b.Run(dtype, func(b *testing.B) { tunerStep(b, smol(b, dtype)) })
	}
}

func tunerStep(b *testing.B, m *lm.Model) {
	t, err := m.NewTuner(8, 16, false)
	if err != nil {
		b.Fatal(err)
	}
	defer t.Close()
	t.Reset(1)
	var examples []lm.Example
	for i := range 8 {
		e := lm.Example{}
		for j := range 48 {
			e.Prompt = append(e.Prompt, int32(100+i*48+j))
		}
		for j := range 7 {
			e.Answer = append(e.Answer, int32(500+j*7+i))
		}
		examples = append(examples, e)
	}
	if _, err := t.Step(examples, 1e-3); err != nil {
		b.Fatal(err)
	}
	before := cpuTime()
	for b.Loop() {
		if _, err = t.Step(examples, 1e-3); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(8*54*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric((cpuTime()-before).Seconds()/float64(b.N), "cpu-s/op")
}
