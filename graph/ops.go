package graph

// LayerNorm normalises every (H, W) plane of x to mean 0 and population variance 1, then
// multiplies by weight and adds bias, tensors of shape (H, W) (reference section b.2).
func (b *Builder) LayerNorm(label string, x *Tensor, weight, bias string, eps float64) *Tensor {
	y := b.Tensor(label, x.Shape)
	if !b.usable(label, x) {
		return y
	}
	k := b.kernel("layernorm", b.subgroups()...)
	plane := x.plane()
	wb, bb := b.vector(weight, int(plane)), b.vector(bias, int(plane))
	for _, r := range overlap(x, y) {
		gx, gy := b.grid(int64(r.count))
		b.dispatch(label, k, [3]int64{gx, gy, 1}, 8*int64(r.count)*plane, []int{r.buffers[0], wb, bb, r.buffers[1]},
			arg{"rows", int64(r.count)}, arg{"width", gx}, arg{"len", plane}, arg{"eps", floatBits(eps)},
			arg{"x_base", r.bases[0]}, arg{"y_base", r.bases[1]})
	}
	return y
}

// Combine joins the two branches of a decoder layer: (x + tanh(y) + bias) / 3, with a
// tensor bias of shape (H, W) (reference section b.2).
func (b *Builder) Combine(label string, x, y *Tensor, bias string) *Tensor {
	z := b.Tensor(label, x.Shape)
	if !b.usable(label, x, y) {
		return z
	}
	k := b.kernel("combine")
	plane := x.plane()
	bb := b.vector(bias, int(plane))
	for _, r := range overlap(x, y, z) {
		b.each(label, k, int64(r.count)*plane, []int{r.buffers[0], r.buffers[1], bb, r.buffers[2]},
			arg{"plane", plane}, arg{"a_base", r.bases[0]}, arg{"b_base", r.bases[1]}, arg{"z_base", r.bases[2]})
	}
	return z
}

// Add is x + y, a layer's residual.
func (b *Builder) Add(label string, x, y *Tensor) *Tensor {
	z := b.Tensor(label, x.Shape)
	if !b.usable(label, x, y) {
		return z
	}
	k := b.kernel("add")
	for _, r := range overlap(x, y, z) {
		b.each(label, k, int64(r.count)*x.plane(), []int{r.buffers[0], r.buffers[1], r.buffers[2]},
			arg{"x_base", r.bases[0]}, arg{"y_base", r.bases[1]}, arg{"z_base", r.bases[2]})
	}
	return z
}

// Affine is y·scale[n] + offset[n,h,w] for every item of the batch: tensors of shapes (N)
// and (N, H, W).
func (b *Builder) Affine(label string, y *Tensor, scale, offset string) *Tensor {
	z := b.Tensor(label, y.Shape)
	if !b.usable(label, y) {
		return z
	}
	k := b.kernel("affine")
	n, plane := y.Shape[1], y.plane()
	sb := b.vector(scale, n)
	// Tokens outermost: a piece of offset is loaded once and serves the whole batch.
	per := int(min(int64(n), b.scratchLimit()/(plane*4)))
	if per == 0 {
		b.failf("%s: a plane of %d values is larger than a binding", label, plane)
		return z
	}
	for t0 := 0; t0 < n; t0 += per {
		count := min(per, n-t0)
		ob := b.weight(offset, "F32", int64(t0)*plane*4, int64(count)*plane*4)
		for item := range y.Shape[0] {
			first := item*n + t0
			for _, r := range overlap(y.cut(first, count), z.cut(first, count)) {
				at := t0 + r.first - first
				// offset is bound whole: its base moves with y's.
				b.each(label, k, int64(r.count)*plane, []int{r.buffers[0], sb, ob, r.buffers[1]},
					arg{"plane", plane}, arg{"t0", int64(at)}, arg{"offset_base", int64(at-t0) * plane},
					arg{"y_base", r.bases[0]}, arg{"z_base", r.bases[1]})
			}
		}
	}
	return z
}
