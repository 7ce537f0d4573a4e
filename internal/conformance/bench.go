package conformance

import (
	"context"
	"math"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// ConvBench is a convolution to time.
type ConvBench struct {
	Name   string
	Shape  [4]int
	Axis   graph.Axis
	Out, K int
}

// Prepare makes the Program of a way and runs it once, so that pipelines are compiled. run
// runs it again; macs are the multiply-accumulates of direct summation.
func (c ConvBench) Prepare(exec graph.Executor, way graph.ConvWay) (run func(context.Context) error, macs int64, err error) {
	limits := bound(0)
	limits.Tuning = &graph.Tuning{All: way}
	p, err := build(c.Name, limits, func(b *graph.Builder) {
		b.Stage("conv")
		b.Read("y", b.Conv(b.Input("x", c.Shape), graph.Conv{Label: "conv", Weight: "w", DType: "F32", Bias: "bias", Axis: c.Axis, Out: c.Out, K: c.K}))
	})
	if err != nil {
		return nil, 0, err
	}
	values := c.Shape[0] * c.Shape[1] * c.Shape[2] * c.Shape[3]
	weights := Tensors{"w": uniform(1, c.Out*c.Shape[1+int(c.Axis)]*c.K*c.K), "bias": uniform(2, c.Out)}
	in := []graph.Input{{Name: "x", Data: Floats(uniform(3, values))}}
	run = func(ctx context.Context) error {
		_, err := exec.Run(ctx, p, weights, in, nil)
		return err
	}
	return run, int64(values) * int64(c.Out) * int64(c.K*c.K), run(context.Background())
}

// Layers are convolutions of the reference's decoders, cut to what a software device can do
// in seconds: fewer outputs, in the first two fewer rows, in the last two fewer channels.
var Layers = []ConvBench{
	{"0.5b first conv1w", [4]int{1, 128, 64, 384}, graph.AxisW, 64, 9},
	{"0.5b first conv2h", [4]int{1, 64, 384, 128}, graph.AxisH, 64, 9},
	{"0.5b middle linear2", [4]int{1, 512, 25, 200}, graph.AxisN, 64, 9},
	{"0.5b last linear2", [4]int{1, 512, 10, 130}, graph.AxisN, 256, 9},
	{"7b last linear2", [4]int{1, 192, 18, 514}, graph.AxisN, 64, 11},
}

// Cost is what a run took, the fastest and the one of the least processor time: on a software
// device the latter is less disturbed by other work.
type Cost struct{ Wall, Processor time.Duration }

// Compare runs direct summation and the frequency domain by turns. processor tells the
// processor time that this process has used.
func (c ConvBench) Compare(ctx context.Context, exec graph.Executor, runs int, processor func() time.Duration) (direct, fourier Cost, err error) {
	costs := [2]Cost{{math.MaxInt64, math.MaxInt64}, {math.MaxInt64, math.MaxInt64}}
	var ways [2]func(context.Context) error
	for i, method := range []graph.Method{graph.Direct, graph.Fourier} {
		if ways[i], _, err = c.Prepare(exec, graph.ConvWay{Method: method}); err != nil {
			return costs[0], costs[1], err
		}
	}
	for range runs {
		for i, run := range ways {
			begin, used := time.Now(), processor()
			if err := run(ctx); err != nil {
				return costs[0], costs[1], err
			}
			costs[i] = Cost{min(costs[i].Wall, time.Since(begin)), min(costs[i].Processor, processor()-used)}
		}
	}
	return costs[0], costs[1], nil
}
