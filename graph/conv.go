package graph

import (
	"slices"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// Axis says which of a tensor's axes N, H and W is the channel axis of a convolution.
type Axis int

// The axes of a tensor's shape (Batch, N, H, W).
const (
	AxisN Axis = iota
	AxisH
	AxisW
)

// Conv is a "same" convolution: stride 1, (K-1)/2 zeros before and K-1-(K-1)/2 after, so
// that an even K pads more at the end (reference section b.2).
type Conv struct {
	Label string
	// Weight is a tensor (Out, channels, K, K), delivered as DType. Its kernel axes are the
	// two axes left, in the order (H, W), (N, W) and (H, N) for AxisN, AxisH and AxisW.
	Weight, DType string
	// Bias is a tensor (Out); empty means none.
	Bias   string
	Axis   Axis
	Out, K int
	// GELU applies GELU in its erf form to the result.
	GELU bool
	// Pads, where not nil, says which positions nobody reads. It is for linear layers over
	// an encoder's matrix.
	Pads *Pads
	// Keep holds the repacked weights for the next Conv with this Weight.
	Keep bool
}

// Pads are the tokens of an encoder's matrix that have a 0 in Mask, and those that fill up a
// chunk. What is computed for them need not be right, only finite.
type Pads struct {
	Mask   Words
	Chunks Chunks
}

// Linear is a linear layer over axis N: a Conv with K = 1 that keeps its weights. pads may be
// nil.
func (b *Builder) Linear(x *Tensor, label, weight, dtype, bias string, out int, gelu bool, pads *Pads) *Tensor {
	return b.Conv(x, Conv{Label: label, Weight: weight, DType: dtype, Bias: bias, Axis: AxisN, Out: out, K: 1, GELU: gelu, Pads: pads, Keep: true})
}

// The shape of the convolution kernels' tiles. A Tuning may ask for others of direct sums.
const (
	tileOut = 8
	tilePos = 8
)

// geometry is a convolution with its tensors' axes in the roles that the kernels know:
// channels, and the plane's axes p and q, of which q is the one that a tile runs along.
type geometry struct {
	Conv
	x, y       *Tensor
	c, p, q    int   // sizes: input channels and plane
	srcC       int64 // strides of x, in values
	srcP, srcQ int64
	outC       int64 // strides of y
	outP, outQ int64
	pad        int
	tile       Tile // of direct sums
	prepare    *Preparation
}

func newGeometry(c Conv, x, y *Tensor) geometry {
	n, h, w := x.Shape[1], x.Shape[2], x.Shape[3]
	g := geometry{Conv: c, x: x, y: y, pad: (c.K - 1) / 2, tile: plannedTile}
	plane, row := x.plane(), int64(w)
	outPlane, outRow := y.plane(), int64(y.Shape[3])
	switch c.Axis {
	case AxisN:
		g.c, g.p, g.q = n, h, w
		g.srcC, g.srcP, g.srcQ = plane, row, 1
		g.outC, g.outP, g.outQ = outPlane, outRow, 1
	case AxisH:
		g.c, g.p, g.q = h, n, w
		g.srcC, g.srcP, g.srcQ = row, plane, 1
		g.outC, g.outP, g.outQ = outRow, outPlane, 1
	case AxisW:
		g.c, g.p, g.q = w, h, n
		g.srcC, g.srcP, g.srcQ = 1, row, plane
		g.outC, g.outP, g.outQ = 1, outRow, outPlane
	}
	if c.K == 1 && c.Axis == AxisN {
		// Every value stands alone, so a plane is one long row.
		g.p, g.q = 1, h*w
	}
	return g
}

// taps is how many weights an output channel has.
func (g *geometry) taps() int64 { return int64(g.c) * int64(g.K) * int64(g.K) }

// rowVecs is the length in vec4 of a padded row for n positions. Tiles may start at each
// multiple of tilePos, those of fewer positions between them.
func (g *geometry) rowVecs(n int) int64 {
	return (ceil(int64(n), tilePos)-1)*tilePos/4 + ceil(int64(max(tilePos, g.tile.Positions)+g.K-1), 4)
}

// span is a half-open range.
type span struct{ from, to int }

func (s span) len() int         { return s.to - s.from }
func (s span) and(t span) span  { return span{max(s.from, t.from), min(s.to, t.to)} }
func clip(from, to, n int) span { return span{max(from, 0), min(to, n)} }

// job is the part of a convolution whose padded input fits a scratch buffer: some items,
// or a band of one item's positions. Rows are those that the band's taps reach.
type job struct {
	items, p, q, rows span
	stride            int64 // of a row, in vec4
}

func (g *geometry) job(items, p, q span) job {
	return job{items: items, p: p, q: q, rows: clip(p.from-g.pad, p.to+g.K-1-g.pad, g.p), stride: g.rowVecs(q.len())}
}

func (g *geometry) scratchBytes(j job) int64 {
	return int64(j.items.len()) * int64(g.c) * int64(j.rows.len()) * j.stride * 16
}

// jobs cuts the convolution so that each padded input has at most limit bytes.
func (g *geometry) jobs(limit int64) []job {
	batch := g.x.Shape[0]
	whole, all := span{0, g.p}, span{0, g.q}
	fits := func(items, p, q int) bool {
		// The worst case of a band: it touches no border.
		j := g.job(span{0, items}, span{0, p}, span{0, q})
		j.rows = span{0, min(g.p, p+g.K-1)}
		return g.scratchBytes(j) <= limit
	}
	var list []job
	if fits(1, g.p, g.q) {
		per := largest(batch, func(n int) bool { return fits(n, g.p, g.q) })
		for i := 0; i < batch; i += per {
			list = append(list, g.job(span{i, min(i+per, batch)}, whole, all))
		}
		return list
	}
	rows := largest(g.p, func(n int) bool { return fits(1, n, g.q) })
	cols := g.q
	if rows == 0 {
		rows = 1
		cols = largest(int(ceil(int64(g.q), tilePos)), func(n int) bool { return fits(1, 1, n*tilePos) }) * tilePos
		if cols == 0 {
			return nil
		}
	}
	rows = int(ceil(int64(g.p), ceil(int64(g.p), int64(rows)))) // bands of equal size
	for i := range batch {
		for p := 0; p < g.p; p += rows {
			for q := 0; q < g.q; q += cols {
				list = append(list, g.job(span{i, i + 1}, clip(p, p+rows, g.p), clip(q, q+cols, g.q)))
			}
		}
	}
	return list
}

// largest n in 0..most with ok(n), where ok holds up to some n.
func largest(most int, ok func(int) bool) int {
	low, high := 0, most
	for low < high {
		if n := low + (high-low+1)/2; ok(n) {
			low = n
		} else {
			high = n - 1
		}
	}
	return low
}

// shard is repacked weights of some output channels.
type shard struct {
	out    span
	packed int
}

// Conv convolves x; the result has Out in place of the channel axis.
func (b *Builder) Conv(x *Tensor, c Conv) *Tensor {
	shape := x.Shape
	if c.Axis < AxisN || c.Axis > AxisW || c.Out < 1 || c.K < 1 || c.K > wgsl.MaxKernelSize || storages[c.DType].values == 0 {
		b.failf("%s: axis %d, %d outputs, kernel %d, weights %q: expected one of 3 axes, a positive number, 1..%d, F32, F16, Q8 or Q4_1",
			c.Label, c.Axis, c.Out, c.K, c.DType, wgsl.MaxKernelSize)
		return &Tensor{Shape: shape}
	}
	shape[1+int(c.Axis)] = c.Out
	y := b.Tensor(c.Label, shape)
	if !b.usable(c.Label, x) {
		return y
	}
	if c.Pads != nil && (c.K != 1 || c.Axis != AxisN || !b.matrix(c.Label, x) || x.Shape[3] != c.Pads.Chunks.Tokens() ||
		c.Pads.Mask.count < (c.Pads.Chunks.First+c.Pads.Chunks.Count)*c.Pads.Chunks.Length) {
		b.failf("%s: pads of %+v for %v with kernel %d over axis %d", c.Label, c.Pads.Chunks, x.Shape, c.K, c.Axis)
		return y
	}
	g := newGeometry(c, x, y)
	g.prepare = b.Prepare
	if s := g.shape(); c.K > 1 && !slices.Contains(b.shapes, s) {
		b.shapes = append(b.shapes, s)
	}
	if f := b.fourierPlan(&g); f != nil {
		b.fourier(&g, f)
		return y
	}
	// A tile of pads must not reach into the next chunk.
	if tile := b.limits.Tuning.way(g.shape()).Tile; tile != (Tile{}) && c.Pads == nil {
		g.tile = tile
	}
	jobs := g.jobs(b.scratchLimit())
	if len(jobs) == 0 {
		g.tile = plannedTile
		jobs = g.jobs(b.scratchLimit())
	}
	inPlace := c.K == 1 && c.Axis == AxisN && g.q%max(tilePos, g.tile.Positions) == 0 && len(x.parts) == 1
	if inPlace {
		jobs = []job{g.job(span{0, x.Shape[0]}, span{0, 1}, span{0, g.q})}
		jobs[0].stride = int64(g.q) / 4
	}
	if len(jobs) == 0 {
		b.failf("%s: one row of the padded input, %d channels of %d values, needs more than %d bytes", c.Label, g.c, tilePos, b.scratchLimit())
		return y
	}
	if len(jobs) > 1 {
		// Gathering again for each shard costs less than loading the shards again.
		b.shards(&g, func(s shard) {
			for _, j := range jobs {
				padded := b.gather(&g, j)
				b.convolve(&g, j, s, padded)
				b.releaseBuffer(padded)
			}
		})
		return y
	}
	padded := x.parts[0].buffer
	if !inPlace {
		padded = b.gather(&g, jobs[0])
	}
	b.shards(&g, func(s shard) { b.convolve(&g, jobs[0], s, padded) })
	if !inPlace {
		b.releaseBuffer(padded)
	}
	return y
}

// shards repacks the weights, as many output channels at a time as a scratch buffer
// holds, and hands each piece to use. Prepared ones are packed once.
func (b *Builder) shards(g *geometry, use func(shard)) {
	key := g.DType + " " + g.Weight
	keep := g.Keep || b.Prepare != nil
	if kept, ok := b.packed[key]; ok && keep {
		for _, s := range kept {
			use(s)
		}
		return
	}
	taps, out := g.taps(), int64(g.Out)
	half, size := b.half(g.DType), int64(4)
	if half != nil {
		size = 2
	}
	per := b.scratchLimit() / (taps * size) / tileOut * tileOut
	if per == 0 {
		b.failf("%s: %d output channels of %s need %d bytes in one binding, the limit is %d",
			g.Label, tileOut, g.Weight, tileOut*taps*size, b.scratchLimit())
		return
	}
	pieces := ceil(out, per)
	per = ceil(ceil(out, pieces), tileOut) * tileOut
	k := b.kernel("repack", append([]wgsl.Const{{Name: "Store", Value: storages[g.DType].store}}, half...)...)
	for from := int64(0); from < out && b.err == nil; from += per {
		n := min(per, out-from)
		var packed int
		b.once(func() {
			packed = b.temp(g.Label+".packed", per*taps*size)
			raw, base := b.weightValues(g.Weight, g.DType, from*taps, n*taps, out*taps)
			b.each(g.Label+".repack", k, ceil(n, tileOut)*taps*2, []int{raw, packed}, arg{"taps", taps}, arg{"outputs", n}, arg{"base", base})
		})
		s := shard{span{int(from), int(from + n)}, packed}
		use(s)
		if keep {
			b.packed[key] = append(b.packed[key], s)
		} else {
			b.releaseBuffer(packed)
		}
	}
}

// gather copies what the job needs of x into padded rows.
func (b *Builder) gather(g *geometry, j job) (padded int) {
	padded = b.temp(g.Label+".padded", g.scratchBytes(j))
	if b.err != nil {
		return padded
	}
	k := b.kernel("gather")
	n := g.x.Shape[1]
	need := clip(j.q.from-g.pad, j.q.to+g.K-1-g.pad, g.q)
	cFast := int64(0)
	if g.srcC == 1 && g.srcQ != 1 {
		cFast = 1
	}
	for _, part := range g.x.parts {
		items, planes := part.spans(n)
		items = items.and(j.items)
		c, p, q := span{0, g.c}, j.rows, need
		switch g.Axis {
		case AxisN:
			c = c.and(planes)
		case AxisH:
			p = p.and(planes)
		case AxisW:
			q = q.and(planes)
		}
		if items.len() <= 0 || c.len() <= 0 || p.len() <= 0 || q.len() <= 0 {
			continue
		}
		// first is where x's value q.from stands in the padded row. The first part of a row
		// writes all of it, zeros included; later ones keep what is outside of theirs.
		first := int64(q.from - j.q.from + g.pad)
		vecs, merge := span{0, int(j.stride)}, int64(0)
		if q.from > need.from {
			vecs = span{int(first / 4), int(ceil(first+int64(q.len()), 4))}
			merge = 1
		}
		row := j.stride
		channel := row * int64(j.rows.len())
		b.each(g.Label+".gather", k, int64(items.len())*int64(c.len())*int64(p.len())*int64(vecs.len()), []int{part.buffer, padded},
			arg{"c_fast", cFast}, arg{"cn", int64(c.len())}, arg{"pn", int64(p.len())}, arg{"qn", int64(vecs.len())},
			arg{"src_base", part.index(items.from*n, g.x.plane()) + int64(c.from)*g.srcC + int64(p.from)*g.srcP + int64(q.from)*g.srcQ},
			arg{"src_item", int64(n) * g.x.plane()}, arg{"src_c", g.srcC}, arg{"src_p", g.srcP}, arg{"src_q", g.srcQ},
			arg{"q_count", int64(q.len())}, arg{"left", first - int64(vecs.from)*4}, arg{"merge", merge},
			arg{"dst_base", int64(items.from-j.items.from)*channel*int64(g.c) + int64(c.from)*channel + int64(p.from-j.rows.from)*row + int64(vecs.from)},
			arg{"dst_item", channel * int64(g.c)}, arg{"dst_c", channel}, arg{"dst_p", row})
	}
	return padded
}

// spans are the items that a part touches, and the planes that it holds of each.
func (p part) spans(n int) (items, planes span) {
	items = span{p.first / n, (p.first+p.count-1)/n + 1}
	if p.first%n == 0 && p.count%n == 0 {
		return items, span{0, n}
	}
	return items, span{p.first % n, p.first%n + p.count}
}

// convolve adds the dispatches of one job with one shard of the weights.
func (b *Builder) convolve(g *geometry, j job, s shard, padded int) {
	n := g.y.Shape[1]
	for _, part := range g.y.parts {
		items, planes := part.spans(n)
		x := box{job: j, shard: s, padded: padded, buffer: part.buffer, items: items.and(j.items), out: s.out, p: j.p, q: j.q}
		switch g.Axis {
		case AxisN:
			x.out = x.out.and(planes)
		case AxisH:
			x.p = x.p.and(planes)
		case AxisW:
			x.q = x.q.and(planes)
		}
		if x.items.len() <= 0 || x.out.len() <= 0 || x.p.len() <= 0 || x.q.len() <= 0 {
			continue
		}
		if (x.q.from-j.q.from)%tilePos != 0 || (x.out.from-s.out.from)%tileOut != 0 {
			b.failf("%s: %d planes of %v values need %d bytes in one binding, the limit is %d",
				g.Label, tilePos, g.y.Shape[2:], tilePos*g.y.plane()*4, b.bindable())
			return
		}
		x.base = part.index(x.items.from*n, g.y.plane())
		b.convolveBox(g, x)
	}
}
