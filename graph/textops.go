package graph

import (
	"math"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// Chunks are the token sequences that a text encoder works on at a time: Count chunks of
// Length tokens each, from chunk First on in the inputs of ids and mask.
//
// Inside of the encoder they are a matrix of shape (1, channels, 1, Tokens): channel-major,
// so that a linear layer reads it as it is, every chunk padded to Period tokens.
type Chunks struct {
	First, Count, Length int
}

// Period is the chunk length that the kernels' vec4 loads want.
func (c Chunks) Period() int { return (c.Length + 7) &^ 7 }

// Tokens is the width of the matrix.
func (c Chunks) Tokens() int { return c.Count * c.Period() }

// Embedding names the tables of a BERT's input.
type Embedding struct {
	Label          string
	Word           string // (Vocabulary, Channels), delivered as DType
	DType          string
	Position       string // (at least the chunk length, Channels)
	Type           string // (types, Channels), of which the first is used
	Vocabulary     int
	Channels       int
	PositionTokens int
}

// Embed sums the embeddings of each token.
func (b *Builder) Embed(ids Words, c Chunks, e Embedding) *Tensor {
	y := b.Tensor(e.Label, [4]int{1, e.Channels, 1, c.Tokens()})
	if c.Length > e.PositionTokens || ids.count < (c.First+c.Count)*c.Length {
		b.failf("%s: chunks %+v need %d positions and %d ids, there are %d and %d",
			e.Label, c, c.Length, (c.First+c.Count)*c.Length, e.PositionTokens, ids.count)
	}
	if !b.matrix(e.Label, y) {
		return y
	}
	s := storages[e.DType]
	if s.values == 0 {
		b.failf("%s: %s as %q, expected F32, F16, Q8 or Q4_1", e.Label, e.Word, e.DType)
		return y
	}
	k := b.kernel("embed", wgsl.Const{Name: "Store", Value: s.store})
	row := int64(e.Channels)
	// One unit less, since a part may begin and end within one.
	per := (b.scratchLimit()/s.bytes - 1) * s.values / row
	if per <= 0 {
		b.failf("%s: a row of %s has %d values", e.Label, e.Word, row)
		return y
	}
	position := b.vector(e.Position, c.Length*e.Channels)
	kind := b.vector(e.Type, e.Channels)
	for first := int64(0); first < int64(e.Vocabulary); first += per {
		rows := min(per, int64(e.Vocabulary)-first)
		word, base := b.weightValues(e.Word, e.DType, first*row, rows*row, int64(e.Vocabulary)*row)
		b.dispatch(e.Label, k, [3]int64{ceil(int64(c.Tokens()), int64(k.Workgroup)), int64(e.Channels), 1},
			4*int64(c.Tokens())*int64(e.Channels), []int{ids.buffer, word, position, kind, y.parts[0].buffer},
			arg{"tokens", int64(c.Tokens())}, arg{"period", int64(c.Period())}, arg{"length", int64(c.Length)},
			arg{"ids_base", int64(c.First) * int64(c.Length)}, arg{"vocabulary", int64(e.Vocabulary)},
			arg{"first", first}, arg{"rows", rows}, arg{"base", base}, arg{"channels", int64(e.Channels)}, arg{"stride", int64(c.Tokens())})
	}
	return y
}

// matrix checks that t is an encoder's matrix in one buffer.
func (b *Builder) matrix(label string, t *Tensor) bool {
	if b.usable(label, t) && (t.Shape[0] != 1 || t.Shape[2] != 1 || len(t.parts) != 1) {
		b.failf("%s: a matrix of %v in %d buffers, expected (1, channels, 1, tokens) in one: take fewer chunks at a time",
			label, t.Shape, len(t.parts))
	}
	return b.err == nil
}

// TokenNorm is layer normalisation over the channels of every token, of x or, when
// residual is not nil, of x + residual; weight and bias have shape (channels).
func (b *Builder) TokenNorm(label string, x, residual *Tensor, weight, bias string, eps float64) *Tensor {
	y := b.Tensor(label, x.Shape)
	if !b.matrix(label, y) {
		return y
	}
	t := int64(x.Shape[3])
	b.tokenNorm(label, x, residual, weight, bias, eps, y.parts[0].buffer,
		[]arg{{"period", t}, {"length", t}, {"y_base", 0}, {"y_chunk", 0}, {"y_l", 1}, {"y_c", t}})
	return y
}

// TokenNormInto is TokenNorm with its result in a condition (B, N, L, C): chunk by chunk
// from flat chunk c.First on, tokens before channels.
func (b *Builder) TokenNormInto(label string, condition *Tensor, c Chunks, x, residual *Tensor, weight, bias string, eps float64) {
	channels, length := int64(condition.Shape[3]), int64(c.Length)
	if !b.usable(label, condition) {
		return
	}
	per := condition.Shape[2] / c.Length // chunks a text
	if per*c.Length != condition.Shape[2] || x.Shape[1] != condition.Shape[3] || x.Shape[3] != c.Tokens() {
		b.failf("%s: chunks of %v tokens of %v do not fill a condition of %v", label, c.Length, x.Shape, condition.Shape)
		return
	}
	for _, p := range condition.parts {
		if c.First < p.first*per || c.First+c.Count > (p.first+p.count)*per {
			continue
		}
		b.tokenNorm(label, x, residual, weight, bias, eps, p.buffer,
			[]arg{{"period", int64(c.Period())}, {"length", length},
				{"y_base", int64(c.First-p.origin*per) * length * channels}, {"y_chunk", length * channels}, {"y_l", channels}, {"y_c", 1}})
		return
	}
	b.failf("%s: chunks %+v lie in two buffers of the condition", label, c)
}

func (b *Builder) tokenNorm(label string, x, residual *Tensor, weight, bias string, eps float64, y int, to []arg) {
	if !b.matrix(label, x) {
		return
	}
	channels, tokens := x.Shape[1], int64(x.Shape[3])
	k := b.kernel("columnnorm", wgsl.Const{Name: "HasResidual", Value: int(flag(residual != nil))})
	buffers := []int{x.parts[0].buffer, b.vector(weight, channels), b.vector(bias, channels), y}
	if residual != nil {
		if !b.usable(label, x, residual) || !b.matrix(label, residual) {
			return
		}
		buffers = append(buffers, residual.parts[0].buffer)
	}
	b.dispatch(label, k, [3]int64{ceil(tokens, int64(k.Workgroup)), 1, 1}, 8*tokens*int64(channels), buffers,
		append([]arg{{"tokens", tokens}, {"channels", int64(channels)}, {"stride", tokens}, {"eps", floatBits(eps)}}, to...)...)
}

// Attention is softmax(q·kᵀ/√D)·v within every chunk and head; keys whose mask is 0 are
// hidden, and a chunk without keys gives zeros (reference section a.2). With skip, hidden
// tokens are no queries and get zeros.
func (b *Builder) Attention(label string, q, k, v *Tensor, mask Words, c Chunks, heads int, skip bool) *Tensor {
	y := b.Tensor(label, q.Shape)
	if !b.usable(label, q, k, v) || !b.matrix(label, q) {
		return y
	}
	width := q.Shape[1] / max(heads, 1)
	if heads < 1 || width*heads != q.Shape[1] || width > wgsl.MaxHeadWidth ||
		q.Shape[3] != c.Tokens() || mask.count < (c.First+c.Count)*c.Length {
		b.failf("%s: %d heads for %d channels, %d mask words for %+v", label, heads, q.Shape[1], mask.count, c)
		return y
	}
	queries := 1
	if width <= 32 {
		queries = 2
	}
	consts := []wgsl.Const{{Name: "D", Value: width}, {Name: "Q", Value: queries}}
	if skip {
		consts = append(consts, wgsl.Const{Name: "Skip", Value: 1})
	}
	kernel := b.kernel("attention", consts...)
	if b.err != nil {
		return y
	}
	cost := 2 * int64(q.Shape[1]) * int64(c.Period()) * int64(c.Length)
	per := min(max(b.MaxCost/cost, 1), int64(b.limits.MaxComputeWorkgroupsPerDimension))
	for first := int64(0); first < int64(c.Count); first += per {
		chunks := min(per, int64(c.Count)-first)
		b.dispatch(label, kernel,
			[3]int64{ceil(int64(c.Period()), int64(queries*kernel.Workgroup)), int64(heads), chunks}, cost*chunks,
			[]int{q.parts[0].buffer, k.parts[0].buffer, v.parts[0].buffer, mask.buffer, y.parts[0].buffer},
			arg{"period", int64(c.Period())}, arg{"length", int64(c.Length)}, arg{"stride", int64(c.Tokens())},
			arg{"mask_base", int64(c.First) * int64(c.Length)}, arg{"chunk0", first},
			arg{"factor", floatBits(1 / math.Sqrt(float64(width)))})
	}
	return y
}

// MaskPads sets the values of a condition (B, N, L, C) to zero where the mask is 0.
func (b *Builder) MaskPads(label string, condition *Tensor, mask Words) {
	if !b.usable(label, condition) {
		return
	}
	rows := int64(condition.Shape[2])
	if int64(mask.count) < condition.Elements()/int64(condition.Shape[3]) {
		b.failf("%s: %d mask words for a condition of %v", label, mask.count, condition.Shape)
		return
	}
	k := b.kernel("maskpads")
	for _, p := range condition.parts {
		b.each(label, k, int64(p.count)*condition.plane(), []int{mask.buffer, p.buffer},
			arg{"channels", int64(condition.Shape[3])}, arg{"mask_base", int64(p.first) * rows},
			arg{"x_base", p.index(p.first, condition.plane())})
	}
}
