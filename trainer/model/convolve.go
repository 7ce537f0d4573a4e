package model

import "github.com/gomlx/gomlx/core/graph"

// An Axis is a convolution's channel axis in x (B,N,H,W). The two other axes after B are
// its plane.
type Axis int

// The three channel axes.
const (
	AxisN Axis = 1 + iota
	AxisH
	AxisW
)

// plane lists the axes that the kernel's third and fourth axis go along (reference b.2).
func (a Axis) plane() [2]int {
	switch a {
	case AxisW:
		return [2]int{2, 1}
	case AxisH:
		return [2]int{1, 3}
	}
	return [2]int{2, 3}
}

// padding is "same", one more zero after than before where k is even.
func padding(k int) [2]int { return [2]int{(k - 1) / 2, k / 2} }

// Rows is the axis that the kernel's third axis goes along: the one that tiles cut.
func (a Axis) Rows() int { return a.plane()[0] }

// Columns is the axis that the kernel's fourth axis goes along.
func (a Axis) Columns() int { return a.plane()[1] }

// Plane are the lengths of the axes that the kernel's third and fourth axis go along, of
// x's shape (B,N,H,W).
func (a Axis) Plane(shape [4]int) (rows, columns int) {
	p := a.plane()
	return shape[p[0]], shape[p[1]]
}

// Convolve is one convolution of section b.2, without bias: x (B,N,H,W), weight
// (out, in, k, k) -> x's shape with axis of length out. native says that the backend's own
// convolution is fast (backend.Backend.NativeConvolution); otherwise it is a sum of k
// matrix products. Fast ones still lose to one product where there are very many output
// channels.
func Convolve(x, weight *graph.Node, axis Axis, native bool) *graph.Node {
	k := weight.Shape().Dimensions[2]
	if native && k%2 == 0 {
		// GoMLX's gradient of a convolution is wrong for even kernels; this odd one does the
		// same.
		k++
		weight = padZero(padZero(weight, 2, [2]int{1, 0}), 3, [2]int{1, 0})
	}
	return convolve(x, weight, axis, [2][2]int{padding(k), padding(k)}, native)
}

// ConvolveTile is one tile of Convolve: rows positions along the plane's first axis
// (Axis.Rows) from first on, of one item of the batch -> (1,...).
func ConvolveTile(x, weight *graph.Node, axis Axis, item, first, rows int, native bool) *graph.Node {
	k := weight.Shape().Dimensions[2]
	pad := padding(k)
	along := axis.Rows()
	n := x.Shape().Dimensions[along]
	// Only what the tile reads is cut out, and zeros stand for what is outside.
	from, to := first-pad[0], first+rows+pad[1]
	x = graph.SliceAxis(graph.SliceAxis(x, 0, graph.AxisElem(item)), along, graph.AxisRange(max(from, 0), min(to, n)))
	x = padZero(x, along, [2]int{max(-from, 0), max(to-n, 0)})
	return convolve(x, weight, axis, [2][2]int{{}, padding(k)}, native)
}

// ConvolveAnyTile is ConvolveTile with item and first as scalars, so that one compiled
// graph serves all tiles of a size. GoMLX's Go backend lacks the operation.
func ConvolveAnyTile(x, item, first, weight *graph.Node, axis Axis, rows int, native bool) *graph.Node {
	k := weight.Shape().Dimensions[2]
	along := axis.Rows()
	x = padZero(x, along, padding(k))
	size := append([]int(nil), x.Shape().Dimensions...)
	start := make([]*graph.Node, len(size))
	for i := range start {
		start[i] = graph.ZerosLike(item)
	}
	size[0], start[0] = 1, item
	size[along], start[along] = rows+k-1, first
	return convolve(graph.DynamicSlice(x, start, size), weight, axis, [2][2]int{{}, padding(k)}, native)
}

func convolve(x, weight *graph.Node, axis Axis, pad [2][2]int, native bool) *graph.Node {
	switch k := weight.Shape().Dimensions[2]; {
	case k == 1:
		return pointwise(x, weight, axis)
	case native && axis == AxisN && oneProduct(x, weight):
		return convolveProduct(x, weight, pad, k)
	case native:
		return convolveNative(x, weight, axis, pad)
	default:
		return convolveRows(x, weight, axis, pad, k)
	}
}

// convolveNative leaves all axes where they are: XLA chooses the layouts.
func convolveNative(x, weight *graph.Node, axis Axis, pad [2][2]int) *graph.Node {
	p := axis.plane()
	return graph.Convolve(x, weight).
		AxesConfig(graph.ConvolveAxesConfig{
			InputBatch: 0, InputChannels: int(axis), InputSpatial: p[:],
			KernelOutputChannels: 0, KernelInputChannels: 1, KernelSpatial: []int{2, 3},
			OutputBatch: 0, OutputChannels: int(axis), OutputSpatial: p[:],
		}).
		PaddingPerDim(pad[:]).
		Done()
}

