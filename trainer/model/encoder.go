package model

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graphs read as formulas

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// maxChunk is the longest sequence; longer texts are read as several (a.2).
const maxChunk = 512

// Encode is the text encoder: ids and mask, int32 (N,L), to the condition (N,L,C). Pads
// is one of generator's two treatments of pad positions.
func Encode(c encoder.Config, p Params, ids, mask *Node, pads string) *Node {

	n, l := ids.Shape().Dimensions[0], ids.Shape().Dimensions[1]
	chunk := min(l, maxChunk)
	rows := n * l / chunk
	ids, mask = Reshape(ids, rows, chunk), Reshape(mask, rows, chunk)
	d, heads := c.HiddenSize, c.NumAttentionHeads

	norm := func(x *Node, name string) *Node {
		return LayerNorm(x, Reshape(p[name+".weight"], 1, d), Reshape(p[name+".bias"], 1, d), c.LayerNormEps, 1)
	}
	linear := func(x *Node, name string) *Node {
		w := p[name+".weight"]
		return Add(Dot(x, Transpose(w, 0, 1)).MatMul(), Reshape(p[name+".bias"], 1, w.Shape().Dimensions[0]))
	}
	words := Gather(p["embeddings.word_embeddings.weight"], ExpandAxes(Reshape(ids, rows*chunk), -1))
	positions := Slice(p["embeddings.position_embeddings.weight"], AxisRange(0, chunk))
	types := Slice(p["embeddings.token_type_embeddings.weight"], AxisRange(0, 1))
	x := Add(Reshape(words, rows, chunk, d), Reshape(Add(positions, types), 1, chunk, d))
	x = norm(Reshape(x, rows*chunk, d), "embeddings.LayerNorm")

	// A chunk of padding only has no key: its attention gives zeros, not a mean.
	key := ConvertDType(mask, dtypes.Float32)
	bias := Reshape(MulScalar(OneMinus(key), -1e30), rows, 1, 1, chunk)
	any := Reshape(ReduceMax(key, 1), rows, 1, 1, 1)
	split := func(x *Node) *Node { return TransposeAllAxes(Reshape(x, rows, chunk, heads, d/heads), 0, 2, 1, 3) }
	for i := range c.NumHiddenLayers {
		name := func(s string) string { return encoder.LayerKey(i, s) }
		q, k, v := split(linear(x, name("attention.self.query"))), split(linear(x, name("attention.self.key"))), split(linear(x, name("attention.self.value")))
		scores := DivScalar(Einsum("rhqd,rhkd->rhqk", q, k), math.Sqrt(float64(d/heads)))
		scores = Mul(Softmax(Add(scores, bias), -1), any)
		mixed := TransposeAllAxes(Einsum("rhqk,rhkd->rhqd", scores, v), 0, 2, 1, 3)
		x = norm(Add(x, linear(Reshape(mixed, rows*chunk, d), name("attention.output.dense"))), name("attention.output.LayerNorm"))
		y := linear(x, name("intermediate.dense"))
		y = Mul(MulScalar(y, 0.5), OnePlus(Erf(MulScalar(y, math.Sqrt2/2))))
		x = norm(Add(x, linear(y, name("output.dense"))), name("output.LayerNorm"))
	}
	x = Reshape(x, n, l, d)
	if pads == generator.PadsZero {
		x = Mul(x, Reshape(ConvertDType(mask, dtypes.Float32), n, l, 1))
	}
	return x
}
