package fit

import (
	"context"
	"fmt"
	"slices"

	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// stepper is the compiled training step: gradients for each part of a step's pairs, then
// one update. With several devices each has a copy of the state and a share of every
// part; XLA's Shardy adds the gradients up.
type stepper struct {
	c       *Config
	b       backend.Backend
	devices int
	n       int // tensors of each kind

	gradients *graph.Exec // with the loss on weights
	task      *graph.Exec // with that on answers; nil without
	update    *graph.Exec

	weight  []*tensors.Tensor // of the loss on weights, (1,T,1,1) on each device
	basis   []*tensors.Tensor // of the weight tokens, (T·h·w,r) on each device; nil without
	answers *answers          // nil without the loss on answers
}

// newStepper compiles for a number of devices. weight is that of the loss on weights, one
// a token; a is nil with LossWeights.
func newStepper(c *Config, b backend.Backend, devices int, weight []float32, st *Standard, a *answers) (*stepper, error) {
	s := &stepper{c: c, b: b, devices: devices, n: len(c.fitted()), answers: a}
	for range devices {
		s.weight = append(s.weight, tensors.FromFlatDataAndDimensions(weight, 1, len(weight), 1, 1))
		if r := c.Decoder.Rank(); r > 0 {
			s.basis = append(s.basis, tensors.FromFlatDataAndDimensions(st.Basis, len(st.Basis)/r, r))
		}
	}
	exec := func(f func([]*graph.Node) []*graph.Node, split int) (*graph.Exec, error) {
		e, err := graph.NewExec(b.Backend, f)
		if err == nil {
			err = distribute(e, devices, split)
		}
		if err != nil {
			return nil, fmt.Errorf("fit: build the training step: %w", err)
		}
		return e, nil
	}
	var err error
	if s.gradients, err = exec(func(in []*graph.Node) []*graph.Node { return s.gradientsGraph(in, false) }, 2); err != nil {
		return nil, err
	}
	if a != nil {
		if s.task, err = exec(func(in []*graph.Node) []*graph.Node { return s.gradientsGraph(in, true) }, 2+a.inputs()); err != nil {
			return nil, err
		}
	}
	s.update, err = exec(s.updateGraph, 0)
	return s, err
}

// distribute splits the first inputs along their first axis over the devices; everything
// else is the same on all.
func distribute(e *graph.Exec, devices, split int) error {
	if devices == 1 {
		return nil
	}
	mesh, err := distributed.NewDeviceMesh([]int{devices}, []string{"data"})
	if err != nil {
		return err
	}
	along, err := distributed.BuildSpec(mesh).S("data").Done()
	if err != nil {
		return err
	}
	same := distributed.NewReplicatedShardingSpec(mesh)
	specs := append(slices.Repeat([]*distributed.ShardingSpec{along}, split), same)
	e.AutoSharding(mesh).WithInputShardingSpecs(specs...).WithOutputShardingSpecs(same)
	return nil
}

func (s *stepper) close() {
	backend.Free(s.weight, s.basis)
	for _, e := range []*graph.Exec{s.gradients, s.task, s.update} {
		if e != nil {
			e.Finalize()
		}
	}
	if s.answers != nil {
		s.answers.close()
	}
}

// gradientsGraph is (condition (b,N,L,C), target (b,T,h,w), weight (1,T,1,1), number of
// the step's values, random state, basis or none, parameters, sums of gradients or none) to (the part's
// share of the loss, of that on weights and of that on answers, sums of gradients). With
// task there are also the batch of records behind target, and the number of the step's
// answers' tokens and answers.place's constants before the parameters.
func (s *stepper) gradientsGraph(in []*graph.Node, task bool) []*graph.Node {
	take := func(n int) []*graph.Node {
		part := in[:n]
		in = in[n:]
		return part
	}
	var batch, count, constants []*graph.Node
	pairs := take(2)
	if task {
		batch = take(s.answers.inputs())
	}
	rest := take(3)
	if task {
		count, constants = take(1), take(len(s.answers.constants[0]))
	}
	var basis *graph.Node
	if s.basis != nil {
		basis = take(1)[0]
	}
	params, sums := take(s.n), in

	random := rest[2]
	add := func(x *graph.Node, deviation float64) *graph.Node {
		if deviation == 0 {
			return x
		}
		var noise *graph.Node
		random, noise = graph.RandomNormal(random, shapes.Make(dtypes.Float32, x.Shape().Dimensions...))
		return graph.Add(x, graph.MulScalar(noise, deviation))
	}
	target := add(pairs[1], s.c.TargetNoise)
	output := s.decode(params, task, basis, pairs[0], func(x *graph.Node) *graph.Node { return add(x, s.c.ConditionNoise) })
	answered := output
	if task && s.c.BasisNoise > 0 {
		none := graph.Zeros(output.Graph(), shapes.Make(dtypes.Float32, output.Shape().Dimensions[0], s.c.Decoder.Rank()))
		change := graph.MulScalar(params[len(params)-1], s.c.basisUnit())
		answered = graph.Add(output, model.Expand(change, add(none, s.c.BasisNoise), s.c.Decoder.Output()))
	}
	onWeights := graph.Div(model.SquareError(output, target, rest[0]), rest[1])
	loss, onAnswers := onWeights, graph.ZerosLike(onWeights)
	if task {
		onAnswers = graph.Div(s.answers.loss(answered, target, basis, batch, constants), count[0])
		loss = onAnswers
		if share := s.c.Task.Share; share > 0 {
			loss = graph.Add(loss, graph.MulScalar(onWeights, share))
		}
	}
	grads := graph.Gradient(loss, params...)
	if s.c.BasisRate > 0 {
		// To the basis itself, so that clipping does not depend on the unit.
		last := len(grads) - 1
		grads[last] = graph.DivScalar(grads[last], s.c.basisUnit())
	}
	for i, sum := range sums {
		grads[i] = graph.Add(sum, grads[i])
	}
	return slices.Concat([]*graph.Node{loss, onWeights, onAnswers}, grads)
}

// decode is condition (b,N,L,C) to weight tokens (b,T,h,w), standardised if the decoder
// is Affine. Only with the loss on answers is the basis fitted.
func (s *stepper) decode(params []*graph.Node, answers bool, basis, condition *graph.Node, noise func(*graph.Node) *graph.Node) *graph.Node {
	p := model.Params{}
	for i, t := range s.c.fitted() {
		p[t.Name] = params[i]
	}
	if change := p[changeKey]; change != nil {
		if !answers {
			change = graph.StopGradient(change)
		}
		basis = graph.Add(basis, graph.MulScalar(change, s.c.basisUnit()))
	}
	if s.c.DType == BF16 {
		p = model.Mixed(p, dtypes.BFloat16)
	}
	p[decoder.BasisKey] = basis
	plain := s.c.Decoder
	plain.Affine = false
	return model.Decode(plain, p, condition, noise, s.b.NativeConvolution(), nil)
}

// updateGraph is (rate, decay corrections 1-β₁ᵗ and 1-β₂ᵗ, share of the past in the mean,
// gradients, parameters, moments, means or none) to (gradient norm, parameters, moments,
// means).
func (s *stepper) updateGraph(in []*graph.Node) []*graph.Node {
	rate, correct1, correct2, past := in[0], in[1], in[2], in[3]
	list := func(i int) []*graph.Node { return in[4+i*s.n : 4+(i+1)*s.n] }
	c := s.c
	next := adamw.Update(c.optimizer(), list(1), list(0), list(2), list(3), rate, correct1, correct2)
	out := slices.Concat([]*graph.Node{next.Norm}, next.Params, next.First, next.Second)
	if c.Average > 0 {
		for i, mean := range list(4) {
			out = append(out, graph.Add(graph.Mul(mean, past), graph.Mul(next.Params[i], graph.OneMinus(past))))
		}
	}
	return out
}

func (c *Config) optimizer() adamw.Config {
	return adamw.Config{Beta1: c.Beta1, Beta2: c.Beta2, Epsilon: c.Epsilon, Clip: c.Clip, Decay: c.WeightDecay}
}

// shard is one device's share of a part of a step's pairs.
type shard struct {
	condition, target *tensors.Tensor
	batch             []*tensors.Tensor // of records, for the loss on answers; nil without
}

func (x *shard) tensors() []*tensors.Tensor {
	return append([]*tensors.Tensor{x.condition, x.target}, x.batch...)
}

// losses are a step's: what is minimised, and what it is made of.
type losses struct{ total, weights, answers float64 }

// step makes step i, from 0, with the parts that come from batches.
func (s *stepper) step(i int, batches <-chan fed, states []*state) (l losses, norm float64, err error) {
	var sums [][]*tensors.Tensor
	for j := range s.c.Accumulate {
		in, ok := <-batches
		if !ok {
			in.err = context.Canceled
		}
		if in.err != nil {
			return l, 0, in.err
		}
		var share losses
		if share, sums, err = s.part(i, j, in, states, sums); err != nil {
			return l, 0, err
		}
		l.total, l.weights, l.answers = l.total+share.total, l.weights+share.weights, l.answers+share.answers
	}
	norm, err = s.finish(i, sums, states)
	return l, norm, err
}

// part computes part j of step i, from 0, and adds its gradients to sums, which are nil
// before the first part. It frees the part's tensors and the old sums.
func (s *stepper) part(i, j int, in fed, states []*state, sums [][]*tensors.Tensor) (share losses, next [][]*tensors.Tensor, err error) {
	var own []*tensors.Tensor
	for range in.shards {
		random, err := graph.RNGStateFromSeed(s.c.Seed*1_000_003 + int64(i*s.c.Accumulate+j))
		if err != nil {
			return share, nil, err
		}
		own = append(own, random)
	}
	exec, task := s.gradients, in.shards[0].batch != nil
	if task {
		exec = s.task
	}
	out, err := s.call(exec, func(d int) []any {
		args := appendAll(nil, in.shards[d].tensors())
		args = append(args, s.weight[d], float32(max(in.values, 1)), own[d])
		if task {
			args = appendAll(append(args, float32(in.answers)), s.answers.constants[d])
		}
		if s.basis != nil {
			args = append(args, s.basis[d])
		}
		args = appendAll(args, states[d].params)
		if sums != nil {
			args = appendAll(args, sums[d])
		}
		return args
	})
	if err != nil {
		return share, nil, fmt.Errorf("fit: step %d: %w", i+1, err)
	}
	for _, x := range in.shards {
		own = append(own, x.tensors()...)
	}
	backend.Free(own)
	backend.Free(sums...)
	for k, to := range []*float64{&share.total, &share.weights, &share.answers} {
		*to = float64(tensors.ToScalar[float32](out[0][k]))
	}
	for d := range out {
		backend.Free(out[d][:3])
		next = append(next, out[d][3:])
	}
	return share, next, nil
}

// finish makes step i's update with the sums of its parts' gradients, which it frees, and
// replaces the states.
func (s *stepper) finish(i int, grads [][]*tensors.Tensor, states []*state) (norm float64, err error) {
	c, t := s.c, float64(i+1)
	past := min(c.Average, t/(t+9))
	out, err := s.call(s.update, func(d int) []any {
		args := append(c.optimizer().Scalars(c.Rate(i), i+1), float32(past))
		args = appendAll(args, grads[d])
		for _, p := range states[d].parts(c) {
			args = appendAll(args, *p.list)
		}
		return args
	})
	if err != nil {
		return 0, fmt.Errorf("fit: step %d: %w", i+1, err)
	}
	backend.Free(grads...)
	norm = float64(tensors.ToScalar[float32](out[0][0]))
	for d, list := range out {
		backend.Free(list[:1])
		list = list[1:]
		for _, p := range states[d].parts(c) {
			backend.Free(*p.list)
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
