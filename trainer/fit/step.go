package fit

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// stepper is the compiled training step: gradients for each part of a step's pairs, then
// one update. With several devices each has a copy of the state and a share of every
// part; XLA's Shardy adds the gradients up.
type stepper struct {
	c       *Config
	devices int
	n       int // tensors of each kind

	gradients, update *graph.Exec
	weight            []*tensors.Tensor // (1,T,1,1) on each device
}

// newStepper compiles for a number of devices. weight is the loss's, one a token.
func newStepper(c *Config, b backend.Backend, devices int, weight []float32) (*stepper, error) {
	s := &stepper{c: c, devices: devices, n: len(weights(c.Decoder))}
	for range devices {
		s.weight = append(s.weight, tensors.FromFlatDataAndDimensions(weight, 1, len(weight), 1, 1))
	}
	var err error
	if s.gradients, err = graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node { return s.gradientsGraph(b, in) }); err == nil {
		s.update, err = graph.NewExec(b.Backend, s.updateGraph)
	}
	if err == nil {
		err = s.distribute()
	}
	if err != nil {
		return nil, fmt.Errorf("fit: build the training step: %w", err)
	}
	return s, nil
}

// distribute splits the pairs over the devices; everything else is the same on all.
func (s *stepper) distribute() error {
	if s.devices == 1 {
		return nil
	}
	mesh, err := distributed.NewDeviceMesh([]int{s.devices}, []string{"data"})
	if err != nil {
		return err
	}
	split, err := distributed.BuildSpec(mesh).S("data").Done()
	if err != nil {
		return err
	}
	same := distributed.NewReplicatedShardingSpec(mesh)
	s.gradients.AutoSharding(mesh).WithInputShardingSpecs(split, split, same).WithOutputShardingSpecs(same)
	s.update.AutoSharding(mesh).WithInputShardingSpecs(same).WithOutputShardingSpecs(same)
	return nil
}

func (s *stepper) close() {
	free(s.weight)
	s.gradients.Finalize()
	s.update.Finalize()
}

// gradientsGraph is (condition (b,N,L,C), target (b,T,h,w), weight (1,T,1,1), number of
// the step's values, random state, parameters, sums of gradients or none) to (share of
// the loss, sums of gradients).
func (s *stepper) gradientsGraph(b backend.Backend, in []*graph.Node) []*graph.Node {
	condition, target, weight, count, random := in[0], in[1], in[2], in[3], in[4]
	params, sums := in[5:5+s.n], in[5+s.n:]
	add := func(x *graph.Node, deviation float64) *graph.Node {
		if deviation == 0 {
			return x
		}
		var noise *graph.Node
		random, noise = graph.RandomNormal(random, shapes.Make(dtypes.Float32, x.Shape().Dimensions...))
		return graph.Add(x, graph.MulScalar(noise, deviation))
	}
	target = add(target, s.c.TargetNoise)
	output := s.decode(params, condition, func(x *graph.Node) *graph.Node { return add(x, s.c.ConditionNoise) }, b)
	loss := graph.Div(model.SquareError(output, target, weight), count)
	grads := graph.Gradient(loss, params...)
	for i, sum := range sums {
		grads[i] = graph.Add(sum, grads[i])
	}
	return slices.Concat([]*graph.Node{loss}, grads)
}

// decode is condition (b,N,L,C) to weight tokens (b,T,h,w), standardised if the decoder
// is Affine.
func (s *stepper) decode(params []*graph.Node, condition *graph.Node, noise func(*graph.Node) *graph.Node, b backend.Backend) *graph.Node {
	p := model.Params{}
	for i, t := range weights(s.c.Decoder) {
		p[t.Name] = params[i]
	}
	if s.c.DType == BF16 {
		p = model.Mixed(p, dtypes.BFloat16)
	}
	plain := s.c.Decoder
	plain.Affine = false
	return model.Decode(plain, p, condition, noise, b.NativeConvolution(), nil)
}