// oneProduct says whether a convolution along N is faster as one product of matrices.
// With 1590 output channels and k = 3, XLA's CPU does 85 instead of 56 GFLOP a second of
// one core, backward included; with 200 it does fewer. Larger kernels take XLA long to
// compile, and the gathered neighbours must fit in memory.
func oneProduct(x, weight *graph.Node) bool {
	w := weight.Shape().Dimensions
	gathered := int64(x.Shape().Size()) * int64(w[2]*w[3])
	return w[0] >= 512 && w[2] <= 5 && gathered <= 1<<26
}

// convolveProduct gathers all neighbours, in the order of the weight's memory.
func convolveProduct(x, weight *graph.Node, pad [2][2]int, k int) *graph.Node {
	out, in := weight.Shape().Dimensions[0], weight.Shape().Dimensions[1]
	t := graph.TransposeAllAxes(x, 1, 0, 2, 3)
	t = padZero(padZero(t, 2, pad[0]), 3, pad[1])
	d := t.Shape().Dimensions
	batch, rows, columns := d[1], d[2]-k+1, d[3]-k+1
	shifted := make([]*graph.Node, 0, k*k)
	for i := range k {
		for j := range k {
			part := graph.Slice(t, graph.AxisRange(), graph.AxisRange(), graph.AxisRange(i, i+rows), graph.AxisRange(j, j+columns))
			shifted = append(shifted, graph.Reshape(part, in, 1, batch*rows*columns))
		}
	}
	patches := graph.Reshape(graph.Concatenate(shifted, 1), in*k*k, batch*rows*columns)
	y := graph.Dot(graph.Reshape(weight, out, in*k*k), patches).MatMul()
	return graph.TransposeAllAxes(graph.Reshape(y, out, batch, rows, columns), 1, 0, 2, 3)
}

// toPlane moves the channel axis last: (B, plane 0, plane 1, channels).
func toPlane(x *graph.Node, axis Axis) *graph.Node {
	p := axis.plane()
	return graph.TransposeAllAxes(x, 0, p[0], p[1], int(axis))
}

func fromPlane(x *graph.Node, axis Axis) *graph.Node {
	p := axis.plane()
	var back [4]int
	back[p[0]], back[p[1]], back[axis] = 1, 2, 3
	return graph.TransposeAllAxes(x, back[:]...)
}

// convolveRows gathers the k neighbours along the plane's second axis beside the
// channels, then adds up the products of the k shifted rows.
func convolveRows(x, weight *graph.Node, axis Axis, pad [2][2]int, k int) *graph.Node {
	t := toPlane(x, axis)
	t = padZero(padZero(t, 1, pad[0]), 2, pad[1])
	d := t.Shape().Dimensions
	batch, rows, columns, in := d[0], d[1]-k+1, d[2]-k+1, d[3]
	out := weight.Shape().Dimensions[0]
	shifted := make([]*graph.Node, k)
	for j := range k {
		shifted[j] = graph.Slice(t, graph.AxisRange(), graph.AxisRange(), graph.AxisRange(j, j+columns), graph.AxisRange())
	}
	t = graph.Concatenate(shifted, -1)
	w := graph.Reshape(graph.TransposeAllAxes(weight, 2, 3, 1, 0), k, k*in, out)
	var sum *graph.Node
	for i := range k {
		rowsOf := graph.Reshape(graph.Slice(t, graph.AxisRange(), graph.AxisRange(i, i+rows)), batch*rows*columns, k*in)
		y := graph.Dot(rowsOf, graph.Reshape(graph.Slice(w, graph.AxisElem(i)), k*in, out)).MatMul()
		if sum == nil {
			sum = y
		} else {
			sum = graph.Add(sum, y)
		}
	}
	return fromPlane(graph.Reshape(sum, batch, rows, columns, out), axis)
}

func pointwise(x, weight *graph.Node, axis Axis) *graph.Node {
	t := toPlane(x, axis)
	d := t.Shape().Dimensions
	out, in := weight.Shape().Dimensions[0], weight.Shape().Dimensions[1]
	w := graph.TransposeAllAxes(graph.Reshape(weight, out, in), 1, 0)
	y := graph.Dot(graph.Reshape(t, d[0]*d[1]*d[2], in), w).MatMul()
	return fromPlane(graph.Reshape(y, d[0], d[1], d[2], out), axis)
}

// padZero adds zeros along an axis. graph.Pad has no gradient.
func padZero(x *graph.Node, axis int, pad [2]int) *graph.Node {
	parts := make([]*graph.Node, 0, 3)
	zeros := func(n int) {
		if n > 0 {
			s := x.Shape().Clone()
			s.Dimensions[axis] = n
			parts = append(parts, graph.Zeros(x.Graph(), s))
		}
	}
	zeros(pad[0])
	parts = append(parts, x)
	zeros(pad[1])
	if len(parts) == 1 {
		return x
	}
	return graph.Concatenate(parts, axis)
}
