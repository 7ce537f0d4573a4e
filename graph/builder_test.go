package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
)

func limits(binding int64) graph.Limits {
	l := graph.DefaultLimits()
	l.MaxStorageBufferBindingSize = binding
	return l
}

// Whatever the shape, no dispatch, binding or scratch buffer exceeds what was planned
// for, and every output value is written by exactly one invocation's share of the cost. In
// the frequency domain it costs a third at most.
func TestPlansKeepLimits(t *testing.T) {
	ways := []graph.ConvWay{{Method: graph.Direct}, {Method: graph.Fourier}}
	for _, tile := range graph.Tiles() {
		ways = append(ways, graph.ConvWay{Method: graph.Direct, Tile: tile})
	}
	for _, way := range ways {
		t.Run(way.String(), func(t *testing.T) { plansKeepLimits(t, way) })
	}
}

func plansKeepLimits(t *testing.T, way graph.ConvWay) {
	method := way.Method
	for _, c := range []struct {
		shape  [4]int
		conv   graph.Conv
		limits graph.Limits
	}{
		// The reference's largest layers: last ones (few positions, many channels), first
		// ones (large planes), tensors beyond a binding.
		{[4]int{1, 2048, 18, 258}, graph.Conv{Axis: graph.AxisN, Out: 7308, K: 11}, graph.DefaultLimits()},
		{[4]int{1, 128, 384, 384}, graph.Conv{Axis: graph.AxisW, Out: 300, K: 9}, graph.DefaultLimits()},
		{[4]int{1, 256, 500, 300}, graph.Conv{Axis: graph.AxisH, Out: 125, K: 11}, graph.DefaultLimits()},
		{[4]int{1, 256, 500, 300}, graph.Conv{Axis: graph.AxisW, Out: 300, K: 11}, graph.DefaultLimits()},
		{[4]int{3, 512, 384, 384}, graph.Conv{Axis: graph.AxisN, Out: 512, K: 9}, graph.DefaultLimits()},
		{[4]int{1, 6144, 1, 26624}, graph.Conv{Axis: graph.AxisW, Out: 1000, K: 1}, graph.DefaultLimits()},
		{[4]int{4, 64, 40, 40}, graph.Conv{Axis: graph.AxisN, Out: 70, K: 5}, limits(1 << 20)},
	} {
		c.conv.Label, c.conv.Weight, c.conv.DType = "conv", "w", "F16"
		c.limits.Tuning = &graph.Tuning{All: way}
		b := graph.NewBuilder(c.limits)
		b.Read("y", b.Conv(b.Input("x", c.shape), c.conv))
		p, err := b.Program()
		if err != nil {
			t.Errorf("%v %+v: %v", c.shape, c.conv, err)
			continue
		}
		var cost, weights int64
		for _, d := range p.Dispatches {
			if d.Cost > b.MaxCost {
				t.Errorf("%v: dispatch %s costs %d", c.shape, d.Label, d.Cost)
			}
			if d.Label == "conv" || method == graph.Fourier {
				cost += d.Cost
			}
		}
		for _, buffer := range p.Buffers {
			if buffer.Bytes > c.limits.MaxStorageBufferBindingSize || strings.HasPrefix(buffer.Label, "conv.") && buffer.Bytes > 128<<20 {
				t.Errorf("%v: buffer %s has %d bytes", c.shape, buffer.Label, buffer.Bytes)
			}
			if buffer.Source.Kind == graph.SourceWeights {
				if buffer.Source.Offset != weights {
					t.Errorf("%v: weights from %d on, expected %d", c.shape, buffer.Source.Offset, weights)
				}
				weights += buffer.Source.Bytes
			}
		}
		channels := int64(c.shape[1+int(c.conv.Axis)])
		taps := channels * int64(c.conv.K) * int64(c.conv.K)
		if weights != taps*int64(c.conv.Out)*2 {
			t.Errorf("%v: %d bytes of weights, expected %d", c.shape, weights, taps*int64(c.conv.Out)*2)
		}
		exact := int64(c.shape[0]) * int64(c.shape[1]) * int64(c.shape[2]) * int64(c.shape[3]) / channels * int64(c.conv.Out) * taps
		if method == graph.Fourier && c.conv.K > 1 {
			if cost > exact/3 {
				t.Errorf("%v: cost %d in the frequency domain for %d multiply-accumulates", c.shape, cost, exact)
			}
		} else if method == graph.Direct && (cost < exact || float64(cost) > 1.6*float64(exact)) {
			t.Errorf("%v: cost %d for %d multiply-accumulates", c.shape, cost, exact)
		}
		if p.Requires.MaxStorageBufferBindingSize > c.limits.MaxStorageBufferBindingSize {
			t.Errorf("%v: requires %+v", c.shape, p.Requires)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	conv := graph.Conv{Label: "conv", Weight: "w", DType: "F32", Axis: graph.AxisN, Out: 8, K: 3}
	with := func(change func(*graph.Conv)) graph.Conv {
		c := conv
		change(&c)
		return c
	}
	convolve := func(shape [4]int, c graph.Conv) func(*graph.Builder) {
		return func(b *graph.Builder) { b.Read("y", b.Conv(b.Input("x", shape), c)) }
	}
	tiled := graph.DefaultLimits()
	tiled.Tuning = &graph.Tuning{All: graph.ConvWay{Method: graph.Direct, Tile: graph.Tile{Outputs: 8, Positions: 12}}}
	for _, c := range []struct {
		want   string
		limits graph.Limits
		body   func(*graph.Builder)
	}{
		{"tile of 8 outputs by 12 positions", tiled, convolve([4]int{1, 4, 4, 4}, conv)},
		{"without dispatches", graph.DefaultLimits(), func(*graph.Builder) {}},
		{"too small to plan with", graph.Limits{}, func(*graph.Builder) {}},
		{"impossible shape", graph.DefaultLimits(), convolve([4]int{1, 0, 1, 1}, conv)},
		{"impossible shape", graph.DefaultLimits(), convolve([4]int{1 << 30, 1 << 30, 1 << 30, 1}, conv)},
		{"kernel 64", graph.DefaultLimits(), convolve([4]int{1, 4, 4, 4}, with(func(c *graph.Conv) { c.K = 64 }))},
		{"0 outputs", graph.DefaultLimits(), convolve([4]int{1, 4, 4, 4}, with(func(c *graph.Conv) { c.Out = 0 }))},
		{"F32, F16, Q8 or Q4_1", graph.DefaultLimits(), convolve([4]int{1, 4, 4, 4}, with(func(c *graph.Conv) { c.DType = "BF16" }))},
		{"a plane of [64 64]", limits(4096), convolve([4]int{1, 1, 64, 64}, conv)},
		{"output channels of w need", limits(4096), convolve([4]int{1, 20, 1, 1}, with(func(c *graph.Conv) { c.K = 11 }))},
		{"one row of the padded input", limits(4096), convolve([4]int{1, 90, 1, 1}, with(func(c *graph.Conv) { c.K, c.Out = 63, 8 }))},
		{"8 planes of", limits(4096), convolve([4]int{1, 4, 20, 20}, conv)},
		{"shapes [1 2 2 2] and [1 2 2 3] differ", graph.DefaultLimits(), func(b *graph.Builder) {
			b.Add("add", b.Input("x", [4]int{1, 2, 2, 2}), b.Input("y", [4]int{1, 2, 2, 3}))
		}},
		{"reshape of [1 2 2 2] to [1 2 2 3]", graph.DefaultLimits(), func(b *graph.Builder) {
			b.Reshape(b.Input("x", [4]int{1, 2, 2, 2}), [4]int{1, 2, 2, 3})
		}},
		{"cut planes of the second", limits(4096), func(b *graph.Builder) {
			b.Reshape(b.Input("x", [4]int{1, 40, 1, 100}), [4]int{1, 1, 40, 100})
		}},
		{"max_storage_buffers_per_shader_stage", graph.Limits{
			MaxBufferSize: 1 << 20, MaxStorageBufferBindingSize: 1 << 20, MaxStorageBuffersPerShaderStage: 2,
			MaxComputeWorkgroupsPerDimension: 65535, MaxComputeInvocationsPerWorkgroup: 256, MaxComputeWorkgroupStorageSize: 16384,
		}, convolve([4]int{1, 4, 4, 4}, conv)},
		{"(1, channels, 1, tokens)", graph.DefaultLimits(), func(b *graph.Builder) {
			b.TokenNorm("norm", b.Input("x", [4]int{1, 4, 2, 8}), nil, "w", "b", 1e-12)
		}},
		{"used after its release", graph.DefaultLimits(), func(b *graph.Builder) {
			x := b.Input("x", [4]int{1, 2, 2, 2})
			b.Release(x)
			b.Read("y", b.Add("add", x, x))
		}},
		{"3 heads for 4 channels", graph.DefaultLimits(), func(b *graph.Builder) {
			x := b.Input("x", [4]int{1, 4, 1, 8})
			b.Attention("attention", x, x, x, b.InputWords("mask", 8), graph.Chunks{Count: 1, Length: 8}, 3, false)
		}},
	} {
		b := graph.NewBuilder(c.limits)
		c.body(b)
		if _, err := b.Program(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// The first error stays, whatever follows.
func TestFirstErrorSticks(t *testing.T) {
	b := graph.NewBuilder(graph.DefaultLimits())
	first := fmt.Errorf("first")
	b.Fail(first)
	x := b.Input("x", [4]int{1, 2, 2, 2})
	y := b.Conv(x, graph.Conv{Label: "conv", Weight: "w", DType: "F32", Out: 3, K: 1})
	b.Release(b.Add("add", y, y))
	b.Read("y", b.LayerNorm("norm", b.Affine("affine", y, "a", "b"), "c", "d", 1))
	b.MaskPads("pads", y, b.InputWords("mask", 4))
	if _, err := b.Program(); err != first || b.Err() != first {
		t.Errorf("%v", err)
	}
}

// Released memory serves again, results that are read do not.
func TestRelease(t *testing.T) {
	b := graph.NewBuilder(graph.DefaultLimits())
	x := b.Input("x", [4]int{1, 2, 3, 4})
	kept := b.Add("kept", x, x)
	b.Read("kept", kept)
	b.Release(kept)
	temp := b.Add("temp", x, x)
	b.Release(temp)
	b.Read("last", b.Add("last", x, x))
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	// params, x, kept, and one buffer for temp and last.
	if len(p.Buffers) != 4 || p.Reads[0].Buffer == p.Reads[1].Buffer {
		t.Errorf("%s", p)
	}
}