// updateGraph is (rate, decay corrections 1-β₁ᵗ and 1-β₂ᵗ, share of the past in the mean,
// gradients, parameters, moments, means or none) to (gradient norm, parameters, moments,
// means).
func (s *stepper) updateGraph(in []*graph.Node) []*graph.Node {
	rate, correct1, correct2, past := in[0], in[1], in[2], in[3]
	list := func(i int) []*graph.Node { return in[4+i*s.n : 4+(i+1)*s.n] }
	c := s.c
	next := adamw.Update(adamw.Config{Beta1: c.Beta1, Beta2: c.Beta2, Epsilon: c.Epsilon, Clip: c.Clip, Decay: c.WeightDecay},
		list(1), list(0), list(2), list(3), rate, correct1, correct2)
	out := slices.Concat([]*graph.Node{next.Norm}, next.Params, next.First, next.Second)
	if c.Average > 0 {
		for i, mean := range list(4) {
			out = append(out, graph.Add(graph.Mul(mean, past), graph.Mul(next.Params[i], graph.OneMinus(past))))
		}
	}
	return out
}

// shard is one device's share of a part of a step's pairs.
type shard struct {
	condition, target *tensors.Tensor
}

// step makes step i, from 0, with the parts that come from batches.
func (s *stepper) step(i int, batches <-chan fed, states []*state) (loss, norm float64, err error) {
	var sums [][]*tensors.Tensor
	for j := range s.c.Accumulate {
		in, ok := <-batches
		if !ok {
			in.err = context.Canceled
		}
		if in.err != nil {
			return 0, 0, in.err
		}
		var share float64
		if share, sums, err = s.part(i, j, in.shards, in.count, states, sums); err != nil {
			return 0, 0, err
		}
		loss += share
	}
	norm, err = s.finish(i, sums, states)
	return loss, norm, err
}

// part computes part j of step i, from 0, and adds its gradients to sums, which are nil
// before the first part. count is the number of values of the whole step's targets that
// are not NaN. It frees the shards and the old sums.
func (s *stepper) part(i, j int, shards []shard, count float64, states []*state, sums [][]*tensors.Tensor) (loss float64, next [][]*tensors.Tensor, err error) {
	var own []*tensors.Tensor
	for range shards {
		random, err := graph.RNGStateFromSeed(s.c.Seed*1_000_003 + int64(i*s.c.Accumulate+j))
		if err != nil {
			return 0, nil, err
		}
		own = append(own, random)
	}
	out, err := s.call(s.gradients, func(d int) []any {
		args := []any{shards[d].condition, shards[d].target, s.weight[d], float32(max(count, 1)), own[d]}
		args = appendAll(args, states[d].params)
		if sums != nil {
			args = appendAll(args, sums[d])
		}
		return args
	})
	if err != nil {
		return 0, nil, fmt.Errorf("fit: step %d: %w", i+1, err)
	}
	for _, x := range shards {
		own = append(own, x.condition, x.target)
	}
	free(own)
	free(sums...)
	loss = float64(tensors.ToScalar[float32](out[0][0]))
	for d := range out {
		free(out[d][:1])
		next = append(next, out[d][1:])
	}
	return loss, next, nil
}

// finish makes step i's update with the sums of its parts' gradients, which it frees, and
// replaces the states.
func (s *stepper) finish(i int, grads [][]*tensors.Tensor, states []*state) (norm float64, err error) {
	c, t := s.c, float64(i+1)
	past := min(c.Average, t/(t+9))
	out, err := s.call(s.update, func(d int) []any {
		args := []any{float32(c.Rate(i)), float32(1 - math.Pow(c.Beta1, t)), float32(1 - math.Pow(c.Beta2, t)), float32(past)}
		args = appendAll(args, grads[d])
		for _, p := range states[d].parts(c) {
			args = appendAll(args, *p.list)
		}
		return args
	})
	if err != nil {
		return 0, fmt.Errorf("fit: step %d: %w", i+1, err)
	}
	free(grads...)
	norm = float64(tensors.ToScalar[float32](out[0][0]))
	for d, list := range out {
		free(list[:1])
		list = list[1:]
		for _, p := range states[d].parts(c) {
			free(*p.list)
			*p.list, list = list[:s.n], list[s.n:]
		}
	}
	return norm, nil
}

// call runs exec on all devices and gives the results of each.
func (s *stepper) call(exec *graph.Exec, args func(device int) []any) ([][]*tensors.Tensor, error) {
	var all []any
	for d := range s.devices {
		all = append(all, args(d)...)
	}
	out, err := exec.Call(all...)
	if err != nil {
		return nil, err
	}
	each := len(out) / s.devices
	split := make([][]*tensors.Tensor, s.devices)
	for d := range split {
		split[d] = out[d*each : (d+1)*each]
	}
	return split, nil
}

func appendAll(args []any, list []*tensors.Tensor) []any {
	for _, x := range list {
		args = append(args, x)
	}
	return args
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
