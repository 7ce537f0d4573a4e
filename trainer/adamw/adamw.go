// Package adamw is the optimizer step that packages fit and lm share, as GoMLX nodes:
// gradients clipped by their global norm, Adam with decay corrections, decoupled weight
// decay. GoMLX's own optimizer clips by element and decays before the step; the
// reference's does neither (d.5). State and schedule are the caller's.
package adamw

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Config are the optimizer's constants.
type Config struct {
	Beta1, Beta2, Epsilon float64
	Clip                  float64 // largest global gradient norm
	Decay                 float64 // weight decay; 0 for none
}

// Scalars are Update's rate and corrections for a step, counted from 1, as a graph's inputs.
func (c Config) Scalars(rate float64, step int) []any {
	n := float64(step)
	return []any{float32(rate), float32(1 - math.Pow(c.Beta1, n)), float32(1 - math.Pow(c.Beta2, n))}
}

// Step are the nodes of one step: new parameters and moments, in the order given, and
// the gradients' norm before clipping.
type Step struct {
	Params, First, Second []*graph.Node
	Norm                  *graph.Node
}

// Update builds a step. rate and the corrections 1-β₁ᵗ and 1-β₂ᵗ are scalars.
func Update(c Config, params, grads, first, second []*graph.Node, rate, correct1, correct2 *graph.Node) Step {
	var squares *graph.Node
	for _, g := range grads {
		s := graph.ReduceAllSum(graph.Square(g))
		if squares == nil {
			squares = s
		} else {
			squares = graph.Add(squares, s)
		}
	}
	out := Step{Norm: graph.Sqrt(squares)}
	// torch's clip_grad_norm_: scale by clip/(norm+1e-6), never up.
	scale := graph.MinScalar(graph.Div(graph.Scalar(squares.Graph(), dtypes.Float32, c.Clip), graph.AddScalar(out.Norm, 1e-6)), 1)
	for i, g := range grads {
		g = graph.Mul(g, scale)
		m := graph.Add(graph.MulScalar(first[i], c.Beta1), graph.MulScalar(g, 1-c.Beta1))
		v := graph.Add(graph.MulScalar(second[i], c.Beta2), graph.MulScalar(graph.Square(g), 1-c.Beta2))
		update := graph.Div(graph.Div(m, correct1), graph.AddScalar(graph.Sqrt(graph.Div(v, correct2)), c.Epsilon))
		w := graph.Sub(params[i], graph.Mul(rate, update))
		if c.Decay != 0 {
			// The reference's optimizer decays after the step (d.5).
			w = graph.Mul(w, graph.OneMinus(graph.MulScalar(rate, c.Decay)))
		}
		out.Params, out.First, out.Second = append(out.Params, w), append(out.First, m), append(out.Second, v)
	}
	return out
}
