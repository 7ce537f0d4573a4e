package generator

import (
	"context"
	"fmt"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// Probe measures what the executor reaches on work that suits it: a product of two
// matrices as a convolution with 1x1 kernels, and one sum of two tensors.
func (r *ExecutorRunner) Probe(ctx context.Context) (graph.Peaks, error) {
	const channels, side = 512, 64
	var peaks graph.Peaks
	for batch := 1; ; batch *= 4 {
		b := graph.NewBuilder(r.exec.Limits())
		x := b.Input("x", [4]int{batch, channels, side, side})
		// The first of each uploads and compiles.
		conv := graph.Conv{Label: "product", Weight: "w", DType: F32, Axis: graph.AxisN, Out: channels, K: 1, Keep: true}
		b.Stage("first")
		b.Release(b.Conv(x, conv))
		b.Release(b.Add("sum", x, x))
		b.Stage("product")
		y := b.Conv(x, conv)
		b.Stage("sum")
		z := b.Add("sum", x, y)
		b.Read("z", z)
		p, err := b.Program()
		if err != nil {
			return peaks, fmt.Errorf("generator: probe: %w", err)
		}
		values := int64(batch) * channels * side * side
		weights := hashed{"w": newHashedTensor("w", []int{channels, channels}, 0, 0)}
		result, err := r.exec.Run(ctx, p, weights, []graph.Input{{Name: "x", Data: make([]byte, 4*values)}}, nil)
		if err != nil {
			return peaks, fmt.Errorf("generator: probe: %w", err)
		}
		var product time.Duration
		for _, s := range result.Stages {
			switch s.Stage {
			case "product":
				product = s.Duration
				peaks.FLOPS = 2 * float64(values) * channels / s.Duration.Seconds()
			case "sum":
				peaks.Bytes = 12 * float64(values) / s.Duration.Seconds()
			}
		}
		// Long enough that starting it does not count, or as much as any device takes.
		if product > 50*time.Millisecond || batch == 16 {
			return peaks, nil
		}
	}
}

// Count is what decoding a batch takes, by its Program.
func (r *ExecutorRunner) Count(p *Package, batch int) (graph.Count, error) {
	program, _, err := r.plan(r.decodeProgram(p, batch))
	if err != nil {
		return graph.Count{}, err
	}
	c := graph.Count{Parts: program.Parts(nil), Memory: program.Memory()}
	for _, part := range c.Parts {
		c.MACs += part.MACs
	}
	return c, nil
}
