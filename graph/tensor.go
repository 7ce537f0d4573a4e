package graph

// Tensor is a value of a Program under construction: float32, row-major, of shape
// (Batch, N, H, W). A plane is its inner (H, W). It lies in one or more buffers, each
// small enough for one binding: every buffer holds whole items of the batch, or, where an
// item is larger than a binding, some of one item's planes.
type Tensor struct {
	Shape [4]int
	parts []part
}

// part is planes [first, first+count), counted over the whole batch, in a buffer that
// begins with plane origin.
type part struct {
	buffer       int
	first, count int
	origin       int
}

// index is where the first value of a plane lies in the buffer.
func (p part) index(plane int, values int64) int64 { return int64(plane-p.origin) * values }

// Words is an input of 32-bit words, such as token ids.
type Words struct {
	buffer, count int
}

// Span is a range of planes, counted over the whole batch.
type Span struct{ First, Count int }

// Spans are the planes of each of the tensor's buffers.
func (t *Tensor) Spans() []Span {
	spans := make([]Span, len(t.parts))
	for i, p := range t.parts {
		spans[i] = Span{p.first, p.count}
	}
	return spans
}

// Elements is the number of values, 0 for an impossible shape.
func (t *Tensor) Elements() int64 { return elements(t.Shape) }

func (t *Tensor) plane() int64 { return int64(t.Shape[2]) * int64(t.Shape[3]) }

// maxElements keeps sizes in bytes far from overflowing an int64.
const maxElements = 1 << 40

func elements(shape [4]int) int64 {
	n := int64(1)
	for _, d := range shape {
		if d < 1 || int64(d) > maxElements/n {
			return 0
		}
		n *= int64(d)
	}
	return n
}

// layout cuts a shape into buffers. Boundaries within an item are multiples of 8 planes,
// which Conv wants of its results, unless 8 planes are larger than a binding.
func (b *Builder) layout(label string, shape [4]int) []part {
	if b.err != nil {
		return nil
	}
	if elements(shape) == 0 {
		b.failf("%s: impossible shape %v", label, shape)
		return nil
	}
	batch, n := shape[0], shape[1]
	plane := int64(shape[2]) * int64(shape[3]) * 4
	item := plane * int64(n)
	var parts []part
	if per := b.bindable() / item; per > 0 {
		for i := 0; i < batch; i += int(min(per, int64(batch))) {
			parts = append(parts, part{first: i * n, count: int(min(per, int64(batch-i))) * n, origin: i * n})
		}
		return parts
	}
	per := int(b.bindable() / plane)
	if per == 0 {
		b.failf("%s: a plane of %v values needs %d bytes in one binding, the limit is %d", label, shape[2:], plane, b.bindable())
		return nil
	}
	if per >= tilePos {
		per = per / tilePos * tilePos
	}
	if int64(batch)*ceil(int64(n), int64(per)) > maxBuffers {
		b.failf("%s: shape %v needs too many buffers", label, shape)
		return nil
	}
	for i := range batch {
		for j := 0; j < n; j += per {
			parts = append(parts, part{first: i*n + j, count: min(per, n-j), origin: i*n + j})
		}
	}
	return parts
}

// Tensor makes a tensor that later dispatches fill. Its first contents are undefined.
func (b *Builder) Tensor(label string, shape [4]int) *Tensor {
	t := &Tensor{Shape: shape, parts: b.layout(label, shape)}
	for i := range t.parts {
		t.parts[i].buffer = b.temp(label, int64(t.parts[i].count)*t.plane()*4)
	}
	return t
}

// Input is a tensor that the caller of the Program provides: float32, row-major.
func (b *Builder) Input(name string, shape [4]int) *Tensor {
	t := &Tensor{Shape: shape, parts: b.layout(name, shape)}
	for i := range t.parts {
		p := &t.parts[i]
		bytes := int64(p.count) * t.plane() * 4
		p.buffer = b.buffer(name, bytes, Source{Kind: SourceInput, Name: name,
			Offset: int64(p.first) * t.plane() * 4, Bytes: bytes})
	}
	return t
}

