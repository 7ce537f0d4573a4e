package conformance

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// uniform is n values in -1..1, the same for one seed everywhere.
func uniform(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	values := make([]float32, n)
	for i := range values {
		values[i] = 2*r.Float32() - 1
	}
	return values
}

func scaled(values []float32, f float32) []float32 {
	for i := range values {
		values[i] *= f
	}
	return values
}

// rounded is what is left of the values in a storage type.
func rounded(values []float32, dtype string) []float32 {
	out := make([]float32, len(values))
	if quant.BlockBytes(dtype) > 0 {
		raw := make([]byte, quant.Size(dtype, int64(len(values))))
		if err := errors.Join(quant.Encode(dtype, values, raw), quant.Decode(dtype, raw, out)); err != nil {
			panic(err) // finite values, sizes that fit
		}
		return out
	}
	for i, v := range values {
		out[i] = v
		if dtype == "F16" {
			out[i] = safetensors.HalfToFloat(safetensors.FloatToHalf(v))
		}
	}
	return out
}

func gelu(v float64) float64 { return 0.5 * v * (1 + math.Erf(v/math.Sqrt2)) }

// convCase is a convolution at one size and under one set of limits.
type convCase struct {
	shape   [4]int
	axis    graph.Axis
	out, k  int
	dtype   string
	bias    bool
	gelu    bool
	binding int64 // 0: the default limits
	cost    int64 // 0: the default
	// features plans it for a device that has them.
	features bool
	// way is how it is computed; empty is as the cost model says, which for small shapes is
	// by direct summation.
	way graph.ConvWay
}

func (c convCase) name() string {
	name := fmt.Sprintf("%v axis%d out%d k%d %s", c.shape, c.axis, c.out, c.k, c.dtype)
	for _, f := range []struct {
		on   bool
		name string
	}{{c.bias, " bias"}, {c.gelu, " gelu"}, {c.binding > 0, fmt.Sprintf(" binding%d", c.binding)}, {c.cost > 0, fmt.Sprintf(" cost%d", c.cost)}, {c.features, " features"}, {c.way.Method != "", " " + c.way.String()}} {
		if f.on {
			name += f.name
		}
	}
	return name
}

