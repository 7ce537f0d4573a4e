package graph

import "github.com/drag-and-drop-lora/dnd/wgsl"

// The convolution in the frequency domain, by overlap-save: tiles of the input's planes
// and the kernels are transformed, multiplied frequency by frequency as matrices of
// channels, and transformed back. Spectra of kernels are several times their size, so
// they are made for some outputs at a time, used, and made again by the next run, unless
// they are prepared: then all of them stay.

// fourier adds the dispatches of a convolution by a plan.
func (b *Builder) fourier(g *geometry, f *fourierPlan) {
	var jobs []job
	if f.down == f.p.count {
		for i := 0; i < g.x.Shape[0]; i += f.items {
			jobs = append(jobs, g.job(span{i, min(i+f.items, g.x.Shape[0])}, span{0, g.p}, span{0, g.q}))
		}
	} else {
		for i := range g.x.Shape[0] {
			for p := 0; p < g.p; p += f.down * f.p.step {
				jobs = append(jobs, g.job(span{i, i + 1}, clip(p, p+f.down*f.p.step, g.p), span{0, g.q}))
			}
		}
	}
	var shards []span
	for o := 0; o < g.Out; o += int(f.outs) * tileOut {
		shards = append(shards, span{o, min(o+int(f.outs)*tileOut, g.Out)})
	}
	parts := f.parts(g)
	if f.weightsBefore {
		for _, out := range shards {
			w := b.kernelSpectra(g, f, out, parts[0])
			for _, j := range jobs {
				x := b.planeSpectra(g, f, j, parts)
				products := b.products(g, f, j)
				b.multiply(g, f, j, x[0], w, products, parts[0])
				b.releaseBuffer(x[0])
				b.inverse(g, f, j, out, products)
			}
			b.releaseBuffer(w)
		}
		return
	}
	stay := make([][]int, len(shards))
	for _, j := range jobs {
		x := b.planeSpectra(g, f, j, parts)
		for s, out := range shards {
			products := b.products(g, f, j)
			for i, c := range parts {
				if b.Prepare == nil {
					w := b.kernelSpectra(g, f, out, c)
					b.multiply(g, f, j, x[i], w, products, c)
					b.releaseBuffer(w)
					continue
				}
				if i == len(stay[s]) {
					b.once(func() { stay[s] = append(stay[s], b.kernelSpectra(g, f, out, c)) })
				}
				b.multiply(g, f, j, x[i], stay[s][i], products, c)
			}
			b.inverse(g, f, j, out, products)
		}
		for _, spectra := range x {
			b.releaseBuffer(spectra)
		}
	}
}

// parts are the channels whose spectra lie in one buffer.
func (f *fourierPlan) parts(g *geometry) []span {
	var parts []span
	for c := 0; c < g.c; c += f.part {
		parts = append(parts, clip(c, c+f.part, g.c))
	}
	return parts
}

// spread is a grid with an invocation for each of count values, as each has it, for
// dispatches whose cost is ops for each value.
func (b *Builder) spread(label string, k kernelEntry, count, ops int64, buffers []int, args ...arg) {
	if b.err != nil {
		return
	}
	x, y := b.grid(ceil(count, int64(k.Workgroup)))
	b.dispatch(label, k, [3]int64{x, y, 1}, count*ops, buffers,
		append([]arg{{"count", count}, {"width", x * int64(k.Workgroup)}}, args...)...)
}

// lineSpectra transforms lines of values, cut into across tiles: groups of lines, skip apart.
func (b *Builder) lineSpectra(label string, f *fourierPlan, n, store, src int, base, lines, group, skip, line, across int64) (half int) {
	count := lines * across
	half = b.temp(label+".rows", f.half()*count*8)
	k := b.kernel("fourierrows", wgsl.Const{Name: "T", Value: f.q.points}, wgsl.Const{Name: "N", Value: n}, wgsl.Const{Name: "Store", Value: store})
	b.spread(label, k, count, int64(wgsl.RealOps(f.q.points, n)), []int{src, half},
		arg{"base", base}, arg{"group", group}, arg{"skip", skip}, arg{"line", line}, arg{"step", int64(f.q.step)}, arg{"across", across})
	return half
}