// InputWords is an input of count 32-bit words.
func (b *Builder) InputWords(name string, count int) Words {
	bytes := int64(count) * 4
	if count < 1 || bytes > b.bindable() {
		b.failf("input %s: %d words, expected 1..%d", name, count, b.bindable()/4)
		return Words{}
	}
	return Words{buffer: b.buffer(name, bytes, Source{Kind: SourceInput, Name: name, Bytes: bytes}), count: count}
}

// Read makes t a result of the Program. Results larger than a binding come as several
// Reads of one name, in order.
func (b *Builder) Read(name string, t *Tensor) {
	if !b.usable("read "+name, t) {
		return
	}
	for _, p := range t.parts {
		b.pinned[p.buffer] = true
		b.program.Reads = append(b.program.Reads, Read{Name: name, Buffer: p.buffer, Bytes: int64(p.count) * t.plane() * 4})
	}
}

// Release says that no later operation uses t, so that its memory may serve again.
func (b *Builder) Release(t *Tensor) {
	for _, p := range t.parts {
		if b.err == nil && b.program.Buffers[p.buffer].Source.Kind == SourceZero {
			b.releaseBuffer(p.buffer)
		}
	}
	t.parts = nil
}

// Reshape reads the same memory under another shape. Each buffer must hold whole planes
// of the new shape.
func (b *Builder) Reshape(t *Tensor, shape [4]int) *Tensor {
	r := &Tensor{Shape: shape}
	if !b.usable("reshape", t) {
		return r
	}
	if elements(shape) != t.Elements() || t.Elements() == 0 {
		b.failf("reshape of %v to %v", t.Shape, shape)
		return r
	}
	plane := r.plane()
	for _, p := range t.parts {
		first, count := int64(p.first)*t.plane(), int64(p.count)*t.plane()
		q := part{buffer: p.buffer, first: int(first / plane), count: int(count / plane), origin: int(first / plane)}
		n := shape[1]
		whole := q.first%n == 0 && q.count%n == 0
		inside := q.first/n == (q.first+q.count-1)/n
		if first%plane != 0 || count%plane != 0 || !whole && !inside {
			b.failf("reshape of %v to %v: the first lies in buffers that cut planes of the second", t.Shape, shape)
			return r
		}
		r.parts = append(r.parts, q)
	}
	return r
}

// run is a range of planes that lies in one buffer of each of several tensors.
type run struct {
	first, count int
	buffers      []int
	bases        []int64 // the first value's index in each buffer
}

// overlap cuts tensors of equal shape into such ranges.
func overlap(ts ...*Tensor) []run {
	var runs []run
	at := make([]int, len(ts))
	for first := ts[0].parts[0].first; ; {
		r := run{first: first, count: int(^uint(0) >> 1)}
		for i, t := range ts {
			if at[i] == len(t.parts) {
				return runs
			}
			p := t.parts[at[i]]
			r.count = min(r.count, p.first+p.count-first)
			r.buffers = append(r.buffers, p.buffer)
			r.bases = append(r.bases, p.index(first, t.plane()))
		}
		runs = append(runs, r)
		first += r.count
		for i, t := range ts {
			if p := t.parts[at[i]]; p.first+p.count == first {
				at[i]++
			}
		}
	}
}

// cut is the tensor's planes [first, first+count) alone.
func (t *Tensor) cut(first, count int) *Tensor {
	c := &Tensor{Shape: t.Shape}
	for _, p := range t.parts {
		from, to := max(p.first, first), min(p.first+p.count, first+count)
		if from < to {
			c.parts = append(c.parts, part{buffer: p.buffer, first: from, count: to - from, origin: p.origin})
		}
	}
	return c
}

// usable checks an operation's operands: of equal shape, and not released.
func (b *Builder) usable(op string, ts ...*Tensor) bool {
	for _, t := range ts {
		if t.Shape != ts[0].Shape {
			b.failf("%s: shapes %v and %v differ", op, ts[0].Shape, t.Shape)
		}
		if len(t.parts) == 0 {
			b.failf("%s: a tensor of shape %v is used after its release", op, t.Shape)
		}
	}
	return b.err == nil
}