var convCases = []convCase{
	// Every axis, sizes that divide nothing, kernels wider than the axes.
	{shape: [4]int{2, 3, 5, 7}, axis: graph.AxisN, out: 5, k: 3, dtype: "F32", bias: true},
	{shape: [4]int{2, 3, 5, 7}, axis: graph.AxisH, out: 9, k: 3, dtype: "F32"},
	{shape: [4]int{2, 3, 5, 7}, axis: graph.AxisW, out: 17, k: 3, dtype: "F32"},
	{shape: [4]int{1, 4, 3, 2}, axis: graph.AxisN, out: 1, k: 11, dtype: "F32", bias: true},
	{shape: [4]int{1, 4, 3, 2}, axis: graph.AxisH, out: 8, k: 11, dtype: "F32"},
	{shape: [4]int{1, 4, 3, 2}, axis: graph.AxisW, out: 8, k: 10, dtype: "F32"},
	{shape: [4]int{3, 1, 1, 1}, axis: graph.AxisN, out: 1, k: 1, dtype: "F32"},
	// The other kernel sizes, odd and even.
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisN, out: 12, k: 1, dtype: "F32", bias: true, gelu: true},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisN, out: 12, k: 2, dtype: "F32", bias: true},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisH, out: 12, k: 4, dtype: "F16"},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisW, out: 12, k: 5, dtype: "F32"},
	{shape: [4]int{1, 17, 9, 6}, axis: graph.AxisW, out: 12, k: 6, dtype: "F32"},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisN, out: 7, k: 7, dtype: "F16", bias: true},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisN, out: 7, k: 8, dtype: "F32", bias: true},
	{shape: [4]int{1, 13, 6, 11}, axis: graph.AxisH, out: 21, k: 9, dtype: "F32"},
	{shape: [4]int{1, 3, 2, 5}, axis: graph.AxisN, out: 3, k: 16, dtype: "F32", bias: true},
	{shape: [4]int{1, 2, 3, 4}, axis: graph.AxisN, out: 2, k: 63, dtype: "F16"},
	// Linear layers: read in place (width divisible by 8), and gathered.
	{shape: [4]int{1, 48, 1, 40}, axis: graph.AxisN, out: 33, k: 1, dtype: "F16", bias: true, gelu: true},
	{shape: [4]int{1, 37, 1, 50}, axis: graph.AxisW, out: 19, k: 1, dtype: "F32", bias: true},
	// Blocks of 32 weights: cut by outputs, by shards, and at the end.
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisH, out: 12, k: 4, dtype: "Q8"},
	{shape: [4]int{1, 5, 3, 9}, axis: graph.AxisN, out: 7, k: 3, dtype: "Q8", bias: true},
	{shape: [4]int{1, 48, 1, 40}, axis: graph.AxisN, out: 33, k: 1, dtype: "Q8", bias: true, gelu: true},
	{shape: [4]int{2, 30, 6, 8}, axis: graph.AxisN, out: 43, k: 2, dtype: "Q8", bias: true, binding: 4096},
	{shape: [4]int{2, 9, 6, 5}, axis: graph.AxisN, out: 61, k: 3, dtype: "Q8", binding: 4096},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisH, out: 12, k: 4, dtype: "Q4_1"},
	{shape: [4]int{1, 5, 3, 9}, axis: graph.AxisN, out: 7, k: 3, dtype: "Q4_1", bias: true},
	{shape: [4]int{1, 48, 1, 40}, axis: graph.AxisN, out: 33, k: 1, dtype: "Q4_1", bias: true, gelu: true},
	{shape: [4]int{2, 30, 6, 8}, axis: graph.AxisN, out: 43, k: 2, dtype: "Q4_1", bias: true, binding: 4096},
	// Sums cut into slices, with and without what finishes a sum.
	{shape: [4]int{1, 67, 5, 9}, axis: graph.AxisN, out: 10, k: 5, dtype: "F32", bias: true, gelu: true},
	{shape: [4]int{2, 9, 5, 70}, axis: graph.AxisW, out: 10, k: 5, dtype: "F16"},
	{shape: [4]int{1, 1030, 1, 24}, axis: graph.AxisN, out: 24, k: 1, dtype: "F32", bias: true},
	// Weights that stay f16.
	{shape: [4]int{1, 13, 6, 11}, axis: graph.AxisH, out: 21, k: 9, dtype: "F16", bias: true, features: true},
	{shape: [4]int{1, 48, 1, 40}, axis: graph.AxisN, out: 33, k: 1, dtype: "F16", bias: true, gelu: true, features: true},
	{shape: [4]int{2, 30, 6, 8}, axis: graph.AxisN, out: 43, k: 2, dtype: "F16", bias: true, binding: 4096, features: true},
	// Dispatches cut short: by tiles, and by steps of the channels in one slice and in many.
	{shape: [4]int{1, 3, 20, 33}, axis: graph.AxisN, out: 40, k: 3, dtype: "F32", bias: true, cost: 20_000},
	{shape: [4]int{2, 67, 5, 9}, axis: graph.AxisN, out: 20, k: 5, dtype: "F32", bias: true, cost: 100_000},
	{shape: [4]int{1, 5, 4, 9}, axis: graph.AxisN, out: 9, k: 5, dtype: "F32", bias: true, cost: 4000},
	// Bindings too small: tensors in several buffers, weights in shards, bands of rows,
	// bands of columns, for each of the axes.
	{shape: [4]int{6, 16, 4, 8}, axis: graph.AxisN, out: 24, k: 3, dtype: "F32", bias: true, binding: 5120},
	{shape: [4]int{6, 16, 4, 8}, axis: graph.AxisH, out: 15, k: 3, dtype: "F16", binding: 4096},
	{shape: [4]int{6, 16, 4, 8}, axis: graph.AxisW, out: 19, k: 3, dtype: "F32", binding: 4096},
	{shape: [4]int{2, 30, 6, 8}, axis: graph.AxisN, out: 43, k: 2, dtype: "F16", bias: true, binding: 4096},
	{shape: [4]int{1, 40, 8, 12}, axis: graph.AxisN, out: 61, k: 3, dtype: "F32", bias: true, binding: 12 << 10},
	{shape: [4]int{2, 83, 6, 5}, axis: graph.AxisH, out: 9, k: 4, dtype: "F32", binding: 4096},
	{shape: [4]int{2, 83, 6, 5}, axis: graph.AxisW, out: 9, k: 4, dtype: "F32", binding: 4096},
	{shape: [4]int{1, 90, 1, 61}, axis: graph.AxisW, out: 30, k: 1, dtype: "F32", bias: true, binding: 4096},
	{shape: [4]int{1, 170, 3, 7}, axis: graph.AxisW, out: 7, k: 5, dtype: "F32", binding: 8192},
	// In the frequency domain: every axis, each number of points, kernels odd and even, and
	// as wide as allowed; one tile that wraps around, several, and widths of one.
	{shape: [4]int{2, 3, 5, 7}, axis: graph.AxisN, out: 5, k: 3, dtype: "F32", bias: true, way: fourier(8, 8)},
	{shape: [4]int{2, 3, 25, 37}, axis: graph.AxisN, out: 5, k: 3, dtype: "F32", bias: true, way: fourier(8, 12)},
	{shape: [4]int{1, 20, 5, 31}, axis: graph.AxisH, out: 9, k: 9, dtype: "F32", way: fourier(24, 16)},
	{shape: [4]int{2, 17, 21, 6}, axis: graph.AxisW, out: 17, k: 9, dtype: "F16", way: fourier(16, 24)},
	{shape: [4]int{1, 6, 9, 59}, axis: graph.AxisN, out: 12, k: 11, dtype: "F32", bias: true, gelu: true, way: fourier(16, 32)},
	{shape: [4]int{1, 6, 49, 9}, axis: graph.AxisN, out: 12, k: 10, dtype: "Q8", bias: true, way: fourier(32, 16)},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisH, out: 12, k: 4, dtype: "Q8", way: fourier(8, 12)},
	{shape: [4]int{1, 6, 49, 9}, axis: graph.AxisN, out: 12, k: 10, dtype: "Q4_1", bias: true, way: fourier(32, 16)},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisW, out: 12, k: 2, dtype: "F16", bias: true, way: fourier(12, 8)},
	{shape: [4]int{1, 13, 1, 40}, axis: graph.AxisN, out: 7, k: 5, dtype: "F32", way: fourier(8, 8)},
	{shape: [4]int{1, 13, 40, 1}, axis: graph.AxisN, out: 7, k: 6, dtype: "F32", bias: true, way: fourier(24, 8)},
	{shape: [4]int{1, 5, 1, 1}, axis: graph.AxisN, out: 3, k: 11, dtype: "F32", way: fourier(12, 12)},
	{shape: [4]int{1, 3, 4, 5}, axis: graph.AxisH, out: 9, k: 16, dtype: "F32", bias: true, way: fourier(16, 16)},
	// Sums in slices, shards of the outputs, jobs of items and of bands, spectra in parts,
	// tensors in several buffers, products in several dispatches.
	{shape: [4]int{1, 150, 9, 17}, axis: graph.AxisN, out: 21, k: 5, dtype: "F32", bias: true, gelu: true, way: fourier(12, 12)},
	{shape: [4]int{5, 4, 13, 11}, axis: graph.AxisN, out: 43, k: 3, dtype: "F32", bias: true, binding: 40 << 10, way: fourier(8, 8)},
	{shape: [4]int{2, 5, 60, 14}, axis: graph.AxisN, out: 30, k: 4, dtype: "Q8", binding: 48 << 10, way: fourier(8, 12)},
	{shape: [4]int{2, 5, 60, 14}, axis: graph.AxisN, out: 30, k: 4, dtype: "Q4_1", binding: 48 << 10, way: fourier(8, 12)},
	{shape: [4]int{2, 30, 9, 20}, axis: graph.AxisH, out: 43, k: 3, dtype: "F16", binding: 40 << 10, way: fourier(8, 8)},
	{shape: [4]int{2, 40, 12, 6}, axis: graph.AxisW, out: 43, k: 3, dtype: "F32", bias: true, binding: 32 << 10, way: fourier(8, 8)},
	{shape: [4]int{1, 30, 20, 12}, axis: graph.AxisN, out: 20, k: 3, dtype: "F16", bias: true, binding: 64 << 10, way: fourier(8, 8)},
	{shape: [4]int{1, 5, 120, 14}, axis: graph.AxisN, out: 6, k: 4, dtype: "F32", binding: 48 << 10, way: fourier(8, 12)},
	{shape: [4]int{1, 19, 10, 40}, axis: graph.AxisN, out: 20, k: 9, dtype: "F32", bias: true, cost: 100_000, way: fourier(16, 16)},
	// As the cost model says: a plane that is large enough.
	{shape: [4]int{1, 24, 96, 20}, axis: graph.AxisW, out: 40, k: 9, dtype: "F32", bias: true},
}

