package conformance

import (
	"fmt"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// tokenCase is the encoder's kernels at one size: embeddings into a matrix, attention
// over it, normalised with a residual into a condition.
type tokenCase struct {
	chunks, length int
	heads, width   int
	dtype          string
	binding        int64
}

func tokenCases() ([]Case, error) {
	var cases []Case
	for _, c := range []tokenCase{
		{chunks: 3, length: 13, heads: 2, width: 32, dtype: "F32"},
		{chunks: 2, length: 16, heads: 3, width: 5, dtype: "F16"},
		{chunks: 1, length: 70, heads: 2, width: 64, dtype: "F32"},
		{chunks: 2, length: 1, heads: 1, width: 128, dtype: "F16"},
		{chunks: 2, length: 9, heads: 4, width: 8, dtype: "F16", binding: 4096},
		{chunks: 2, length: 16, heads: 3, width: 5, dtype: "Q8"},
		{chunks: 2, length: 9, heads: 4, width: 8, dtype: "Q8", binding: 4096},
	} {
		built, err := c.build()
		if err != nil {
			return nil, err
		}
		cases = append(cases, built)
	}
	return cases, nil
}

const tokenVocabulary = 101

func (c tokenCase) build() (Case, error) {
	name := fmt.Sprintf("%dx%d heads%dx%d %s binding%d", c.chunks, c.length, c.heads, c.width, c.dtype, c.binding)
	channels := c.heads * c.width
	p, err := build(name, bound(c.binding), func(b *graph.Builder) {
		n := c.chunks * c.length
		// The last chunk of the inputs is not used: ranges must be kept to.
		ids, mask := b.InputWords("ids", n+c.length), b.InputWords("mask", n+c.length)
		chunks := graph.Chunks{Count: c.chunks, Length: c.length}
		x := b.Embed(ids, chunks, graph.Embedding{Label: "embed", Word: "word", DType: c.dtype, Position: "position", Type: "type",
			Vocabulary: tokenVocabulary, Channels: channels, PositionTokens: c.length})
		b.Read("embed", x)
		norm := b.TokenNorm("norm", x, nil, "weight", "bias", 1e-12)
		b.Read("norm", norm)
		b.Read("attention", b.Attention("attention", x, norm, x, mask, chunks, c.heads, false))
		// The same without work for hidden tokens.
		b.Read("attention skips", b.Attention("attention", x, norm, x, mask, chunks, c.heads, true))
		b.Read("linear skips", b.Linear(norm, "linear", "linear", "F32", "bias", channels, true, &graph.Pads{Mask: mask, Chunks: chunks}))
		condition := b.Tensor("condition", [4]int{1, c.chunks, c.length, channels})
		// One chunk at a time into its place.
		for i := range c.chunks {
			one := graph.Chunks{First: i, Count: 1, Length: c.length}
			b.TokenNormInto("into", condition, one, b.Embed(ids, one, graph.Embedding{Label: "embed", Word: "word", DType: c.dtype,
				Position: "position", Type: "type", Vocabulary: tokenVocabulary, Channels: channels, PositionTokens: c.length}),
				nil, "weight", "bias", 1e-12)
		}
		b.MaskPads("mask", condition, mask)
		b.Read("condition", condition)
	})
	ids, mask := make([]uint32, c.chunks*c.length+c.length), make([]uint32, c.chunks*c.length+c.length)
	for i := range ids {
		ids[i] = uint32(i*37) % tokenVocabulary
		// Keys in all chunks but the second, which has none.
		if i%c.length < (c.length*2+2)/3 && i/c.length != 1 {
			mask[i] = 1
		}
	}
	w := Tensors{
		"word": uniform(1, tokenVocabulary*channels), "position": uniform(2, c.length*channels), "type": uniform(3, 2*channels),
		"weight": uniform(4, channels), "bias": uniform(5, channels), "linear": scaled(uniform(6, channels*channels), float32(1/math.Sqrt(float64(channels)))),
	}
	x := embed(c, ids, w)
	norm := make([]float64, len(x))
	for t := range c.chunks * c.length {
		normalise(channels, 1e-12,
			func(i int) float64 { return x[t*channels+i] },
			func(i int, v float64) { norm[t*channels+i] = v*float64(w["weight"][i]) + float64(w["bias"][i]) })
	}
	condition := make([]float32, len(norm))
	for i, v := range norm {
		if mask[i/channels] != 0 {
			condition[i] = float32(v)
		}
	}
	attended, all := c.attend(x, norm, mask), slices.Repeat([]uint32{1}, len(mask))
	return Case{
		Name: name, Program: p, Weights: w,
		Inputs: []graph.Input{{Name: "ids", Data: Words(ids)}, {Name: "mask", Data: Words(mask)}},
		Want: []Want{
			c.matrix("embed", x, all, 5e-7), c.matrix("norm", norm, all, 2e-6), c.matrix("attention", attended, all, 2e-6),
			c.matrix("attention skips", attended, mask, 2e-6), c.matrix("linear skips", c.linear(norm, w), mask, 4e-6),
			{Name: "condition", Values: condition, Tolerance: 2e-6},
		},
	}, err
}

func embed(c tokenCase, ids []uint32, w Tensors) []float64 {
	channels := c.heads * c.width
	word := rounded(w["word"], c.dtype)
	x := make([]float64, c.chunks*c.length*channels)
	for i := range x {
		t, ch := i/channels, i%channels
		x[i] = float64(word[int(ids[t])*channels+ch]) + float64(w["position"][t%c.length*channels+ch]) + float64(w["type"][ch])
	}
	return x
}

// attend has queries and values x and keys k, all [token][channel].
func (c tokenCase) attend(x, k []float64, mask []uint32) []float64 {
	channels := c.heads * c.width
	y := make([]float64, len(x))
	for t := range c.chunks * c.length {
		first := t / c.length * c.length
		for h := range c.heads {
			weights, sum, top := make([]float64, c.length), 0.0, math.Inf(-1)
			for l := range weights {
				for d := h * c.width; d < (h+1)*c.width; d++ {
					weights[l] += x[t*channels+d] * k[(first+l)*channels+d] / math.Sqrt(float64(c.width))
				}
				if mask[first+l] != 0 {
					top = math.Max(top, weights[l])
				}
			}
			for l := range weights {
				if mask[first+l] == 0 {
					continue
				}
				p := math.Exp(weights[l] - top)
				sum += p
				for d := h * c.width; d < (h+1)*c.width; d++ {
					y[t*channels+d] += p * x[(first+l)*channels+d]
				}
			}
			for d := h * c.width; d < (h+1)*c.width; d++ {
				if sum > 0 {
					y[t*channels+d] /= sum
				}
			}
		}
	}
	return y
}

// linear is GELU of a linear layer from the channels to as many.
func (c tokenCase) linear(x []float64, w Tensors) []float64 {
	channels := c.heads * c.width
	y := make([]float64, len(x))
	for i := range y {
		t, o := i/channels, i%channels
		sum := float64(w["bias"][o])
		for ch := range channels {
			sum += float64(w["linear"][o*channels+ch]) * x[t*channels+ch]
		}
		y[i] = gelu(sum)
	}
	return y
}

// matrix compares the tokens of a channel-major matrix that have no 0 in the mask, and not
// the padding between chunks, by rows of one value.
func (c tokenCase) matrix(name string, v []float64, mask []uint32, tolerance float64) Want {
	channels := c.heads * c.width
	chunks := graph.Chunks{Count: c.chunks, Length: c.length}
	w := Want{Name: name, Tolerance: tolerance, Width: 1, Rows: []int{}}
	for t := range c.chunks * c.length {
		if mask[t] == 0 {
			continue
		}
		for ch := range channels {
			w.Rows = append(w.Rows, ch*chunks.Tokens()+t/c.length*chunks.Period()+t%c.length)
			w.Values = append(w.Values, float32(v[t*channels+ch]))
		}
	}
	return w
}
