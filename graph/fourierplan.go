package graph

import "github.com/drag-and-drop-lora/dnd/wgsl"

// move is what bringing a value to or from memory weighs, in multiply-accumulates: about
// what devices from integrated ones to large ones do in that time.
const move = 16

// fourierGain is by how much the frequency domain must be cheaper than direct summation:
// the model knows a device's caches as little as what starting a dispatch takes.
const fourierGain = 1.15

// shardBytes is what the buffers of a shard of the outputs should take at most: enough to
// keep a device busy, and little next to what a device has.
const shardBytes = 48 << 20

// maxParts is into how many buffers the planes' spectra may be cut.
const maxParts = 2

// minChannels is the least number of channels of a slice of the sums over them.
const minChannels = 64

// fourierPoints are the sizes of transforms that are tried. Few, because each takes
// kernels of its own, and those whose straight-line code is short.
var fourierPoints = []int{8, 12, 16, 24, 32}

// fourierAxis is one of a plane's two in the frequency domain: transforms of points
// values, each of which gives step results; count of them cover the plane. Code for a
// transform gives kept results, at least step.
type fourierAxis struct{ points, step, count, kept int }

// fourierAxes lists the ways to cut n positions. One tile for all may wrap around: its
// zeros stand for those on both sides.
func fourierAxes(n, k int) []fourierAxis {
	var list []fourierAxis
	for _, t := range fourierPoints {
		if t < k {
			continue
		}
		if t >= n+k/2 {
			return append(list, fourierAxis{t, n, 1, t - k/2})
		}
		if step := t - k + 1; step > 1 {
			list = append(list, fourierAxis{t, step, int(ceil(int64(n), int64(step))), step})
		}
	}
	return list
}

// fourierPlan is how a convolution is done in the frequency domain: tiles of a plane,
// jobs of some items or of bands of rows of tiles, shards of the outputs.
type fourierPlan struct {
	p, q          fourierAxis
	part          int   // channels whose spectra lie in one buffer
	items, down   int   // of a job: items, or rows of tiles of one item
	outs          int64 // of a shard, in eights
	weightsBefore bool  // a shard's spectra serve all jobs; else a job's serve all shards
	cost          float64
}

// half is how many frequencies along q are kept: the others are conjugates.
func (f *fourierPlan) half() int64 { return int64(f.q.points/2 + 1) }

// reals is the number of real products that the frequencies take.
func (f *fourierPlan) reals() int64 { return 3 * f.half() * int64(f.p.points) }

// padded is the number of tiles of a job, in whole eights.
func (f *fourierPlan) padded(items, down int) int64 {
	return ceil(int64(items)*int64(down)*int64(f.q.count), tilePos) * tilePos
}

// bands is how many rows of tiles a job has.
func (f *fourierPlan) bands(j job) int64 { return ceil(int64(j.p.len()), int64(f.p.step)) }

// slices cuts the sums over a part's channels so that a large device has enough to do.
func (f *fourierPlan) slices(outs, padded, limit int64) (slices, slice int64) {
	threads, channels := f.reals()*outs*padded/tilePos, int64(f.part)
	want := min(wideDispatch/threads, channels/minChannels, limit/(threads*tileOut*tilePos*4))
	if want < 2 {
		return 1, channels
	}
	slice = ceil(channels, want)
	return ceil(channels, slice), slice
}

