package fit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// state is what a step changes: parameters and both moments, in the order of
// weights, on the device.
type state struct {
	params, first, second []*tensors.Tensor
}

// weights lists the fitted tensors: the decoder's, less the two that Standardise
// computes.
func weights(c decoder.Config) []decoder.Tensor {
	c.Affine = false
	return c.Tensors()
}

// initial draws the reference's initial weights (b.2, b.1).
func initial(c decoder.Config, seed int64) [][]float32 {
	k2 := float64(c.KernelSize * c.KernelSize)
	rng := rand.New(rand.NewPCG(uint64(seed), 0x5eed))
	var all [][]float32
	fill := func(t decoder.Tensor, f func() float64) {
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(f())
		}
		all = append(all, v)
	}
	uniform := func(fan float64) func() float64 {
		bound := 1 / math.Sqrt(fan)
		return func() float64 { return (2*rng.Float64() - 1) * bound }
	}
	one := func() float64 { return 1 }
	zero := func() float64 { return 0 }
	list := weights(c)
	for i := range len(c.Features) - 1 {
		n, out := c.Features[i], c.Features[i+1]
		layer := list[9*i : 9*i+9]
		area := float64(out[1] * out[2])
		fill(layer[0], uniform(area*area)) // U(±1/(H'·W'))
		fill(layer[1], one)
		fill(layer[2], zero)
		fill(layer[3], uniform(float64(n[2])*k2))
		fill(layer[4], uniform(float64(n[1])*k2))
		fill(layer[5], uniform(float64(n[1])*k2))
		fill(layer[6], uniform(float64(n[2])*k2))
		fill(layer[7], uniform(float64(n[0])*k2))
		fill(layer[8], uniform(float64(n[0])*k2))
	}
	if c.Class == decoder.SuperLarge {
		last := list[len(list)-4:]
		fill(last[0], rng.NormFloat64)
		fill(last[1], uniform(float64(c.MaxLength)))
		fill(last[2], rng.NormFloat64)
		fill(last[3], uniform(float64(c.ModifiedLength)))
	}
	return all
}

// stepper is the compiled training step.
type stepper struct {
	exec *graph.Exec
	b    backend.Backend
	n    int // tensors of each kind
}

// newStepper builds: (condition (B,N,L,C), target (B,T,h,w), weight (1,T,1,1), random
// state, rate, decay corrections 1-β₁ᵗ and 1-β₂ᵗ, params, moments) to (loss, gradient
// norm, params, moments).
func newStepper(c *Config, b backend.Backend) (*stepper, error) {
	list := weights(c.Decoder)
	n := len(list)
	plain := c.Decoder
	plain.Affine = false
	exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node {
		condition, target, weight, random := in[0], in[1], in[2], in[3]
		rate, correct1, correct2 := in[4], in[5], in[6]
		params, first, second := in[7:7+n], in[7+n:7+2*n], in[7+2*n:]
		p := model.Params{}
		for i, t := range list {
			p[t.Name] = params[i]
		}
		add := func(x *graph.Node, deviation float64) *graph.Node {
			if deviation == 0 {
				return x
			}
			var noise *graph.Node
			random, noise = graph.RandomNormal(random, shapes.Make(dtypes.Float32, x.Shape().Dimensions...))
			return graph.Add(x, graph.MulScalar(noise, deviation))
		}
		target = add(target, c.TargetNoise)
		output := model.Decode(plain, p, condition, func(x *graph.Node) *graph.Node { return add(x, c.ConditionNoise) }, b.NativeConvolution(), nil)
		loss := model.Loss(output, target, weight)
		grads := graph.Gradient(loss, params...)
		next := adamw.Update(adamw.Config{Beta1: c.Beta1, Beta2: c.Beta2, Epsilon: c.Epsilon, Clip: c.Clip, Decay: c.WeightDecay},
			params, grads, first, second, rate, correct1, correct2)
		return slices.Concat([]*graph.Node{loss, next.Norm}, next.Params, next.First, next.Second)
	})
	if err != nil {
		return nil, fmt.Errorf("fit: build the training step: %w", err)
	}
	return &stepper{exec: exec, b: b, n: n}, nil
}

// batch is a step's input.
type batch struct {
	condition, target, weight *tensors.Tensor
}

// run makes step i and replaces the state.
func (s *stepper) run(c *Config, i int, in batch, st *state) (loss, norm float64, err error) {
	random, err := graph.RNGStateFromSeed(c.Seed*1_000_003 + int64(i))
	if err != nil {
		return 0, 0, err
	}
	t := float64(i + 1)
	args := []any{in.condition, in.target, in.weight, random, float32(c.Rate(i)),
		float32(1 - math.Pow(c.Beta1, t)), float32(1 - math.Pow(c.Beta2, t))}
	for _, list := range [][]*tensors.Tensor{st.params, st.first, st.second} {
		for _, x := range list {
			args = append(args, x)
		}
	}
	out, err := s.exec.Call(args...)
	if err != nil {
		return 0, 0, fmt.Errorf("fit: step %d: %w", i+1, err)
	}
	free(st.params, st.first, st.second, []*tensors.Tensor{in.condition, in.target})
	st.params, st.first, st.second = out[2:2+s.n], out[2+s.n:2+2*s.n], out[2+2*s.n:]
	loss, norm = float64(tensors.ToScalar[float32](out[0])), float64(tensors.ToScalar[float32](out[1]))
	free(out[:2])
	return loss, norm, nil
}

// free gives device and host memory back at once: waiting for the garbage collector
// would hold several steps' states.
func free(lists ...[]*tensors.Tensor) {
	for _, list := range lists {
		for _, x := range list {
			x.MustFinalizeAll()
		}
	}
}
