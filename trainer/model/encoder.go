package model

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
)

// Dropout sets some of a node's values to zero, where BERT does so in training; nil is none.
type Dropout func(x *graph.Node) *graph.Node

func (d Dropout) apply(x *graph.Node) *graph.Node {
	if d == nil {
		return x
	}
	return d(x)
}

// Embed is what the first layer takes: ids (R,L), L at most 512, to (R·L,C).
func Embed(c encoder.Config, p Params, ids *graph.Node, drop Dropout) *graph.Node {
	rows, chunk, d := ids.Shape().Dimensions[0], ids.Shape().Dimensions[1], c.HiddenSize
	words := graph.Gather(p["embeddings.word_embeddings.weight"], graph.ExpandAxes(graph.Reshape(ids, rows*chunk), -1))
	positions := graph.Slice(p["embeddings.position_embeddings.weight"], graph.AxisRange(0, chunk))
	types := graph.Slice(p["embeddings.token_type_embeddings.weight"], graph.AxisRange(0, 1))
	x := graph.Add(graph.Reshape(words, rows, chunk, d), graph.Reshape(graph.Add(positions, types), 1, chunk, d))
	return drop.apply(encoderNorm(c, p, "embeddings.LayerNorm", graph.Reshape(x, rows*chunk, d)))
}

// EncoderLayer is layer i: x (R·L,C), mask (R,K) -> (R·L,C). The mask is that of the first
// K of L tokens; those after them are padding, and nobody's keys.
func EncoderLayer(c encoder.Config, p Params, i int, x, mask *graph.Node, drop Dropout) *graph.Node {
	rows, keys, d, heads := mask.Shape().Dimensions[0], mask.Shape().Dimensions[1], c.HiddenSize, c.NumAttentionHeads
	chunk := x.Shape().Dimensions[0] / rows
	name := func(s string) string { return encoder.LayerKey(i, s) }
	linear := func(x *graph.Node, part string) *graph.Node {
		w := p[name(part)+".weight"]
		return graph.Add(graph.Dot(x, graph.Transpose(w, 0, 1)).MatMul(), graph.Reshape(p[name(part)+".bias"], 1, w.Shape().Dimensions[0]))
	}
	split := func(x *graph.Node) *graph.Node {
		return graph.TransposeAllAxes(graph.Reshape(x, rows, -1, heads, d/heads), 0, 2, 1, 3)
	}
	read := x
	if keys < chunk {
		read = graph.Slice(graph.Reshape(x, rows, chunk, d), graph.AxisRange(), graph.AxisRange(0, keys))
		read = graph.Reshape(read, rows*keys, d)
	}
	// A chunk of padding only has no key: its attention gives zeros, not a mean.
	key := graph.ConvertDType(mask, dtypes.Float32)
	bias := graph.Reshape(graph.MulScalar(graph.OneMinus(key), -1e30), rows, 1, 1, keys)
	some := graph.Reshape(graph.ReduceMax(key, 1), rows, 1, 1, 1)

	q, k, v := split(linear(x, "attention.self.query")), split(linear(read, "attention.self.key")), split(linear(read, "attention.self.value"))
	scores := graph.DivScalar(graph.Einsum("rhqd,rhkd->rhqk", q, k), math.Sqrt(float64(d/heads)))
	scores = drop.apply(graph.Mul(graph.Softmax(graph.Add(scores, bias), -1), some))
	mixed := graph.TransposeAllAxes(graph.Einsum("rhqk,rhkd->rhqd", scores, v), 0, 2, 1, 3)
	x = encoderNorm(c, p, name("attention.output.LayerNorm"),
		graph.Add(x, drop.apply(linear(graph.Reshape(mixed, rows*chunk, d), "attention.output.dense"))))
	y := linear(x, "intermediate.dense")
	y = graph.Mul(graph.MulScalar(y, 0.5), graph.OnePlus(graph.Erf(graph.MulScalar(y, math.Sqrt2/2))))
	return encoderNorm(c, p, name("output.LayerNorm"), graph.Add(x, drop.apply(linear(y, "output.dense"))))
}

func encoderNorm(c encoder.Config, p Params, name string, x *graph.Node) *graph.Node {
	d := c.HiddenSize
	return LayerNorm(x, graph.Reshape(p[name+".weight"], 1, d), graph.Reshape(p[name+".bias"], 1, d), c.LayerNormEps, 1)
}
