package graph

import "github.com/drag-and-drop-lora/dnd/wgsl"

// wideDispatch is the number of invocations that keeps a large GPU busy. A dispatch with
// fewer has its sums cut into slices of at least minSlice products, added up afterwards.
const (
	wideDispatch = 1 << 16
	minSlice     = 256
)

// box is the outputs of one job and shard that lie in one buffer of y.
type box struct {
	job            job
	shard          shard
	padded, buffer int
	items          span
	out, p, q      span
	base           int64 // index of the buffer's value at items.from and 0 elsewhere
}

// plan is how a box is cut into dispatches: chunks of tiles, slices of the input channels
// that run side by side, and steps of a slice's channels that run one after the other.
type plan struct {
	tiles, outTiles         int64 // of the box
	chunkTiles, chunkOut    int64
	slice, slices, stepSize int64
}

// direct says that each invocation finishes its sums at once.
func (p plan) direct(channels int64) bool { return p.slices == 1 && p.stepSize >= channels }

func (g *geometry) plan(x box, maxCost, limit int64) plan {
	// Partial sums of a dispatch lie in one buffer.
	wide := min(wideDispatch, limit/(g.tile.values()*4))
	channels, taps := int64(g.c), g.taps()
	p := plan{
		tiles:    int64(x.items.len()) * int64(x.p.len()) * ceil(int64(x.q.len()), int64(g.tile.Positions)),
		outTiles: ceil(int64(x.out.len()), int64(g.tile.Outputs)),
		slice:    channels, slices: 1, stepSize: channels,
	}
	threads := p.tiles * p.outTiles
	if want := min(wide/threads, taps/minSlice, channels); want > 1 {
		p.slice = ceil(channels, want)
		p.slices = ceil(channels, p.slice)
	}
	// One invocation with all its sums, in multiply-accumulates.
	each := taps * g.tile.values()
	most := max(maxCost/each, 1)
	if p.slices == 1 && most >= min(threads, wide) && each <= maxCost {
		p.chunk(most)
		return p
	}
	p.chunk(wide)
	perChannel := p.chunkTiles * p.chunkOut * p.slices * each / channels
	p.stepSize = min(p.slice, max(maxCost/max(perChannel, 1), 1))
	return p
}

// chunk sets how many tiles a dispatch takes, for at most n invocations.
func (p *plan) chunk(n int64) {
	p.chunkTiles = min(p.tiles, n)
	p.chunkOut = min(p.outTiles, max(n/p.chunkTiles, 1))
}

func (t Tile) values() int64 { return int64(t.Outputs * t.Positions) }

// fours are the kernels' constants for a tile, none for the planner's.
func (t Tile) fours() []wgsl.Const {
	if t == plannedTile {
		return nil
	}
	return []wgsl.Const{{Name: "OutFours", Value: t.Outputs / 4}, {Name: "PositionFours", Value: t.Positions / 4}}
}

