package science

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// network is the generator: a decoder that can be fitted and run. What it compiled serves every fit of
// the same configuration.
type network struct {
	c       *Config
	b       backend.Backend
	m       *lm.Model // the base, for the loss on answers
	config  decoder.Config
	layout  *lora.Layout
	list    []decoder.Tensor // of what is fitted
	initial [][]float32      // its first values

	weights, task, forward *graph.Exec
}

func newNetwork(c *Config, width int, m *lm.Model, b backend.Backend) (*network, error) {
	g := &network{c: c, b: b, m: m}
	var err error
	if g.config, g.layout, err = c.decoder(width); err != nil {
		return nil, err
	}
	g.list, g.initial = factored(fit.Tensors(g.config), fit.Initial(g.config, c.Generator.Seed), c.Generator.MixingRank, c.Generator.Seed)
	if g.weights, err = graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node { return g.step(in, false) }); err != nil {
		return nil, err
	}
	if g.task, err = graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node { return g.step(in, true) }); err != nil {
		return nil, err
	}
	g.forward, err = graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
		basis, params := g.takeBasis(in[1:])
		return g.decode(params, basis, in[0])
	})
	return g, err
}

func (g *network) close() {
	for _, e := range []*graph.Exec{g.weights, g.task, g.forward} {
		e.Finalize()
	}
}

// takeBasis takes the basis, if the weight tokens have one, off the inputs of a graph that begin with it.
func (g *network) takeBasis(in []*graph.Node) (basis *graph.Node, rest []*graph.Node) {
	if g.config.Rank() == 0 {
		return nil, in
	}
	return in[0], in[1:]
}

// decode is condition (items,N,L,C) to standardised weight tokens (items,T,h,w).
func (g *network) decode(params []*graph.Node, basis, condition *graph.Node) *graph.Node {
	if g.c.Generator.Pooled {
		shape := condition.Shape().Dimensions
		condition = graph.BroadcastToDims(graph.ReduceAndKeep(condition, graph.ReduceMean, 1), shape...)
	}
	plain := g.config
	plain.Affine = false
	p := model.Params{}
	for i, t := range g.list {
		p[t.Name] = params[i]
	}
	multiply(p)
	p[decoder.BasisKey] = basis
	return model.Decode(plain, p, condition, nil, g.b.NativeConvolution(), nil)
}

// step is one step's graph. Inputs: the basis, if there is one, condition, target (items,T,h,w), weight (1,T,1,1),
// rate, two corrections, averaging; with task also the share of the loss on weights,
// scale (1,T,1,1), offset (1,T,h,w), a batch of the base (items·records rows), the base's
// weights and A of every target; then params, moments, averages. Outputs: the loss on
// weights, the loss on answers, params, moments, averages.
func (g *network) step(in []*graph.Node, task bool) []*graph.Node {
	basis, in := g.takeBasis(in)
	condition, target, weight := in[0], in[1], in[2]
	rate, correct1, correct2, averaging := in[3], in[4], in[5], in[6]
	n := len(g.list)
	state := in[len(in)-4*n:]
	params, first, second, average := state[:n], state[n:2*n], state[2*n:3*n], state[3*n:]
	output := g.decode(params, basis, condition)
	onWeights := model.Loss(output, target, weight)
	loss, onAnswers := onWeights, graph.ZerosLike(onWeights)
	if task {
		share, scale, offset := in[7], in[8], in[9]
		batch, rest := in[10:14], in[14:len(in)-4*n]
		k := len(g.m.Weights())
		w, a := rest[:k], rest[k:]
		tokens := graph.Add(graph.Mul(output, scale), offset)
		_, b := model.Matrices(g.layout, tokens)
		base := g.layout.Base()
		nll, _ := g.m.Losses(w, a, b, base.Alpha/float64(base.Rank), batch[0], batch[1], batch[2])
		mask := graph.Reshape(batch[3], nll.Shape().Size())
		onAnswers = graph.Div(graph.ReduceAllSum(graph.Mul(nll, mask)), graph.ReduceAllSum(mask))
		loss = graph.Add(onAnswers, graph.Mul(onWeights, share))
	}
	grads := graph.Gradient(loss, params...)
	next := adamw.Update(g.optimizer(), params, grads, first, second, rate, correct1, correct2)
	for i, p := range next.Params {
		average[i] = graph.Add(graph.Mul(average[i], averaging), graph.Mul(p, graph.OneMinus(averaging)))
	}
	return slices.Concat([]*graph.Node{onWeights, onAnswers}, next.Params, next.First, next.Second, average)
}