// fits chooses the largest shards and jobs whose buffers all have at most limit bytes. What
// is too large for one is cut into parts of the channels, so that neither the planes'
// spectra nor the kernels' are made twice, or into bands, which need less memory.
func (f *fourierPlan) fits(g *geometry, limit int64, byParts bool) bool {
	k := int64(g.K)
	planes := func(items, down, part int) bool {
		// The worst case of a band: it touches no border.
		j := g.job(span{0, items}, clip(0, down*f.p.step, g.p), span{0, g.q})
		j.rows = span{0, min(g.p, down*f.p.step+g.K-1)}
		padded := f.padded(items, down)
		rows := f.half() * int64(items) * int64(part) * int64(j.rows.len()) * int64(f.q.count) * 8
		shard := padded * tileOut * max(f.reals()*4, f.half()*int64(f.p.kept)*8)
		return max(f.reals()*int64(part)*padded*4, rows, g.scratchBytes(j), shard) <= limit
	}
	f.items, f.down, f.part = 1, f.p.count, g.c
	if planes(1, f.p.count, g.c) {
		f.items = largest(g.x.Shape[0], func(n int) bool { return planes(n, f.p.count, g.c) })
	} else if byParts {
		for parts := 2; parts <= maxParts && f.part == g.c; parts++ {
			if part := int(ceil(int64(g.c), int64(parts))); planes(1, f.p.count, part) {
				f.part = part
			}
		}
		if f.part == g.c {
			return false
		}
	} else {
		f.down = largest(f.p.count, func(n int) bool { return planes(1, n, g.c) })
	}
	kernels := int64(f.part) * tileOut * max(f.reals()*4, f.half()*k*8)
	if f.down == 0 || kernels > limit {
		return false
	}
	if f.down < f.p.count { // bands of equal size
		f.down = int(ceil(int64(f.p.count), ceil(int64(f.p.count), int64(f.down))))
	}
	outs := ceil(int64(g.Out), tileOut)
	results := f.padded(f.items, f.down) * tileOut * max(f.reals()*4, f.half()*int64(f.p.kept)*8)
	target := min(limit, shardBytes)
	f.outs = max(min(target/kernels, target/results, outs), 1)
	f.outs = ceil(outs, ceil(outs, f.outs))
	return true
}

// bytes is about what the scratch buffers take that are needed at a time.
func (f *fourierPlan) bytes(g *geometry, limit int64) int64 {
	padded := f.padded(f.items, f.down)
	slices, _ := f.slices(f.outs, padded, limit)
	planes := f.reals() * int64(g.c) * padded * 4
	results := f.outs * tileOut * padded * (slices*f.reals()*4 + f.half()*int64(f.p.kept)*8)
	if g.prepare != nil { // kernels are no scratch: they stay
		return planes + results
	}
	kernels := int64(f.part) * f.outs * tileOut * (f.reals()*4 + f.half()*int64(g.K)*8)
	weights := f.outs * tileOut
	if !f.weightsBefore && (f.down < f.p.count || f.items < g.x.Shape[0]) {
		weights = int64(g.Out) // every job wants all of them
	}
	s := storages[g.DType]
	raw := weights * g.taps() / s.values * s.bytes
	return planes + kernels + results + raw
}

// stays is how many bytes the spectra of all kernels take.
func (f *fourierPlan) stays(g *geometry) int64 {
	return f.reals() * int64(g.c) * ceil(int64(g.Out), tileOut) * tileOut * 4
}