// tileCases are summed directly with each tile: sizes that divide nothing, every axis, rows
// read in place and gathered, sums in slices and in steps, f16 kept and blocks of 32, and
// bindings too small.
var tileCases = []convCase{
	{shape: [4]int{2, 3, 5, 7}, axis: graph.AxisN, out: 5, k: 3, dtype: "F32", bias: true},
	{shape: [4]int{2, 3, 5, 23}, axis: graph.AxisH, out: 13, k: 3, dtype: "F16"},
	{shape: [4]int{2, 19, 5, 7}, axis: graph.AxisW, out: 17, k: 3, dtype: "F32"},
	{shape: [4]int{1, 13, 6, 27}, axis: graph.AxisH, out: 21, k: 9, dtype: "F16", bias: true, features: true},
	{shape: [4]int{1, 6, 9, 19}, axis: graph.AxisN, out: 12, k: 1, dtype: "F32", bias: true, gelu: true},
	{shape: [4]int{1, 48, 1, 40}, axis: graph.AxisN, out: 33, k: 1, dtype: "Q8", bias: true, gelu: true},
	{shape: [4]int{2, 47, 1, 48}, axis: graph.AxisN, out: 33, k: 1, dtype: "F16", bias: true, features: true},
	{shape: [4]int{1, 67, 5, 9}, axis: graph.AxisN, out: 10, k: 5, dtype: "F32", bias: true, gelu: true},
	{shape: [4]int{2, 67, 5, 25}, axis: graph.AxisN, out: 20, k: 5, dtype: "F32", bias: true, cost: 100_000},
	{shape: [4]int{1, 3, 20, 33}, axis: graph.AxisN, out: 40, k: 3, dtype: "F32", bias: true, cost: 20_000},
	{shape: [4]int{2, 9, 6, 5}, axis: graph.AxisN, out: 61, k: 3, dtype: "Q8", binding: 4096},
	{shape: [4]int{2, 9, 6, 5}, axis: graph.AxisN, out: 61, k: 3, dtype: "Q4_1", binding: 4096},
	{shape: [4]int{6, 16, 4, 8}, axis: graph.AxisW, out: 19, k: 3, dtype: "F32", binding: 4096},
	{shape: [4]int{6, 16, 4, 8}, axis: graph.AxisH, out: 15, k: 3, dtype: "F16", binding: 4096},
	{shape: [4]int{1, 90, 1, 61}, axis: graph.AxisW, out: 30, k: 1, dtype: "F32", bias: true, binding: 4096},
	{shape: [4]int{1, 170, 3, 7}, axis: graph.AxisW, out: 7, k: 5, dtype: "F32", binding: 8192},
}

