package fit

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// regression is where Config.LinearStart starts: the coordinates of a data set are its prompts'
// mean feature times weight (r,C), plus bias (r).
type regression struct {
	weight, bias []float32
	// leverage is how much a data set's own value counts in its prediction, of 1, which coordinates
	// (r) stand for; one a data set.
	leverage    []float32
	coordinates [][]float32
	// spreads are how far the data sets lie apart in each principal direction, of the first.
	spreads []float32
}

// linear is whether the decoder is one that regression can be placed in.
func (c *Config) linear() bool {
	f := c.Decoder.Features
	return len(f) == 2 && c.Decoder.KernelSize == 1 && c.Decoder.Class == decoder.FullCond && f[1] == [3]int{1, 1, c.Decoder.Rank()}
}

// basisUnit is what a unit of the basis' change stands for, so that at LearningRate it moves
// by BasisRate.
func (c *Config) basisUnit() float64 { return c.BasisRate / c.LearningRate }

// regress finds the principal directions of the data sets' conditions, of which it gives the data
// sets' coordinates.
func regress(c *Config, encoded [][][]float32) (*regression, [][]float64, error) {
	in, rank := c.Decoder.Condition(), c.Decoder.Rank()
	means := make([][]float64, len(encoded))
	for i, prompts := range encoded {
		means[i] = make([]float64, in[2])
		for _, condition := range prompts {
			addFeature(means[i], condition, 1/float64(len(prompts)))
		}
	}
	center := linear.Mean(means)
	rows := make([][]float32, len(means))
	for i, mean := range means {
		for k, v := range mean {
			rows[i] = append(rows[i], float32(v-center[k]))
		}
	}
	coordinates, spreads, err := linear.Principal(rows, rank)
	if err != nil {
		return nil, nil, fmt.Errorf("fit: the data sets' conditions: %w", err)
	}
	// A direction u in the span of the rows has the coordinates rows·u: for coordinates z of mean
	// square 1 and rows = z·s·directions that is u = direction/s.
	r := &regression{weight: make([]float32, rank*in[2]), bias: make([]float32, rank)}
	for _, v := range spreads {
		r.spreads = append(r.spreads, float32(v))
	}
	share := linear.Kept(spreads, len(rows), rank, c.LinearStrength)
	span := linear.Span(rows, coordinates)
	for j := range rank {
		square := 0.0
		for k := range in[2] {
			square += float64(span[k*rank+j]) * float64(span[k*rank+j])
		}
		if !(spreads[j] > roundingSpread) {
			return nil, nil, fmt.Errorf("fit: the data sets' conditions differ in %d directions, fewer than the %d of the decoder's basis", j, rank)
		}
		bias := 0.0
		for k := range in[2] {
			v := share[j] * float64(span[k*rank+j]) / square
			r.weight[j*in[2]+k] = float32(v)
			bias -= v * center[k]
		}
		r.bias[j] = float32(bias)
	}
	for _, z := range coordinates {
		h, at := 1.0, make([]float32, rank)
		for j, v := range z {
			h += share[j] * v * v
			at[j] = float32(share[j] * v)
		}
		r.leverage = append(r.leverage, float32(h/float64(len(coordinates))))
		r.coordinates = append(r.coordinates, at)
	}
	return r, coordinates, nil
}

// tensors are what readRegression reads.
func (r *regression) tensors() []safetensors.Tensor {
	n, rank := len(r.leverage), len(r.bias)
	return []safetensors.Tensor{
		safetensors.FromFloat32s("start.weight", safetensors.F32, r.weight, rank, len(r.weight)/rank),
		safetensors.FromFloat32s("start.bias", safetensors.F32, r.bias, rank),
		safetensors.FromFloat32s("start.leverage", safetensors.F32, r.leverage, n),
		safetensors.FromFloat32s("start.coordinates", safetensors.F32, slices.Concat(r.coordinates...), n, rank),
		safetensors.FromFloat32s("start.spreads", safetensors.F32, r.spreads, len(r.spreads)),
	}
}

// readRegression is nil where no regression was written, or there is no basis that it could be in.
func readRegression(f *safetensors.File, c decoder.Config) (*regression, error) {
	r, rank := &regression{}, c.Rank()
	if _, ok := f.Lookup("start.weight"); !ok || rank == 0 {
		return nil, nil
	}
	var all [5]error
	r.weight, all[0] = f.Shaped("start.weight", rank, c.Features[0][2])
	r.bias, all[1] = f.Shaped("start.bias", rank)
	r.leverage, all[2] = f.Float32s("start.leverage")
	r.spreads, all[3] = f.Float32s("start.spreads")
	if _, ok := f.Lookup("start.coordinates"); ok { // not in a run of before LinearStrength
		var z []float32
		z, all[4] = f.Shaped("start.coordinates", len(r.leverage), rank)
		r.coordinates = slices.Collect(slices.Chunk(z, rank))
	}
	return r, errors.Join(all[:]...)
}

// roundingSpread is the share of the first direction's spread below which one is rounding.
const roundingSpread = 1e-5

// maxLeverage is the leverage from which on Config.LeaveOut would divide by rounding: the other data
// sets say nothing of such a one.
const maxLeverage = 0.99

// separable names the first data set that regression cannot leave out, for lack of others.
func (r *regression) separable(d *Data) error {
	for i, h := range r.leverage {
		if h > maxLeverage {
			return fmt.Errorf("fit: leave_out, but what is generated for data set %s in %d directions hangs on its own checkpoints alone: add data sets, or let the decoder's basis have fewer directions",
				d.Sets[i].Name, len(r.bias))
		}
	}
	return nil
}

// addFeature adds a share of what a hyper-convolution block makes of one prompt's condition (L,C)
// before any weight that is not 1 or 0: its layer norm's mean over the text tokens.
func addFeature(sum []float64, condition []float32, share float64) {
	n := float64(len(condition))
	mean, square := 0.0, 0.0
	for _, v := range condition {
		mean += float64(v) / n
	}
	for _, v := range condition {
		d := float64(v) - mean
		square += d * d / n
	}
	tokens := len(condition) / len(sum)
	scale := share / math.Sqrt(square+decoder.Eps) / float64(tokens)
	for i, v := range condition {
		sum[i%len(sum)] += (float64(v) - mean) * scale
	}
}

// place sets the weights of a decoder's only block, in the order of weights, so that its output is
// the coordinates: its first branch takes them of every prompt and text token, and the means. The
// other branch, of tanh, is silent, but learns: only the second of its convolutions is zero.
func (r *regression) place(c decoder.Config, all [][]float32) {
	in := c.Features[0]
	fill := func(list []float32, v float32) {
		for i := range list {
			list[i] = v
		}
	}
	copy(all[0], r.bias)
	copy(all[3], r.weight)
	fill(all[4], 1/float32(in[1]))
	clear(all[6])
	fill(all[7], 3/float32(in[0])) // a block divides by 3
	clear(all[8])
}
