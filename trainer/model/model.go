// Package model is the generator's two networks as GoMLX graphs: the text encoder (BERT)
// and the hyper-convolutional decoder, forward and, through GoMLX, backward (reference
// sections a.2 and b). Package fit trains the decoder with it. The same mathematics
// stands as WebGPU dispatches in graph/encoder and graph/decoder; both walk one
// configuration, and one set of goldens holds both.
//
// Its functions build graphs: they panic on shapes that do not fit, as GoMLX does, and
// callers run them inside graph.Exec, which returns such panics as errors.
package model

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graphs read as formulas

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
)

// Params are a network's weights by their key in the state dict.
type Params map[string]*Node

// Trace receives the decoder's intermediate results by name ("layer.0.norm", ...); nil
// for none.
type Trace func(name string, x *Node)

// Axis is the axis of (B,N,H,W) that a convolution takes for its channels.
type axis int

const (
	axisN axis = 1
	axisH axis = 2
	axisW axis = 3
)

// Decode is the decoder: condition (B,N,L,C) to weight tokens (B,T,h,w). noise, if not
// nil, is applied to the condition after the projections (reference d.3).
func Decode(c decoder.Config, p Params, condition *Node, noise func(*Node) *Node, native bool, trace Trace) *Node {
	if trace == nil {
		trace = func(string, *Node) {}
	}
	x := condition
	if c.Class == decoder.SuperLarge {
		x = project(c, p, x)
		trace("condition.projected", x)
	}
	if noise != nil {
		x = noise(x)
	}
	for i := range len(c.Features) - 1 {
		x = layer(c, p, x, i, native, trace)
	}
	if c.Affine {
		t := c.Output()
		scale := Reshape(p["output.scale"], 1, t[0], 1, 1)
		x = Add(Mul(x, scale), Reshape(p["output.offset"], 1, t[0], t[1], t[2]))
	}
	return x
}

// project is SuperLarge's pair of linear maps (b.1): both times the memory is read
// again with other axes, not transposed.
func project(c decoder.Config, p Params, x *Node) *Node {
	d := x.Shape().Dimensions
	b, n, l, w := d[0], d[1], d[2], d[3]
	m := c.ModifiedLength
	rows := Reshape(x, b*n*w, l)
	y := Add(Dot(rows, Transpose(p["down_proj.weight"], 0, 1)).MatMul(), Reshape(p["down_proj.bias"], 1, m))
	z := Add(Dot(y, Transpose(p["gate_proj.weight"], 0, 1)).MatMul(), Reshape(p["gate_proj.bias"], 1, m))
	return Reshape(z, b, n, m, w)
}

// layer is one hyper-convolution block (b.2): x (B,N,H,W) to (B,N',H',W').
func layer(c decoder.Config, p Params, x *Node, i int, native bool, trace Trace) *Node {
	key := func(name string) *Node {
		full := fmt.Sprintf("model.decoder.module_list.%d.%s", i, name)
		w, ok := p[full]
		if !ok {
			panic("model: no tensor " + full)
		}
		return w
	}
	from, to := c.Features[i], c.Features[i+1]
	label := func(name string) string { return fmt.Sprintf("layer.%d.%s", i, name) }

	h := LayerNorm(x, Reshape(key("linear1.norm.weight"), 1, 1, from[1], from[2]), Reshape(key("linear1.norm.bias"), 1, 1, from[1], from[2]), 1e-5, 2, 3)
	trace(label("norm"), h)
	wide := Convolve2D(Convolve2D(h, key("linear1.conv1w.weight"), axisW, native), key("linear1.conv1h.weight"), axisH, native)
	trace(label("width_first"), wide)
	high := Tanh(Convolve2D(Convolve2D(h, key("linear1.conv2h.weight"), axisH, native), key("linear1.conv2w.weight"), axisW, native))
	trace(label("height_first"), high)
	z := DivScalar(Add(Add(wide, high), Reshape(key("linear1.bias"), 1, 1, to[1], to[2])), 3)
	trace(label("linear1"), z)
	y := Add(Convolve2D(z, key("linear2.weight"), axisN, native), Reshape(key("linear2.bias"), 1, to[0], 1, 1))
	if from == to {
		trace(label("linear2"), y)
		y = Add(x, y)
	}
	trace(label("out"), y)
	return y
}

// LayerNorm normalises over axes together: population variance, then · weight + bias,
// which must broadcast.
func LayerNorm(x, weight, bias *Node, eps float64, axes ...int) *Node {
	mean := ReduceAndKeep(x, ReduceMean, axes...)
	centred := Sub(x, mean)
	variance := ReduceAndKeep(Square(centred), ReduceMean, axes...)
	// Rsqrt has no gradient in GoMLX.
	return Add(Mul(Div(centred, Sqrt(AddScalar(variance, eps))), weight), bias)
}

