package graph

import (
	"math"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// A language model works on a few rows of one token each: tensors of shape (1, 1, rows,
// channels), in one buffer. Several texts have equal runs of rows, one after the other: their
// tokens at following positions. What it keeps of earlier tokens is State.

// State is a tensor that begins as zeros and keeps its values from run to run where the
// executor holds the Program (Holder).
func (b *Builder) State(label string, shape [4]int) *Tensor {
	b.held = true
	t := &Tensor{Shape: shape, parts: b.layout(label, shape)}
	for i := range t.parts {
		p := &t.parts[i]
		p.buffer = b.buffer(label, int64(p.count)*t.plane()*4, Source{Kind: SourceZero})
		b.pinned[p.buffer] = true
	}
	return t
}

// Table is constant words that the Program carries, such as floats by their bits.
func (b *Builder) Table(label string, words []uint32) Words {
	if len(words) < 1 || int64(len(words))*4 > b.bindable() {
		b.failf("%s: a table of %d words, expected 1..%d", label, len(words), b.bindable()/4)
		return Words{}
	}
	return Words{buffer: b.buffer(label, int64(len(words))*4, Source{Kind: SourceInline, Words: words}), count: len(words)}
}

// ReadWords makes words a result of the Program.
func (b *Builder) ReadWords(name string, w Words) {
	if b.err != nil {
		return
	}
	b.pinned[w.buffer] = true
	b.program.Reads = append(b.program.Reads, Read{Name: name, Buffer: w.buffer, Bytes: int64(w.count) * 4})
}

// rows checks that tensors are rows, each in one buffer.
func (b *Builder) rows(label string, ts ...*Tensor) bool {
	for _, t := range ts {
		if b.err == nil && (len(t.parts) != 1 || t.Shape[0] != 1 || t.Shape[1] != 1 || t.Shape[2] != ts[0].Shape[2]) {
			b.failf("%s: rows of %v in %d buffers, expected (1, 1, %d, channels) in one", label, t.Shape, len(t.parts), ts[0].Shape[2])
		}
	}
	return b.err == nil
}

// rowSpans cuts a matrix (rows, channels) stored as dtype where one binding does not hold it.
func (b *Builder) rowSpans(label, name, dtype string, rows, channels int) []Span {
	s := storages[dtype]
	if s.values == 0 {
		b.failf("%s: %s as %q, expected F32, F16, Q8 or Q4_1", label, name, dtype)
		return nil
	}
	per := b.scratchLimit() / s.bytes * s.values / int64(channels)
	if per <= 0 || int64(channels)%s.values != 0 {
		b.failf("%s: rows of %s have %d values, expected a multiple of %d and at most one binding", label, name, channels, s.values)
		return nil
	}
	var spans []Span
	for first := 0; first < rows; first += int(per) {
		spans = append(spans, Span{first, min(int(per), rows-first)})
	}
	return spans
}

// run is how many rows each of the texts that per has rows for has in x.
func (b *Builder) run(label string, x, per *Tensor) int64 {
	rows, texts := x.Shape[2], per.Shape[2]
	if texts < 1 || rows%texts != 0 {
		b.failf("%s: %d rows of %d texts, expected equally many of each", label, rows, texts)
		return 1
	}
	return int64(rows / texts)
}

// Lookup is the rows of a table (vocabulary, channels), delivered as dtype, that ids name.
func (b *Builder) Lookup(label string, ids Words, table, dtype string, vocabulary, channels int) *Tensor {
	y := b.Tensor(label, [4]int{1, 1, ids.count, channels})
	spans := b.rowSpans(label, table, dtype, vocabulary, channels)
	if !b.rows(label, y) {
		return y
	}
	k := b.kernel("lookup", wgsl.Const{Name: "Store", Value: storages[dtype].store})
	for _, s := range spans {
		src, base := b.weightValues(table, dtype, int64(s.First)*int64(channels), int64(s.Count)*int64(channels), int64(vocabulary)*int64(channels))
		b.dispatch(label, k, [3]int64{ceil(int64(channels), int64(k.Workgroup)), int64(ids.count), 1}, y.Elements(),
			[]int{ids.buffer, src, y.parts[0].buffer},
			arg{"channels", int64(channels)}, arg{"vocabulary", int64(vocabulary)}, arg{"first", int64(s.First)}, arg{"count", int64(s.Count)}, arg{"base", base})
	}
	return y
}

// RMSNorm normalises every row by its root mean square and multiplies by weight (channels).
func (b *Builder) RMSNorm(label string, x *Tensor, weight string, eps float64) *Tensor {
	y := b.Tensor(label, x.Shape)
	if !b.usable(label, x) || !b.rows(label, x, y) {
		return y
	}
	channels := int64(x.Shape[3])
	b.dispatch(label, b.kernel("rmsnorm", b.subgroups()...), [3]int64{int64(x.Shape[2]), 1, 1}, 4*x.Elements(),
		[]int{x.parts[0].buffer, b.vector(weight, int(channels)), y.parts[0].buffer},
		arg{"channels", channels}, arg{"eps", floatBits(eps)})
	return y
}

// Product is a linear layer of rows.
type Product struct {
	Label string
	// Weight is a tensor (Out, channels), delivered as DType: F32, F16, Q8 or Q4_1.
	Weight, DType string
	Out           int
	// Bias is a tensor (Out); empty means none.
	Bias string
	// Residual is added; nil means none.
	Residual *Tensor
	// Low is a LoRA's A·x, to which its B, the tensor Up of shape (Out, rank) as F32, is
	// applied and added; nil means none.
	Low *Tensor
	Up  string
	// Factor is a tensor (1, 1, texts, 1) that texts' rows are multiplied by in the end; nil
	// means none.
	Factor *Tensor
}

// Product multiplies rows by a matrix, which is read once for all of them.
func (b *Builder) Product(x *Tensor, c Product) *Tensor {
	rows, in := x.Shape[2], x.Shape[3]
	y := b.Tensor(c.Label, [4]int{1, 1, rows, c.Out})
	spans := b.rowSpans(c.Label, c.Weight, c.DType, c.Out, in)
	if !b.usable(c.Label, x) || !b.rows(c.Label, x, y) {
		return y
	}
	if rows > wgsl.MaxRows || in%4 != 0 {
		b.failf("%s: %d rows of %d values, expected at most %d of a multiple of 4", c.Label, rows, in, wgsl.MaxRows)
		return y
	}
	s := storages[c.DType]
	unit := max(s.values, 4)
	rank, run, more := 0, int64(1), []int{}
	if c.Bias != "" {
		more = append(more, b.vector(c.Bias, c.Out))
	}
	if c.Residual != nil {
		if !b.usable(c.Label, y, c.Residual) || !b.rows(c.Label, c.Residual) {
			return y
		}
		more = append(more, c.Residual.parts[0].buffer)
	}
	if c.Low != nil {
		rank = c.Low.Shape[3]
		if !b.usable(c.Label, c.Low) || !b.rows(c.Label, x, c.Low) {
			return y
		}
		more = append(more, c.Low.parts[0].buffer, b.vector(c.Up, c.Out*rank))
	}
	if c.Factor != nil {
		if !b.usable(c.Label, c.Factor) || !b.rows(c.Label, c.Factor) {
			return y
		}
		run = b.run(c.Label, x, c.Factor)
		more = append(more, c.Factor.parts[0].buffer)
	}
	k := b.kernel("product", append([]wgsl.Const{{Name: "Store", Value: s.store}, {Name: "Rows", Value: rows},
		{Name: "HasBias", Value: int(flag(c.Bias != ""))}, {Name: "HasResidual", Value: int(flag(c.Residual != nil))},
		{Name: "HasLow", Value: int(flag(c.Low != nil))}, {Name: "HasFactor", Value: int(flag(c.Factor != nil))}}, b.subgroups()...)...)
	if b.err != nil {
		return y
	}
	for _, p := range spans {
		w, _ := b.weightValues(c.Weight, c.DType, int64(p.First)*int64(in), int64(p.Count)*int64(in), int64(c.Out)*int64(in))
		gx, gy := b.grid(ceil(int64(p.Count), int64(k.Workgroup)))
		b.dispatch(c.Label, k, [3]int64{gx, gy, 1}, int64(rows)*int64(p.Count)*int64(in+rank), append([]int{x.parts[0].buffer, w, y.parts[0].buffer}, more...),
			arg{"units", int64(in) / unit}, arg{"out", int64(c.Out)}, arg{"first", int64(p.First)}, arg{"count", int64(p.Count)},
			arg{"width", gx}, arg{"rank", int64(rank)}, arg{"run", run})
	}
	return y
}

// Cache is the keys and values of the positions so far, of one attention layer.
type Cache struct {
	Heads, KVHeads, HeadDim int
	Length                  int // positions
	keys, values            *Tensor
}

// NewCache makes an empty cache for so many texts.
func (b *Builder) NewCache(label string, texts int, c Cache) Cache {
	if c.Heads < 1 || c.KVHeads < 1 || c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 || c.HeadDim > wgsl.MaxHeadWidth || c.Length < 1 || c.Length > wgsl.MaxPositions {
		b.failf("%s: %+v, expected at most %d positions and heads of at most %d values that share key heads evenly", label, c, wgsl.MaxPositions, wgsl.MaxHeadWidth)
		return c
	}
	shape := [4]int{1, 1, texts, c.Length * c.KVHeads * c.HeadDim}
	c.keys, c.values = b.State(label+".keys", shape), b.State(label+".values", shape)
	return c
}

// RotaryTable is cosine and sine of every position's angles, frequency·position for each pair of a
// head: what Rotate turns by.
func RotaryTable(length int, frequencies []float64) []uint32 {
	words := make([]uint32, 0, 2*length*len(frequencies))
	for at := range length {
		for _, frequency := range frequencies {
			sin, cos := math.Sincos(float64(at) * frequency)
			words = append(words, math.Float32bits(float32(cos)), math.Float32bits(float32(sin)))
		}
	}
	return words
}

// Rotate gives queries and keys the rotary position, writes keys and values to the cache at
// it, and returns the queries. position is that of each text's first row; nothing is written
// of rows beyond the cache's length. halves says how a head's values pair up: i with i + D/2,
// or 2i with 2i+1.
func (b *Builder) Rotate(label string, q, k, v *Tensor, position, table Words, c Cache, halves bool) *Tensor {
	y := b.Tensor(label, q.Shape)
	if !b.usable(label, k, v) || !b.usable(label, q) || !b.rows(label, q, k, v, y) || !b.rows(label, c.keys, c.values) {
		return y
	}
	run := b.run(label, q, c.keys)
	if q.Shape[3] != c.Heads*c.HeadDim || k.Shape[3] != c.KVHeads*c.HeadDim || table.count < c.Length*c.HeadDim {
		b.failf("%s: queries of %v and keys of %v for %+v", label, q.Shape, k.Shape, c)
		return y
	}
	kernel := b.kernel("rotate", wgsl.Const{Name: "Halves", Value: int(flag(halves))})
	if b.err != nil {
		return y
	}
	pairs := int64(c.Heads+c.KVHeads) * int64(c.HeadDim) / 2
	b.dispatch(label, kernel, [3]int64{ceil(pairs, int64(kernel.Workgroup)), int64(q.Shape[2]), 1}, 4*pairs*int64(q.Shape[2]),
		[]int{q.parts[0].buffer, k.parts[0].buffer, v.parts[0].buffer, position.buffer, table.buffer, y.parts[0].buffer, c.keys.parts[0].buffer, c.values.parts[0].buffer},
		arg{"heads", int64(c.Heads)}, arg{"kv", int64(c.KVHeads)}, arg{"half", int64(c.HeadDim) / 2}, arg{"length", int64(c.Length)}, arg{"run", run})
	return y
}

// Causal is the attention of the rows' positions to the cache, up to each position itself.
func (b *Builder) Causal(label string, q *Tensor, position Words, c Cache) *Tensor {
	y := b.Tensor(label, q.Shape)
	if !b.usable(label, q) || !b.rows(label, q, y) || !b.rows(label, c.keys, c.values) {
		return y
	}
	run := b.run(label, q, c.keys)
	kernel := b.kernel("causal", wgsl.Const{Name: "D", Value: c.HeadDim})
	b.dispatch(label, kernel, [3]int64{int64(c.Heads), int64(q.Shape[2]), 1}, 2*q.Elements()*int64(c.Length),
		[]int{q.parts[0].buffer, c.keys.parts[0].buffer, c.values.parts[0].buffer, position.buffer, y.parts[0].buffer},
		arg{"heads", int64(c.Heads)}, arg{"kv", int64(c.KVHeads)}, arg{"length", int64(c.Length)}, arg{"run", run}, arg{"factor", floatBits(1 / math.Sqrt(float64(c.HeadDim)))})
	return y
}

// SwiGLU is silu(gate)·up, value by value.
func (b *Builder) SwiGLU(label string, gate, up *Tensor) *Tensor {
	y := b.Tensor(label, gate.Shape)
	if !b.usable(label, gate, up) || !b.rows(label, gate, up, y) {
		return y
	}
	b.each(label, b.kernel("swiglu"), y.Elements(), []int{gate.parts[0].buffer, up.parts[0].buffer, y.parts[0].buffer})
	return y
}

// ArgMax is the index of each row's largest value, the first of equal ones.
func (b *Builder) ArgMax(label string, x *Tensor) Words {
	if !b.usable(label, x) || !b.rows(label, x) {
		return Words{}
	}
	y := Words{buffer: b.temp(label, int64(x.Shape[2])*4), count: x.Shape[2]}
	b.dispatch(label, b.kernel("argmax"), [3]int64{int64(x.Shape[2]), 1, 1}, x.Elements(),
		[]int{x.parts[0].buffer, y.buffer}, arg{"channels", int64(x.Shape[3])})
	return y
}