// planeSpectra makes the spectra [frequency][channel][tile] of a job's tiles, a buffer for
// each part of the channels.
func (b *Builder) planeSpectra(g *geometry, f *fourierPlan, j job, parts []span) (spectra []int) {
	label := g.Label + ".spectra"
	padded := b.gather(g, j)
	items, rows, across, down := int64(j.items.len()), int64(j.rows.len()), int64(f.q.count), f.bands(j)
	tiles := f.padded(j.items.len(), int(down))
	for _, c := range parts {
		// Several parts are those of one item.
		channels, lines := int64(c.len()), items*int64(c.len())*rows
		half := b.lineSpectra(label, f, f.q.points, wgsl.StoreF32, padded, int64(c.from)*rows*j.stride*4, lines, lines, 0, j.stride*4, across)
		block := channels * tiles
		to := b.temp(label, f.reals()*block*4)
		k := b.kernel("fouriercolumns", wgsl.Const{Name: "T", Value: f.p.points}, wgsl.Const{Name: "N", Value: f.p.points}, wgsl.Const{Name: "Taps"})
		b.spread(label, k, f.half()*block, int64(wgsl.ComplexOps(f.p.points, f.p.points)), []int{half, to},
			arg{"block", block}, arg{"channels", channels}, arg{"outputs", 0}, arg{"items", items}, arg{"rows", rows},
			arg{"across", across}, arg{"down", down}, arg{"tiles", items * down * across}, arg{"padded", tiles},
			arg{"step", int64(f.p.step)}, arg{"top", int64(j.p.from - g.pad - j.rows.from)})
		b.releaseBuffer(half)
		spectra = append(spectra, to)
	}
	b.releaseBuffer(padded)
	return spectra
}

// kernelSpectra makes the spectra [frequency][eight outputs][channel][8] of the kernels from
// some channels to some outputs.
func (b *Builder) kernelSpectra(g *geometry, f *fourierPlan, out, c span) (spectra int) {
	label := g.Label + ".kernels"
	n, channels, k := int64(out.len()), int64(c.len()), int64(g.K)
	raw, base := b.weightValues(g.Weight, g.DType, int64(out.from)*g.taps(), n*g.taps(), int64(g.Out)*g.taps())
	half := b.lineSpectra(label, f, g.K, storages[g.DType].store, raw, base+int64(c.from)*k*k, n*channels*k, channels*k, g.taps(), k, 1)

	block := f.outs * channels * tileOut
	spectra = b.temp(label, f.reals()*block*4)
	entry := b.kernel("fouriercolumns", wgsl.Const{Name: "T", Value: f.p.points}, wgsl.Const{Name: "N", Value: g.K}, wgsl.Const{Name: "Taps", Value: 1})
	b.spread(label, entry, f.half()*block, int64(wgsl.ComplexOps(f.p.points, g.K)), []int{half, spectra},
		arg{"block", block}, arg{"channels", channels}, arg{"outputs", n}, arg{"items", 0}, arg{"rows", 0}, arg{"across", 0},
		arg{"down", 0}, arg{"tiles", 0}, arg{"padded", 0}, arg{"step", 0}, arg{"top", 0})
	b.releaseBuffer(half)
	return spectra
}

// products is a buffer for the products [slice][frequency][output][tile] of a job and a shard.
func (b *Builder) products(g *geometry, f *fourierPlan, j job) int {
	padded := f.padded(j.items.len(), int(f.bands(j)))
	slices, _ := f.slices(f.outs, padded, b.scratchLimit())
	return b.temp(g.Label+".products", slices*f.reals()*f.outs*tileOut*padded*4)
}

// multiply multiplies a job's spectra with a shard's, and adds up those of all parts.
func (b *Builder) multiply(g *geometry, f *fourierPlan, j job, x, w, products int, c span) {
	padded := f.padded(j.items.len(), int(f.bands(j)))
	slices, slice := f.slices(f.outs, padded, b.scratchLimit())
	k := b.kernel("fourierproduct")
	if b.err != nil {
		return
	}
	// A workgroup's invocations in three dimensions.
	tiles := padded / tilePos
	wt := min(power(tiles), 8)
	wo := min(power(f.outs), 8)
	wf := int64(k.Workgroup) / (wt * wo)
	groups := int64(b.limits.MaxComputeWorkgroupsPerDimension)
	blocks := ceil(tiles, wt) * ceil(f.outs, wo)
	if slices > groups || blocks > groups {
		b.failf("%s: %d slices and %d blocks, at most %d", g.Label, slices, blocks, groups)
		return
	}
	each := int64(c.len()) * f.outs * tileOut * padded // of one frequency
	most := max(min(b.MaxCost/each, groups*wf), 1)
	for first := int64(0); first < f.reals(); first += most {
		last := min(first+most, f.reals())
		b.dispatch(g.Label, k, [3]int64{blocks, ceil(last-first, wf), slices}, (last-first)*each, []int{x, w, products},
			arg{"tiles", tiles}, arg{"outs", f.outs}, arg{"frequencies", f.reals()}, arg{"first", first}, arg{"last", last},
			arg{"cin", int64(c.len())}, arg{"slice", slice}, arg{"wt", wt}, arg{"wo", wo}, arg{"again", flag(c.from > 0)})
	}
}

