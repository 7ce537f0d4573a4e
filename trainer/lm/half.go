package lm

import (
	"errors"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// errHalf is for what needs the weights as they were read.
var errHalf = errors.New("lm: the base is in bfloat16: load it in float32")

// transposed is the name of a matrix's copy (in,out).
func transposed(name string) string { return strings.TrimSuffix(name, ".weight") + ".transposed" }

// halves are a matrix (out,in) in bfloat16, and its transpose: XLA's products on the CPU are
// of full speed only where the right side is not transposed, and a step needs both.
func halves(v []float32, out, in int) (w, wt *tensors.Tensor) {
	plain, turned := make([]bfloat16.BFloat16, len(v)), make([]bfloat16.BFloat16, len(v))
	for i := range out {
		for j, x := range v[i*in : (i+1)*in] {
			h := bfloat16.FromFloat32(x)
			plain[i*in+j], turned[j*out+i] = h, h
		}
	}
	return tensors.FromFlatDataAndDimensions(plain, out, in), tensors.FromFlatDataAndDimensions(turned, in, out)
}

// frozen is x (T,in) times Wᵀ in bfloat16 with sums in float32, of w (out,in) and wt its
// transpose. GoMLX's gradient of such a product is one of float32, so it has its own: the
// incoming gradient (T,out) arrives at columns of zeros that are appended to x and cut off
// again, which XLA removes.
func frozen(x, w, wt *graph.Node) *graph.Node {
	half := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.BFloat16) }
	full := func(x, y *graph.Node) *graph.Node {
		return graph.Dot(half(x), y).WithOutputDType(dtypes.Float32).MatMul()
	}
	y := full(graph.StopGradient(x), wt)
	in := x.Shape().Dimensions[1]
	zeros := graph.Zeros(x.Graph(), shapes.Make(dtypes.Float32, y.Shape().Dimensions...))
	columns := func(x *graph.Node) *graph.Node { return graph.Slice(x, graph.AxisRange(), graph.AxisRange(in)) }
	wide := graph.IdentityWithCustomGradient(graph.Concatenate([]*graph.Node{x, zeros}, 1), func(_, v *graph.Node) *graph.Node {
		return graph.Concatenate([]*graph.Node{full(columns(v), w), zeros}, 1)
	})
	return graph.Add(y, columns(wide))
}
