package fit

import (
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// BenchmarkStep is one training step for weight tokens of SmolLM2-135M's shape.
func BenchmarkStep(b *testing.B) {
	for _, s := range []struct {
		name     string
		features [][3]int
		batch    int
	}{
		{"small", [][3]int{{16, 64, 384}, {16, 16, 128}, {32, 10, 128}, {64, 10, 128}, {1590, 10, 194}}, 4},
		{"large", [][3]int{{32, 64, 384}, {64, 32, 192}, {128, 16, 194}, {512, 10, 194}, {1590, 10, 194}}, 8},
	} {
		b.Run(s.name, func(b *testing.B) {
			be, err := backend.Open(backend.PJRT)
			if err != nil {
				b.Fatal(err)
			}
			defer be.Finalize()
			c := Defaults()
			c.Decoder = decoder.Config{Class: decoder.FullCond, KernelSize: 3, Affine: true, Features: s.features}
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
			for i := 1; b.Loop(); i++ {
				run(i)
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/step")
		})
	}
}