// inverse transforms products back and stores them.
func (b *Builder) inverse(g *geometry, f *fourierPlan, j job, out span, products int) {
	padded := f.padded(j.items.len(), int(f.bands(j)))
	slices, _ := f.slices(f.outs, padded, b.scratchLimit())
	label, kept, block := g.Label+".inverse", int64(f.p.kept), f.outs*tileOut*padded
	half := b.temp(label, f.half()*kept*block*8)
	k := b.kernel("inversecolumns", wgsl.Const{Name: "T", Value: f.p.points}, wgsl.Const{Name: "S", Value: f.p.kept})
	b.spread(label, k, f.half()*block, int64(wgsl.ComplexBackOps(f.p.points, f.p.kept)), []int{products, half},
		arg{"block", block}, arg{"slices", slices})
	b.releaseBuffer(products)
	b.store(g, f, j, out, half)
	b.releaseBuffer(half)
}

// store transforms rows back, into each of y's buffers.
func (b *Builder) store(g *geometry, f *fourierPlan, j job, outputs span, half int) {
	n, down := g.y.Shape[1], f.bands(j)
	padded := f.padded(j.items.len(), int(down))
	buffers := []int{half, 0}
	if g.Bias != "" {
		buffers = append(buffers, b.vector(g.Bias, g.Out))
	}
	k := b.kernel("inverserows", wgsl.Const{Name: "T", Value: f.q.points}, wgsl.Const{Name: "S", Value: f.q.kept},
		wgsl.Const{Name: "HasBias", Value: int(flag(g.Bias != ""))}, wgsl.Const{Name: "Gelu", Value: int(flag(g.GELU))})
	for _, part := range g.y.parts {
		items, planes := part.spans(n)
		items = items.and(j.items)
		out, p, q := outputs, j.p, j.q
		switch g.Axis {
		case AxisN:
			out = out.and(planes)
		case AxisH:
			p = p.and(planes)
		case AxisW:
			q = q.and(planes)
		}
		if items.len() <= 0 || out.len() <= 0 || p.len() <= 0 || q.len() <= 0 {
			continue
		}
		buffers[1] = part.buffer
		rows := int64(f.p.kept)
		b.spread(g.Label+".inverse", k, rows*f.outs*tileOut*padded, int64(wgsl.RealBackOps(f.q.points, f.q.kept)), buffers,
			arg{"rows", rows}, arg{"outputs", f.outs * tileOut}, arg{"tiles", int64(j.items.len()) * down * int64(f.q.count)},
			arg{"padded", padded}, arg{"across", int64(f.q.count)}, arg{"down", down},
			arg{"step_p", int64(f.p.step)}, arg{"step_q", int64(f.q.step)}, arg{"p0", int64(j.p.from)}, arg{"o0", int64(outputs.from)},
			arg{"o_fast", flag(g.outC == 1 && g.outQ != 1)},
			arg{"item_lo", int64(items.from - j.items.from)}, arg{"items", int64(items.len())},
			arg{"o_lo", int64(out.from)}, arg{"o_count", int64(out.len())}, arg{"p_lo", int64(p.from)}, arg{"p_count", int64(p.len())},
			arg{"q_lo", int64(q.from)}, arg{"q_end", int64(q.to)}, arg{"scale", floatBits(1 / float64(f.p.points*f.q.points))},
			arg{"out_base", part.index(items.from*n, g.y.plane())}, arg{"out_item", int64(n) * g.y.plane()},
			arg{"out_o", g.outC}, arg{"out_p", g.outP}, arg{"out_q", g.outQ})
	}
}

// power is the least power of two that is at least n.
func power(n int64) int64 {
	p := int64(1)
	for p < n {
		p *= 2
	}
	return p
}
