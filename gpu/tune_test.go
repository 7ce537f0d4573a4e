package gpu_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/tune"
)

// crooked computes wrongly in the frequency domain: one value of each result is off.
type crooked struct{ graph.Executor }

func (c crooked) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	r, err := c.Executor.Run(ctx, p, w, in, report)
	if err == nil && transformed(p) {
		r.Outputs[0].Data[3] ^= 0x40
	}
	return r, err
}

// slanted computes wrongly in other tiles than the planner's.
type slanted struct{ graph.Executor }

func (s slanted) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	r, err := s.Executor.Run(ctx, p, w, in, report)
	if err == nil && tiled(p) {
		r.Outputs[0].Data[3] ^= 0x40
	}
	return r, err
}

// full has no memory for the frequency domain.
type full struct{ graph.Executor }

func (f full) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	if transformed(p) {
		return nil, &gpu.BudgetError{Need: 2, Budget: 1}
	}
	return f.Executor.Run(ctx, p, w, in, report)
}

func tiled(p *graph.Program) bool {
	return slices.ContainsFunc(p.Kernels, func(k graph.Kernel) bool { return strings.Contains(k.Label, "PositionFours") })
}

func transformed(p *graph.Program) bool {
	return slices.ContainsFunc(p.Kernels, func(k graph.Kernel) bool { return strings.HasPrefix(k.Label, "fourier") })
}

// spoilt says that a way is one which the executor cannot do.
func spoilt(exec graph.Executor, way graph.ConvWay) bool {
	if _, ok := exec.(slanted); ok {
		return way.Tile != graph.Tile{}
	}
	return way.Method != graph.Direct
}

// The fastest way is measured, is one that the planner takes when told, and is direct
// summation, as planned or in another tile, where the others compute wrongly or have no memory.
func TestTune(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	shapes := []graph.ConvShape{
		{Batch: 1, In: 24, Out: 40, Rows: 96, Columns: 40, Kernel: 9},
		{Batch: 2, In: 3, Out: 2, Rows: 4, Columns: 5, Kernel: 3},
	}
	for _, c := range []struct {
		exec     graph.Executor
		rejected string
	}{{d, ""}, {crooked{d}, "relative to direct"}, {full{d}, "memory"}, {slanted{d}, "direct 8x16: its result is off"}} {
		steps := 0
		results, err := tune.Measure(t.Context(), c.exec, shapes, func(done int) { steps = done })
		if err != nil {
			t.Fatal(err)
		}
		if len(results) != len(shapes) || steps != len(shapes) {
			t.Fatalf("%d results, %d steps", len(results), steps)
		}
		for i, r := range results {
			if r.Shape != shapes[i] || r.Seconds <= 0 || r.DirectSeconds < r.Seconds || r.Model.Method == "" {
				t.Errorf("result %+v", r)
			}
			rejected := strings.Join(r.Rejected, "; ")
			if c.rejected == "" && rejected != "" || !strings.Contains(rejected, c.rejected) || c.rejected != "" && spoilt(c.exec, r.Way) {
				t.Errorf("%+v, expected %q to be rejected", r, c.rejected)
			}
			limits := graph.DefaultLimits()
			limits.Tuning = &graph.Tuning{Convs: tune.Choices(results)}
			b := graph.NewBuilder(limits)
			s := r.Shape
			b.Read("y", b.Conv(b.Input("x", [4]int{s.Batch, s.In, s.Rows, s.Columns}), graph.Conv{Label: "conv", Weight: "w", DType: "F32", Axis: graph.AxisN, Out: s.Out, K: s.Kernel}))
			p, err := b.Program()
			if err != nil {
				t.Fatal(err)
			}
			if transformed(p) != (r.Way.Method == graph.Fourier) || tiled(p) != (r.Way.Tile != graph.Tile{}) {
				t.Errorf("%+v is planned otherwise than it was chosen", r)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tune.Measure(ctx, d, shapes, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