func fourier(rows, columns int) graph.ConvWay {
	return graph.ConvWay{Method: graph.Fourier, Rows: rows, Columns: columns}
}

func (c convCase) build() (Case, error) {
	limits := bound(c.binding)
	if c.features {
		limits = featured(limits)
	}
	limits.Tuning = &graph.Tuning{All: c.way}
	b := graph.NewBuilder(limits)
	if c.cost > 0 {
		b.MaxCost = c.cost
	}
	x := b.Input("x", c.shape)
	spec := graph.Conv{Label: "conv", Weight: "w", DType: c.dtype, Axis: c.axis, Out: c.out, K: c.k, GELU: c.gelu}
	if c.bias {
		spec.Bias = "bias"
	}
	b.Read("y", b.Conv(x, spec))
	p, err := b.Program()
	if err != nil {
		return Case{}, fmt.Errorf("%s: %w", c.name(), err)
	}
	transformed := slices.ContainsFunc(p.Kernels, func(k graph.Kernel) bool { return k.Label == "fourierproduct" })
	tiled := slices.ContainsFunc(p.Kernels, func(k graph.Kernel) bool { return strings.Contains(k.Label, "PositionFours") })
	if c.way.Method != "" && transformed != (c.way.Method == graph.Fourier) || tiled != (c.way.Tile != graph.Tile{}) {
		return Case{}, fmt.Errorf("%s: planned the other way", c.name())
	}
	channels := c.shape[1+int(c.axis)]
	// Weights of a size that keeps results of order one.
	w := scaled(uniform(2, c.out*channels*c.k*c.k), float32(math.Sqrt(3/float64(channels*c.k*c.k))))
	values, bias := uniform(1, int(x.Elements())), uniform(3, c.out)
	want := convolve(values, c.shape, rounded(w, c.dtype), bias, c)
	return Case{
		Name: c.name(), Program: p,
		Weights: Tensors{"w": w, "bias": bias},
		Inputs:  []graph.Input{{Name: "x", Data: Floats(values)}},
		Want:    []Want{{Name: "y", Values: want, Tolerance: 4e-6}},
	}, nil
}