// Convolve2D is the "same" convolution of x (B,N,H,W) with w (out,in,k,k), the channels
// on axis ch; an even kernel is padded by one more behind (b.2). native takes the
// backend's own convolution (backend.NativeConvolution).
func Convolve2D(x, w *Node, ch axis, native bool) *Node {
	if native {
		return nativeConvolution(x, w, ch)
	}
	return productConvolution(x, w, ch)
}

// spatial are the two axes that are not the channels, in the order of the kernel's.
func spatial(ch axis) [2]int {
	switch ch {
	case axisW:
		return [2]int{int(axisH), int(axisN)}
	case axisH:
		return [2]int{int(axisN), int(axisW)}
	}
	return [2]int{int(axisH), int(axisW)}
}

func nativeConvolution(x, w *Node, ch axis) *Node {
	s := spatial(ch)
	k := w.Shape().Dimensions[2]
	pad := [2]int{(k - 1) / 2, k - 1 - (k-1)/2}
	return Convolve(x, w).AxesConfig(compute.ConvolveAxesConfig{
		InputBatch: 0, InputChannels: int(ch), InputSpatial: s[:],
		KernelOutputChannels: 0, KernelInputChannels: 1, KernelSpatial: []int{2, 3},
		OutputBatch: 0, OutputChannels: int(ch), OutputSpatial: s[:],
	}).PaddingPerDim([][2]int{pad, pad}).Done()
}

// productConvolution writes the convolution as k matrix products over rows gathered along the
// second kernel axis: GoMLX's Go backend is fast at matrix products only. Zeros are
// concatenated, because Pad has no gradient.
func productConvolution(x, w *Node, ch axis) *Node {
	s := spatial(ch)
	k, out, in := w.Shape().Dimensions[2], w.Shape().Dimensions[0], w.Shape().Dimensions[1]
	x = TransposeAllAxes(x, 0, s[0], s[1], int(ch)) // (B,P,Q,C)
	d := x.Shape().Dimensions
	b, p, q := d[0], d[1], d[2]
	for _, a := range []int{1, 2} {
		front, back := (k-1)/2, k-1-(k-1)/2
		parts := []*Node{}
		if front > 0 {
			parts = append(parts, zeros(x, a, front))
		}
		parts = append(parts, x)
		if back > 0 {
			parts = append(parts, zeros(x, a, back))
		}
		if len(parts) > 1 {
			x = Concatenate(parts, a)
		}
	}
	columns := make([]*Node, k)
	for j := range k {
		columns[j] = Slice(x, AxisRange(), AxisRange(), AxisRange(j, j+q), AxisRange())
	}
	rows := columns[0]
	if k > 1 {
		rows = Concatenate(columns, -1)
	}
	// (out,in,k,k) to (k, k·in, out), in the order of rows' columns.
	kernel := Reshape(TransposeAllAxes(w, 2, 3, 1, 0), k, k*in, out)
	var sum *Node
	for i := range k {
		left := Reshape(Slice(rows, AxisRange(), AxisRange(i, i+p), AxisRange(), AxisRange()), b*p*q, k*in)
		right := Reshape(Slice(kernel, AxisElem(i)), k*in, out)
		y := Dot(left, right).MatMul()
		if sum == nil {
			sum = y
		} else {
			sum = Add(sum, y)
		}
	}
	// (B,P,Q,out) back to (B,N,H,W): the permutation that undoes the one above.
	var back [4]int
	for to, from := range []int{0, s[0], s[1], int(ch)} {
		back[from] = to
	}
	return TransposeAllAxes(Reshape(sum, b, p, q, out), back[0], back[1], back[2], back[3])
}

func zeros(x *Node, axis, n int) *Node {
	shape := x.Shape().Clone()
	shape.Dimensions[axis] = n
	return Zeros(x.Graph(), shape)
}

// Loss is the weighted masked mean square (d.3): output and target (B,T,h,w), NaN in the
// target where a token holds nothing; weight (1,T,1,1). Scalar.
func Loss(output, target, weight *Node) *Node {
	valid := Equal(target, target)
	zero := ZerosLike(target)
	target, output = Where(valid, target, zero), Where(valid, output, zero)
	count := ReduceAllSum(ConvertDType(valid, dtypes.Float32))
	return Div(ReduceAllSum(Mul(weight, Square(Sub(output, target)))), MaxScalar(count, 1))
}
