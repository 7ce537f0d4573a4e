package conformance

import (
	"context"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// ConvBench is a convolution over axis N to time.
type ConvBench struct {
	Name   string
	Shape  [4]int
	Out, K int
}

// Prepare makes the Program and runs it once, so that pipelines are compiled. run runs it
// again; macs are its multiply-accumulates.
func (c ConvBench) Prepare(exec graph.Executor) (run func(context.Context) error, macs int64, err error) {
	p, err := build(c.Name, bound(0), func(b *graph.Builder) {
		b.Stage("conv")
		b.Read("y", b.Conv(b.Input("x", c.Shape), graph.Conv{Label: "conv", Weight: "w", DType: "F32", Bias: "bias", Axis: graph.AxisN, Out: c.Out, K: c.K}))
	})
	if err != nil {
		return nil, 0, err
	}
	values := c.Shape[0] * c.Shape[1] * c.Shape[2] * c.Shape[3]
	weights := Tensors{"w": uniform(1, c.Out*c.Shape[1]*c.K*c.K), "bias": uniform(2, c.Out)}
	in := []graph.Input{{Name: "x", Data: Floats(uniform(3, values))}}
	run = func(ctx context.Context) error {
		_, err := exec.Run(ctx, p, weights, in, nil)
		return err
	}
	return run, int64(values) * int64(c.Out) * int64(c.K*c.K), run(context.Background())
}
