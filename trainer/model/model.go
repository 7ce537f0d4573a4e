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
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
)

// Params are a network's weights by their key in the state dict.
type Params map[string]*graph.Node

// Trace receives the decoder's intermediate results by name ("layer.0.norm", ...); nil
// for none.
type Trace func(name string, x *graph.Node)

// Decode is the decoder: condition (B,N,L,C) to weight tokens (B,T,h,w). noise, if not
// nil, is applied to the condition after the projections (reference d.3). Convolutions and
// projections compute in the precision of their weights, everything else in float32: p
// with Mixed's weights is the reference's autocast (b.3).
func Decode(c decoder.Config, p Params, condition *graph.Node, noise func(*graph.Node) *graph.Node, native bool, trace Trace) *graph.Node {
	if trace == nil {
		trace = func(string, *graph.Node) {}
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
	x = single(x)
	if r := c.Rank(); r > 0 {
		x = Expand(p[decoder.BasisKey], x, c.Output())
	}
	if c.Affine {
		t := c.Output()
		scale := graph.Reshape(p["output.scale"], 1, t[0], 1, 1)
		x = graph.Add(graph.Mul(x, scale), graph.Reshape(p["output.offset"], 1, t[0], t[1], t[2]))
	}
	return x
}

// Expand makes weight tokens (B,T,h,w), of shape out, of their coordinates (B,...), such as the
// decoder's last features, in a basis (T·h·w,r).
func Expand(basis, x *graph.Node, out [3]int) *graph.Node {
	batch, rank := x.Shape().Dimensions[0], basis.Shape().Dimensions[1]
	x = graph.Dot(as(graph.Reshape(x, batch, rank), basis), graph.Transpose(basis, 0, 1)).MatMul()
	return single(graph.Reshape(x, batch, out[0], out[1], out[2]))
}

// Mixed is p with the weights of convolutions and projections in another precision.
func Mixed(p Params, dtype dtypes.DType) Params {
	out := Params{}
	for name, w := range p {
		if w.Rank() == 4 || strings.HasSuffix(name, "_proj.weight") {
			w = graph.ConvertDType(w, dtype)
		}
		out[name] = w
	}
	return out
}

// as is x in the precision of w.
func as(x, w *graph.Node) *graph.Node { return graph.ConvertDType(x, w.DType()) }

func single(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.Float32) }

// project is SuperLarge's pair of linear maps (b.1): both times the memory is read
// again with other axes, not transposed.
func project(c decoder.Config, p Params, x *graph.Node) *graph.Node {
	d := x.Shape().Dimensions
	b, n, l, w := d[0], d[1], d[2], d[3]
	m := c.ModifiedLength
	linear := func(x *graph.Node, name string) *graph.Node {
		y := graph.Dot(as(x, p[name+".weight"]), graph.Transpose(p[name+".weight"], 0, 1)).MatMul()
		return graph.Add(y, as(graph.Reshape(p[name+".bias"], 1, m), y))
	}
	z := linear(linear(graph.Reshape(x, b*n*w, l), "down_proj"), "gate_proj")
	return single(graph.Reshape(z, b, n, m, w))
}

// layer is one hyper-convolution block (b.2): x (B,N,H,W) to (B,N',H',W').
func layer(c decoder.Config, p Params, x *graph.Node, i int, native bool, trace Trace) *graph.Node {
	key := func(name string) *graph.Node {
		full := fmt.Sprintf("model.decoder.module_list.%d.%s", i, name)
		w, ok := p[full]
		if !ok {
			panic("model: no tensor " + full)
		}
		return w
	}
	from, to := c.Features[i], c.Features[i+1]
	label := func(name string) string { return fmt.Sprintf("layer.%d.%s", i, name) }

	convolve := func(x *graph.Node, weight string, axis Axis) *graph.Node {
		w := key(weight)
		return Convolve(as(x, w), w, axis, native)
	}

	h := LayerNorm(single(x), graph.Reshape(key("linear1.norm.weight"), 1, 1, from[1], from[2]), graph.Reshape(key("linear1.norm.bias"), 1, 1, from[1], from[2]), decoder.Eps, 2, 3)
	trace(label("norm"), h)
	wide := convolve(convolve(h, "linear1.conv1w.weight", AxisW), "linear1.conv1h.weight", AxisH)
	trace(label("width_first"), wide)
	high := graph.Tanh(convolve(convolve(h, "linear1.conv2h.weight", AxisH), "linear1.conv2w.weight", AxisW))
	trace(label("height_first"), high)
	z := graph.DivScalar(graph.Add(single(graph.Add(wide, high)), graph.Reshape(key("linear1.bias"), 1, 1, to[1], to[2])), 3)
	trace(label("linear1"), z)
	y := convolve(z, "linear2.weight", AxisN)
	y = graph.Add(y, as(graph.Reshape(key("linear2.bias"), 1, to[0], 1, 1), y))
	if from == to {
		trace(label("linear2"), y)
		y = graph.Add(single(x), single(y))
	}
	trace(label("out"), y)
	return y
}

// LayerNorm normalises over axes together: population variance, then · weight + bias,
// which must broadcast.
func LayerNorm(x, weight, bias *graph.Node, eps float64, axes ...int) *graph.Node {
	mean := graph.ReduceAndKeep(x, graph.ReduceMean, axes...)
	centred := graph.Sub(x, mean)
	variance := graph.ReduceAndKeep(graph.Square(centred), graph.ReduceMean, axes...)
	// Rsqrt has no gradient in GoMLX.
	return graph.Add(graph.Mul(graph.Div(centred, graph.Sqrt(graph.AddScalar(variance, eps))), weight), bias)
}

// Loss is the weighted masked mean square (d.3): output and target (B,T,h,w), NaN in the
// target where a token holds nothing; weight (1,T,1,1). Scalar.
func Loss(output, target, weight *graph.Node) *graph.Node {
	count := graph.ReduceAllSum(graph.ConvertDType(graph.Equal(target, target), dtypes.Float32))
	return graph.Div(SquareError(output, target, weight), graph.MaxScalar(count, 1))
}

// SquareError is Loss before its division by the number of values that are not NaN. Those
// of the parts of a batch add up to the batch's.
func SquareError(output, target, weight *graph.Node) *graph.Node {
	valid := graph.Equal(target, target)
	zero := graph.ZerosLike(target)
	target, output = graph.Where(valid, target, zero), graph.Where(valid, output, zero)
	return graph.ReduceAllSum(graph.Mul(weight, graph.Square(graph.Sub(output, target))))
}
