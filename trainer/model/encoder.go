package model

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// maxChunk is the longest sequence; longer texts are read as several (a.2).
const maxChunk = 512

// Encode is the text encoder: ids and mask, int32 (N,L), to the condition (N,L,C). Pads
// is one of generator's two treatments of pad positions.
func Encode(c encoder.Config, p Params, ids, mask *graph.Node, pads string) *graph.Node {

	n, l := ids.Shape().Dimensions[0], ids.Shape().Dimensions[1]
	chunk := min(l, maxChunk)
	rows := n * l / chunk
	ids, mask = graph.Reshape(ids, rows, chunk), graph.Reshape(mask, rows, chunk)
	d, heads := c.HiddenSize, c.NumAttentionHeads

	norm := func(x *graph.Node, name string) *graph.Node {
		return LayerNorm(x, graph.Reshape(p[name+".weight"], 1, d), graph.Reshape(p[name+".bias"], 1, d), c.LayerNormEps, 1)
	}
	linear := func(x *graph.Node, name string) *graph.Node {
		w := p[name+".weight"]
		return graph.Add(graph.Dot(x, graph.Transpose(w, 0, 1)).MatMul(), graph.Reshape(p[name+".bias"], 1, w.Shape().Dimensions[0]))
	}
	words := graph.Gather(p["embeddings.word_embeddings.weight"], graph.ExpandAxes(graph.Reshape(ids, rows*chunk), -1))
	positions := graph.Slice(p["embeddings.position_embeddings.weight"], graph.AxisRange(0, chunk))
	types := graph.Slice(p["embeddings.token_type_embeddings.weight"], graph.AxisRange(0, 1))
	x := graph.Add(graph.Reshape(words, rows, chunk, d), graph.Reshape(graph.Add(positions, types), 1, chunk, d))
	x = norm(graph.Reshape(x, rows*chunk, d), "embeddings.LayerNorm")

	// A chunk of padding only has no key: its attention gives zeros, not a mean.
	key := graph.ConvertDType(mask, dtypes.Float32)
	bias := graph.Reshape(graph.MulScalar(graph.OneMinus(key), -1e30), rows, 1, 1, chunk)
	some := graph.Reshape(graph.ReduceMax(key, 1), rows, 1, 1, 1)
	split := func(x *graph.Node) *graph.Node {
		return graph.TransposeAllAxes(graph.Reshape(x, rows, chunk, heads, d/heads), 0, 2, 1, 3)
	}
	for i := range c.NumHiddenLayers {
		name := func(s string) string { return encoder.LayerKey(i, s) }
		q, k, v := split(linear(x, name("attention.self.query"))), split(linear(x, name("attention.self.key"))), split(linear(x, name("attention.self.value")))
		scores := graph.DivScalar(graph.Einsum("rhqd,rhkd->rhqk", q, k), math.Sqrt(float64(d/heads)))
		scores = graph.Mul(graph.Softmax(graph.Add(scores, bias), -1), some)
		mixed := graph.TransposeAllAxes(graph.Einsum("rhqk,rhkd->rhqd", scores, v), 0, 2, 1, 3)
		x = norm(graph.Add(x, linear(graph.Reshape(mixed, rows*chunk, d), name("attention.output.dense"))), name("attention.output.LayerNorm"))
		y := linear(x, name("intermediate.dense"))
		y = graph.Mul(graph.MulScalar(y, 0.5), graph.OnePlus(graph.Erf(graph.MulScalar(y, math.Sqrt2/2))))
		x = norm(graph.Add(x, linear(y, name("output.dense"))), name("output.LayerNorm"))
	}
	x = graph.Reshape(x, n, l, d)
	if pads == generator.PadsZero {
		x = graph.Mul(x, graph.Reshape(graph.ConvertDType(mask, dtypes.Float32), n, l, 1))
	}
	return x
}