func (g *network) optimizer() adamw.Config {
	return adamw.Config{Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, Clip: 1, Decay: g.c.Generator.Decay}
}

// example is what a generator is fitted on: conditions, collected LoRAs and records of
// the training tasks.
type material struct {
	conditions *conditions
	corpus     *corpus
	loras      *collection
	split      *Split
}

// fitted is a generator's weights, averaged over the last steps, with what its output is
// standardised by.
type fitted struct {
	params  [][]float32
	scaling *scaling
	steps   int
}

// fit fits a generator. It hands every candidate to pick, which keeps what it likes.
func (g *network) fit(ctx context.Context, x *material, loss string, pick func(*fitted) error, report func(done, total int, onWeights, onAnswers float64)) error {
	c := &g.c.Generator
	t, h, w := g.layout.Shape()
	var targets [][][]float32 // by task, by checkpoint
	var flat [][]float32
	for i := range x.split.Train {
		var list [][]float32
		for _, adapters := range x.loras.checkpoints {
			tokens := make([]float32, t*h*w)
			if err := g.layout.Encode(adapters[i], lora.Float32, tokens); err != nil {
				return err
			}
			list = append(list, tokens)
			flat = append(flat, slices.Clone(tokens))
		}
		targets = append(targets, list)
	}
	std := standardise(g.layout, flat)
	for _, list := range targets {
		for _, tokens := range list {
			std.Apply(tokens)
		}
	}

	if rank := g.config.Rank(); rank > 0 {
		var err error
		if std.basis, err = principal(targets, rank); err != nil {
			return err
		}
	}

	state := make([]*tensors.Tensor, 0, 4*len(g.list))
	for kind := range 4 {
		for i, tensor := range g.list {
			v := g.initial[i]
			if kind == 1 || kind == 2 {
				v = make([]float32, len(v))
			}
			state = append(state, tensors.FromFlatDataAndDimensions(slices.Clone(v), tensor.Shape...))
		}
	}
	defer func() { backend.Free(state) }()

	constants := []*tensors.Tensor{tensors.FromFlatDataAndDimensions(std.weight, 1, t, 1, 1), tensors.FromFlatDataAndDimensions(std.Spread, 1, t, 1, 1),
		tensors.FromFlatDataAndDimensions(std.Mean, 1, t, h, w)}
	var a []*tensors.Tensor
	for i, target := range g.layout.Base().Targets {
		a = append(a, tensors.FromFlatDataAndDimensions(x.loras.last()[0].Pairs[i].A, g.layout.Base().Rank, target.In))
	}
	first := g.basis(std)
	defer func() { backend.Free(constants, a, first) }()

	weightSteps, taskSteps := c.WeightSteps, c.TaskSteps
	switch loss {
	case LossWeights:
		weightSteps, taskSteps = weightSteps+taskSteps, 0
	case LossTask:
		weightSteps, taskSteps = 0, weightSteps+taskSteps
	}
	total := weightSteps + taskSteps
	rng := rand.New(rand.NewPCG(uint64(c.Seed), 0x6e4))
	for i := range total {
		if err := ctx.Err(); err != nil {
			return err
		}
		task := i >= weightSteps
		items, rate := c.WeightBatch, cosine(c.WeightRate, i, weightSteps, c.WarmUp)
		if task {
			items, rate = c.TaskBatch, cosine(c.TaskRate, i-weightSteps, taskSteps, c.WarmUp)
		}
		var condition, target []float32
		var examples []lm.Example
		for range items {
			k := rng.IntN(len(x.split.Train))
			name := x.split.Train[k]
			condition = drawn(condition, x.conditions.training(name), c.Texts, rng)
			dropTokens(condition[len(condition)-c.Texts*c.Length*x.conditions.width:], x.conditions.width, c.Drop, rng)
			target = append(target, targets[k][rng.IntN(len(targets[k]))]...)
			if task {
				for range c.TaskRecords {
					examples = append(examples, x.corpus.train[name][rng.IntN(len(x.corpus.train[name]))])
				}
			}
		}
		averaging := min(c.Average, float64(1+i)/float64(10+i))
		fresh := []*tensors.Tensor{tensors.FromFlatDataAndDimensions(condition, items, c.Texts, c.Length, x.conditions.width),
			tensors.FromFlatDataAndDimensions(target, items, t, h, w)}
		var args []any
		for _, v := range append(slices.Clone(first), fresh[0], fresh[1], constants[0]) {
			args = append(args, v)
		}
		args = append(append(args, g.optimizer().Scalars(rate, i+1)...), float32(averaging))
		exec := g.weights
		if task {
			share := c.TaskWeights
			if loss == LossTask {
				share = 0
			}
			batch, err := lm.Inputs(examples, size)
			if err != nil {
				return err
			}
			args = append(append(args, float32(share), constants[1], constants[2]), batch...)
			for _, list := range [][]*tensors.Tensor{g.m.Weights(), a} {
				for _, v := range list {
					args = append(args, v)
				}
			}
			exec = g.task
		}
		for _, v := range state {
			args = append(args, v)
		}
		out, err := exec.Call(args...)
		if err != nil {
			return fmt.Errorf("science: step %d of the generator: %w", i+1, err)
		}
		backend.Free(state, fresh)
		state = out[2:]
		onWeights, onAnswers := float64(tensors.ToScalar[float32](out[0])), float64(tensors.ToScalar[float32](out[1]))
		backend.Free(out[:2])
		if v := onWeights + onAnswers; math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("science: the generator's loss is %v at step %d: lower its learning rate", v, i+1)
		}
		report(i+1, total, onWeights, onAnswers)
		if i == total-1 || (i+1)%c.SaveEvery == 0 && i+1 >= weightSteps {
			f := &fitted{scaling: std, steps: i + 1}
			for _, v := range state[3*len(g.list):] {
				p, err := tensors.CopyFlatData[float32](v)
				if err != nil {
					return err
				}
				f.params = append(f.params, p)
			}
			if err := pick(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// cosine is a linear warm-up, then a cosine to a hundredth.
func cosine(rate float64, step, steps, warmUp int) float64 {
	warm := min(1, float64(step+1)/float64(max(warmUp, 1)))
	return rate * warm * (0.01 + 0.99*(1+math.Cos(math.Pi*float64(step)/float64(steps)))/2)
}

// basis is the basis on the device, none where the weight tokens have none.
func (g *network) basis(s *scaling) []*tensors.Tensor {
	rank := g.config.Rank()
	if rank == 0 {
		return nil
	}
	return []*tensors.Tensor{tensors.FromFlatDataAndDimensions(s.basis, len(s.basis)/rank, rank)}
}

// forwardItems is how many conditions the generator is compiled for.
const forwardItems = 8

// generate makes an adapter of each condition (N,L,C).
func (g *network) generate(f *fitted, list [][]float32) ([]*lora.Adapter, error) {
	params := g.basis(f.scaling)
	for i, t := range g.list {
		params = append(params, tensors.FromFlatDataAndDimensions(f.params[i], t.Shape...))
	}
	defer func() { backend.Free(params) }()
	var adapters []*lora.Adapter
	for from := 0; from < len(list); from += forwardItems {
		some, err := g.some(f, params, list[from:min(from+forwardItems, len(list))])
		if err != nil {
			return nil, err
		}
		adapters = append(adapters, some...)
	}
	return adapters, nil
}

// some is generate for at most forwardItems conditions.
func (g *network) some(f *fitted, params []*tensors.Tensor, list [][]float32) ([]*lora.Adapter, error) {
	c := &g.c.Generator
	item := c.Texts * c.Length * g.config.Features[0][2]
	condition := make([]float32, forwardItems*item)
	for i, x := range list {
		copy(condition[i*item:], x)
	}
	in := tensors.FromFlatDataAndDimensions(condition, forwardItems, c.Texts, c.Length, g.config.Features[0][2])
	defer in.MustFinalizeAll()
	args := []any{in}
	for _, v := range params {
		args = append(args, v)
	}
	out, err := g.forward.Call(args...)
	if err != nil {
		return nil, fmt.Errorf("science: generate: %w", err)
	}
	defer backend.Free(out)
	tokens, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		return nil, err
	}
	t, h, w := g.layout.Shape()
	n := t * h * w
	adapters := make([]*lora.Adapter, len(list))
	for i := range adapters {
		x := tokens[i*n : (i+1)*n]
		for j := range x {
			x[j] = x[j]*f.scaling.Spread[j/(h*w)] + f.scaling.Mean[j]
		}
		if adapters[i], err = g.layout.Decode(x, lora.Float32); err != nil {
			return nil, err
		}
	}
	return adapters, nil
}

// by makes adapters of conditions by a fitted generator.
func (g *network) by(f *fitted) func([][]float32) ([]*lora.Adapter, error) {
	return func(conditions [][]float32) ([]*lora.Adapter, error) { return g.generate(f, conditions) }
}

// stepsName is the tensor that says after how many steps a candidate was taken.
const stepsName = "steps"

// tensors are the fitted weights for a file, named as in a generator package.
func (g *network) tensors(f *fitted) []safetensors.Tensor {
	var list []safetensors.Tensor
	for i, t := range g.list {
		list = append(list, safetensors.FromFloat32s(t.Name, safetensors.F32, f.params[i], t.Shape...))
	}
	list = append(list, safetensors.FromFloat32s(stepsName, safetensors.F32, []float32{float32(f.steps)}))
	t, h, w := g.layout.Shape()
	if rank := g.config.Rank(); rank > 0 {
		list = append(list, safetensors.FromFloat32s(decoder.BasisKey, safetensors.F32, f.scaling.basis, t*h*w, rank))
	}
	return append(list, safetensors.FromFloat32s("output.scale", safetensors.F32, f.scaling.Spread, t),
		safetensors.FromFloat32s("output.offset", safetensors.F32, f.scaling.Mean, t, h, w))
}

// read is the way back.
func (g *network) read(f *safetensors.File) (*fitted, error) {
	steps, err := f.Float32s(stepsName)
	if err != nil || len(steps) != 1 {
		return nil, fmt.Errorf("science: tensor %s: expected one number: %w", stepsName, err)
	}
	out := &fitted{scaling: &scaling{}, steps: int(steps[0])}
	for _, t := range g.list {
		v, err := f.Float32s(t.Name)
		if err != nil {
			return nil, err
		}
		out.params = append(out.params, v)
	}
	if g.config.Rank() > 0 {
		if out.scaling.basis, err = f.Float32s(decoder.BasisKey); err != nil {
			return nil, err
		}
	}
	if out.scaling.Spread, err = f.Float32s("output.scale"); err != nil {
		return nil, err
	}
	out.scaling.Mean, err = f.Float32s("output.offset")
	return out, err
}
