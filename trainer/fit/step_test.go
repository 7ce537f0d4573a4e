//go:build unix

package fit

import (
	"syscall"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStep is one training step: for weight tokens of SmolLM2-135M's shape, and with
// the reference's 0.5B decoder at about a quarter of every axis. "plan" is the time that
// a plan at a rate measured on the spot has for it, over the time it took.
func BenchmarkStep(b *testing.B) {
	for _, s := range []struct {
		name     string
		features [][3]int
		kernel   int
		batch    int
	}{
		{"small", [][3]int{{16, 64, 384}, {16, 16, 128}, {32, 10, 128}, {64, 10, 128}, {1590, 10, 194}}, 3, 4},
		{"large", [][3]int{{32, 64, 384}, {64, 32, 192}, {128, 16, 194}, {512, 10, 194}, {1590, 10, 194}}, 3, 8},
		{"0.5b-quarter", [][3]int{{32, 96, 96}, {32, 50, 75}, {32, 25, 64}, {64, 12, 50}, {128, 12, 50}, {256, 10, 50}, {512, 10, 50}, {1074, 10, 34}}, 9, 4},
	} {
		b.Run(s.name, func(b *testing.B) {
			be, err := backend.Open(backend.PJRT)
			if err != nil {
				b.Fatal(err)
			}
			defer be.Finalize()
			c := Defaults()
			c.SetDecoder(decoder.Config{Class: decoder.FullCond, KernelSize: s.kernel, Affine: true, Features: s.features})
			c.Batch = s.batch
			in, out := c.Decoder.Condition(), c.Decoder.Output()
			step, err := newStepper(&c, be, 1, make([]float32, out[0]), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer step.close()
			states := []*state{initialState(&c)}
			run := func(i int) {
				filled := func(shape ...int) *tensors.Tensor {
					n := 1
					for _, d := range shape {
						n *= d
					}
					v := make([]float32, n)
					for i := range v {
						v[i] = float32(i%7) - 3
					}
					return tensors.FromFlatDataAndDimensions(v, shape...)
				}
				pairs := fed{shards: []shard{{condition: filled(c.Batch, in[0], in[1], in[2]), target: filled(c.Batch, out[0], out[1], out[2])}},
					values: float64(c.Batch * out[0] * out[1] * out[2])}
				_, grads, err := step.part(i, 0, pairs, states, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := step.finish(i, grads, states); err != nil {
					b.Fatal(err)
				}
			}
			run(0) // compiles
			before := cpuTime()
			for i := 1; b.Loop(); i++ {
				run(i)
			}
			b.ReportMetric((cpuTime()-before).Seconds()/float64(b.N), "cpu-s/op")
			perStep := b.Elapsed().Seconds() / float64(b.N)
			b.ReportMetric(1000*perStep, "ms/step")
			rate, err := MeasureRate(b.Context(), &c, be, s.name, func(_, _ int) {})
			if err != nil {
				b.Fatal(err)
			}
			plan, err := NewPlan(&c, 1)
			if err != nil {
				b.Fatal(err)
			}
			plan.Add(rate)
			b.ReportMetric(plan.Times[0].SecondsPerStep/perStep, "plan")
		})
	}
}