func (b *Builder) convolveBox(g *geometry, x box) {
	p := g.plan(x, b.MaxCost, b.scratchLimit())
	groups := int64(b.limits.MaxComputeWorkgroupsPerDimension)
	direct := p.direct(int64(g.c))
	hasBias, gelu := int(flag(g.Bias != "")), int(flag(g.GELU))
	conv := []wgsl.Const{{Name: "K", Value: g.K}, {Name: "HasBias", Value: hasBias}, {Name: "Gelu", Value: gelu}, {Name: "Partial", Value: 0}}
	if !direct {
		conv[1].Value, conv[2].Value, conv[3].Value = 0, 0, 1
	}
	conv = append(conv, b.half(g.DType)...)
	var mask []int
	pads := []arg{{"mask_base", 0}, {"period", 0}, {"length", 0}}
	if g.Pads != nil {
		c := g.Pads.Chunks
		conv = append(conv, wgsl.Const{Name: "Skip", Value: 1})
		mask = []int{g.Pads.Mask.buffer}
		pads = []arg{{"mask_base", int64(c.First) * int64(c.Length)}, {"period", int64(c.Period())}, {"length", int64(c.Length)}}
	}
	fours := g.tile.fours()
	k := b.kernel("conv", append(conv, fours...)...)
	if b.err != nil {
		return
	}
	p.chunkTiles = min(p.chunkTiles, groups*int64(k.Workgroup))
	p.chunkOut = min(p.chunkOut, groups)
	if p.slices > groups {
		b.failf("%s: %d slices, at most %d", g.Label, p.slices, groups)
		return
	}
	var bias []int
	if g.Bias != "" {
		bias = []int{b.vector(g.Bias, g.Out)}
	}
	outs, positions, values := int64(g.tile.Outputs), int64(g.tile.Positions), g.tile.values()
	part := 0
	if !direct {
		part = b.temp(g.Label+".partial", p.slices*p.chunkOut*p.chunkTiles*values*4)
	}
	for o := int64(0); o < p.outTiles; o += p.chunkOut {
		for t := int64(0); t < p.tiles; t += p.chunkTiles {
			outTiles, tiles := min(p.chunkOut, p.outTiles-o), min(p.chunkTiles, p.tiles-t)
			tiling := []arg{{"tiles", tiles}, {"tile0", t}, {"nq", ceil(int64(x.q.len()), positions)}, {"np", int64(x.p.len())}}
			store := []arg{
				{"out_base", x.base + (int64(x.out.from)+o*outs)*g.outC + int64(x.p.from)*g.outP + int64(x.q.from)*g.outQ},
				{"out_item", int64(g.y.Shape[1]) * g.y.plane()}, {"out_o", g.outC}, {"out_p", g.outP}, {"out_q", g.outQ},
				{"o_end", int64(x.out.len()) - o*outs}, {"q_end", int64(x.q.len())}, {"bias0", int64(x.out.from) + o*outs},
			}
			sums := append(append([]arg{
				{"x_item", int64(g.c) * int64(x.job.rows.len()) * x.job.stride}, {"q0", int64(x.q.from-x.job.q.from) / 4},
				{"cin", int64(g.c)}, {"rows", int64(x.job.rows.len())}, {"stride", x.job.stride},
				{"top", int64(x.p.from - g.pad - x.job.rows.from)}, {"slice", p.slice},
				{"o_tile0", int64(x.out.from-x.shard.out.from)/outs + o}, {"o_tiles", outTiles},
			}, tiling...), store...)
			cost := tiles * outTiles * p.slices * int64(g.K) * int64(g.K) * values
			for c := int64(0); c < p.slice; c += p.stepSize {
				last := min(c+p.stepSize, p.slice)
				target := append([]int{x.padded, x.shard.packed, x.buffer}, bias...)
				if !direct {
					target = []int{x.padded, x.shard.packed, part}
				}
				b.dispatch(g.Label, k, [3]int64{ceil(tiles, int64(k.Workgroup)), outTiles, p.slices}, cost*(last-c), append(target, mask...),
					append(append([]arg{{"c_first", c}, {"c_last", last}, {"again", flag(c > 0)}}, sums...), pads...)...)
			}
			if direct {
				continue
			}
			r := b.kernel("reduce", append([]wgsl.Const{{Name: "HasBias", Value: hasBias}, {Name: "Gelu", Value: gelu}}, fours...)...)
			b.dispatch(g.Label+".reduce", r, [3]int64{ceil(tiles, int64(r.Workgroup)), outTiles, values / 4},
				tiles*outTiles*p.slices*values, append([]int{part, x.buffer}, bias...),
				append(append([]arg{{"o_tiles", outTiles}, {"slices", p.slices}}, tiling...), store...)...)
		}
	}
	if !direct {
		b.releaseBuffer(part)
	}
}

func flag(v bool) int64 {
	if v {
		return 1
	}
	return 0
}