// convolve is the definition, in float64.
func convolve(x []float32, shape [4]int, w, bias []float32, c convCase) []float32 {
	to := shape
	to[1+int(c.axis)] = c.out
	// The plane's two axes, in order, and the channel axis.
	axes := map[graph.Axis][3]int{graph.AxisN: {1, 2, 3}, graph.AxisH: {2, 1, 3}, graph.AxisW: {3, 2, 1}}[c.axis]
	channels, pad := shape[axes[0]], (c.k-1)/2
	y := make([]float32, to[0]*to[1]*to[2]*to[3])
	for at := range y {
		at4 := [4]int{at / (to[1] * to[2] * to[3]), at / (to[2] * to[3]) % to[1], at / to[3] % to[2], at % to[3]}
		o, p, q := at4[axes[0]], at4[axes[1]], at4[axes[2]]
		sum := 0.0
		for ch := range channels {
			for i := range c.k {
				for j := range c.k {
					from := at4
					from[axes[0]], from[axes[1]], from[axes[2]] = ch, p+i-pad, q+j-pad
					if from[axes[1]] < 0 || from[axes[1]] >= shape[axes[1]] || from[axes[2]] < 0 || from[axes[2]] >= shape[axes[2]] {
						continue
					}
					v := x[((from[0]*shape[1]+from[1])*shape[2]+from[2])*shape[3]+from[3]]
					sum += float64(v) * float64(w[((o*channels+ch)*c.k+i)*c.k+j])
				}
			}
		}
		if c.bias {
			sum += float64(bias[o])
		}
		if c.gelu {
			sum = gelu(sum)
		}
		y[at] = float32(sum)
	}
	return y
}

func convolutions() ([]Case, error) {
	var cases []Case
	list := convCases
	for _, tile := range graph.Tiles() {
		for _, c := range tileCases {
			c.way = graph.ConvWay{Method: graph.Direct, Tile: tile}
			list = append(list[:len(list):len(list)], c)
		}
	}
	for _, c := range list {
		built, err := c.build()
		if err != nil {
			return nil, err
		}
		cases = append(cases, built)
	}
	return cases, nil
}
