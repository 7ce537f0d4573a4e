package conformance

import (
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// planeCases are the kernels that work on a decoder's planes.
func planeCases() ([]Case, error) {
	var cases []Case
	add := func(c Case, err error) error {
		cases = append(cases, c)
		return err
	}
	for _, binding := range []int64{0, 4096} {
		for _, shape := range [][4]int{{1, 1, 1, 1}, {2, 3, 5, 7}, {1, 40, 9, 6}, {3, 9, 1, 100}} {
			if err := add(layerNormCase(shape, bound(binding), 0)); err != nil {
				return nil, err
			}
			if err := add(combineCase(shape, binding)); err != nil {
				return nil, err
			}
			if err := add(affineCase(shape, binding)); err != nil {
				return nil, err
			}
		}
	}
	// Rows longer than a workgroup, and a mean a thousand times the deviation.
	if err := add(layerNormCase([4]int{1, 3, 113, 79}, bound(0), 0)); err != nil {
		return nil, err
	}
	if err := add(layerNormCase([4]int{1, 3, 113, 79}, featured(bound(0)), 0)); err != nil {
		return nil, err
	}
	if err := add(layerNormCase([4]int{2, 3, 5, 7}, featured(bound(0)), 0)); err != nil {
		return nil, err
	}
	return cases, add(layerNormCase([4]int{1, 2, 31, 33}, bound(0), 1000))
}

// bound are the default limits, with bindings of at most binding bytes if it is not 0.
func bound(binding int64) graph.Limits {
	limits := graph.DefaultLimits()
	if binding > 0 {
		limits.MaxStorageBufferBindingSize = binding
	}
	return limits
}

// featured are a device's limits that has each feature which kernels may use.
func featured(limits graph.Limits) graph.Limits {
	limits.ShaderF16, limits.Subgroups = true, true
	return limits
}

func build(name string, limits graph.Limits, body func(*graph.Builder)) (*graph.Program, error) {
	b := graph.NewBuilder(limits)
	body(b)
	p, err := b.Program()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

func layerNormCase(shape [4]int, limits graph.Limits, mean float32) (Case, error) {
	name := fmt.Sprintf("layernorm/%v mean%v binding%d", shape, mean, limits.MaxStorageBufferBindingSize)
	if limits.Subgroups {
		name += " features"
	}
	p, err := build(name, limits, func(b *graph.Builder) {
		b.Read("y", b.LayerNorm("norm", b.Input("x", shape), "weight", "bias", 1e-5))
	})
	plane := shape[2] * shape[3]
	x, weight, bias := uniform(1, shape[0]*shape[1]*plane), uniform(2, plane), uniform(3, plane)
	for i := range x {
		x[i] += mean
	}
	want := make([]float32, len(x))
	for row := 0; row < len(x); row += plane {
		normalise(plane, 1e-5,
			func(i int) float64 { return float64(x[row+i]) },
			func(i int, v float64) { want[row+i] = float32(v*float64(weight[i]) + float64(bias[i])) })
	}
	return Case{
		Name: name, Program: p, Weights: Tensors{"weight": weight, "bias": bias},
		Inputs: []graph.Input{{Name: "x", Data: Floats(x)}},
		Want:   []Want{{Name: "y", Values: want, Tolerance: 2e-6 + 1e-6*float64(mean)}},
	}, err
}

func normalise(n int, eps float64, get func(int) float64, set func(int, float64)) {
	mean, variance := 0.0, 0.0
	for i := range n {
		mean += get(i) / float64(n)
	}
	for i := range n {
		variance += (get(i) - mean) * (get(i) - mean) / float64(n)
	}
	for i := range n {
		set(i, (get(i)-mean)/math.Sqrt(variance+eps))
	}
}

func combineCase(shape [4]int, binding int64) (Case, error) {
	name := fmt.Sprintf("combine and add/%v binding%d", shape, binding)
	p, err := build(name, bound(binding), func(b *graph.Builder) {
		x, y := b.Input("x", shape), b.Input("y", shape)
		b.Read("z", b.Combine("combine", x, y, "bias"))
		b.Read("sum", b.Add("add", x, y))
	})
	plane := shape[2] * shape[3]
	n := shape[0] * shape[1] * plane
	x, y, bias := uniform(1, n), uniform(2, n), uniform(3, plane)
	// From the flat part of tanh to the steep one, and where exp overflows.
	for i := range y {
		y[i] *= []float32{1, 10, 1e-3, 0, 100, 3e38, 0.7}[i%7]
	}
	want, sum := make([]float32, n), make([]float32, n)
	for i := range want {
		want[i] = float32((float64(x[i]) + math.Tanh(float64(y[i])) + float64(bias[i%plane])) / 3)
		sum[i] = x[i] + y[i]
	}
	return Case{
		Name: name, Program: p, Weights: Tensors{"bias": bias},
		Inputs: []graph.Input{{Name: "x", Data: Floats(x)}, {Name: "y", Data: Floats(y)}},
		Want:   []Want{{Name: "z", Values: want, Tolerance: 3e-7}, {Name: "sum", Values: sum}},
	}, err
}

func affineCase(shape [4]int, binding int64) (Case, error) {
	name := fmt.Sprintf("affine/%v binding%d", shape, binding)
	p, err := build(name, bound(binding), func(b *graph.Builder) {
		b.Read("z", b.Affine("affine", b.Input("y", shape), "scale", "offset"))
	})
	plane := shape[2] * shape[3]
	y, scale, offset := uniform(1, shape[0]*shape[1]*plane), uniform(2, shape[1]), uniform(3, shape[1]*plane)
	want := make([]float32, len(y))
	for i := range y {
		want[i] = float32(float64(y[i])*float64(scale[i/plane%shape[1]]) + float64(offset[i%len(offset)]))
	}
	return Case{
		Name: name, Program: p, Weights: Tensors{"scale": scale, "offset": offset},
		Inputs: []graph.Input{{Name: "y", Data: Floats(y)}},
		Want:   []Want{{Name: "z", Values: want, Tolerance: 2e-7}},
	}, err
}