// estimate is the cost of all, in multiply-accumulates and what weighs as much.
func (f *fourierPlan) estimate(g *geometry, limit int64) {
	batch, channels, out, k := int64(g.x.Shape[0]), int64(g.c), int64(g.Out), int64(g.K)
	half, reals, outs := f.half(), f.reals(), ceil(int64(g.Out), tileOut)
	bands := ceil(int64(f.p.count), int64(f.down))
	jobs := ceil(batch, int64(f.items)) * bands
	shards := ceil(outs, f.outs)
	padded := f.padded(f.items, f.down)
	ops := func(f func(points, n int) int, points, n int) int64 { return int64(f(points, n)) }

	kernels := channels * out * (k*ops(wgsl.RealOps, f.q.points, g.K) + half*ops(wgsl.ComplexOps, f.p.points, g.K) +
		move*(k*k+4*half*k+reals))
	rows := min(int64(g.p)+bands*(k-1), int64(g.p)*bands) * int64(f.q.count)
	tiles := int64(f.p.count) * int64(f.q.count)
	planes := batch * channels * (rows*ops(wgsl.RealOps, f.q.points, f.q.points) + half*tiles*ops(wgsl.ComplexOps, f.p.points, f.p.points) +
		move*(rows*(int64(f.q.points)+4*half)+tiles*reals))
	slices, _ := f.slices(f.outs, padded, limit)
	parts := ceil(channels, int64(f.part))
	// A product reads its operands from memory once, and from caches thereafter.
	product := jobs * reals * (channels*outs*tileOut*padded + move*(channels*(outs*tileOut+shards*padded)+(2*parts-1)*slices*outs*tileOut*padded))
	inverse := batch * outs * tileOut * tiles * (half*ops(wgsl.ComplexBackOps, f.p.points, f.p.kept) +
		int64(f.p.kept)*ops(wgsl.RealBackOps, f.q.points, f.q.kept) +
		move*(slices*reals+4*half*int64(f.p.kept)+int64(f.p.kept*f.q.kept)))
	switch {
	case g.prepare != nil: // an earlier run has made the spectra
		f.cost = float64(planes) + float64(product) + float64(inverse) + g.prepare.ByteCost*float64(f.stays(g))
		return
	case f.weightsBefore:
		planes *= shards
	default:
		kernels *= jobs
	}
	f.cost = float64(kernels) + float64(planes) + float64(product) + float64(inverse)
}

// directCost is the same for direct summation.
func (g *geometry) directCost() float64 {
	rows := 0 // taps that lie inside of the plane
	for p := range g.p {
		rows += clip(p-g.pad, p+g.K-g.pad, g.p).len()
	}
	batch, k := int64(g.x.Shape[0]), int64(g.K)
	side := func(n, tile int) int64 { return ceil(int64(n), int64(tile)) * int64(tile) }
	outs, columns := side(g.Out, g.tile.Outputs), side(g.q, g.tile.Positions)
	macs := float64(batch*outs*columns) * float64(int64(g.c)*int64(rows)*k)
	weights := 3 * int64(g.c) * k * k * outs
	if g.prepare != nil { // they are packed: read once, not written and read again
		weights /= 3
		macs += g.prepare.ByteCost * float64(4*weights)
	}
	planes := batch * int64(g.p) * (3*int64(g.c)*int64(g.q) + outs*columns)
	return macs + move*float64(weights+planes)
}

// fourierPlan finds the cheapest plan in the frequency domain, nil where direct summation
// is cheaper or nothing fits.
func (b *Builder) fourierPlan(g *geometry) *fourierPlan {
	if g.K < 2 {
		return nil
	}
	way := b.limits.Tuning.way(g.shape())
	switch way.Method {
	case Direct:
		return nil
	case Fourier:
		if f := b.cheapest(g, way); f != nil {
			return f
		}
	}
	f := b.cheapest(g, ConvWay{})
	if f != nil && f.cost*fourierGain > g.directCost() {
		return nil
	}
	return f
}

// cheapest is the cheapest of the plans that a way allows.
func (b *Builder) cheapest(g *geometry, way ConvWay) (best *fourierPlan) {
	limit := b.scratchLimit()
	for _, p := range fourierAxes(g.p, g.K) {
		for _, q := range fourierAxes(g.q, g.K) {
			if way.Rows > 0 && way.Rows != p.points || way.Columns > 0 && way.Columns != q.points {
				continue
			}
			for _, order := range []struct{ byParts, weightsBefore bool }{{true, false}, {false, false}, {false, true}} {
				f := &fourierPlan{p: p, q: q, weightsBefore: order.weightsBefore}
				if f.weightsBefore && g.prepare != nil { // they are there in any order
					continue
				}
				if !f.fits(g, limit, order.byParts) {
					continue
				}
				f.estimate(g, limit)
				if f.bytes(g, limit) > b.limits.Tuning.scratch() {
					continue
				}
				// A dispatch is at least one frequency of one job and shard.
				one := int64(f.part) * f.outs * tileOut * f.padded(f.items, f.down)
				if one <= b.MaxCost && (best == nil || f.cost < best.cost) {
					best = f
				}
			}
		}
	}
	return best
}
