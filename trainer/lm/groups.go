package lm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// GroupTuner tunes the LoRAs of many data sets in one batch, for bases so small that one
// data set alone would not keep a processor busy. All share one A; each has its own B.
type GroupTuner struct {
	m      *Model
	exec   *graph.Exec
	base   lora.Base
	groups int
	size   Size
	trainA bool

	a, b, first, second []*tensors.Tensor
	steps               int
}

// groupOptimizer does not clip: a group's steps must not depend on the others'.
var groupOptimizer = adamw.Config{Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8, Clip: math.MaxFloat32}

// NewGroupTuner prepares LoRAs of a rank and alpha. With trainA, A is tuned too, for all
// groups together.
func (m *Model) NewGroupTuner(groups, rank int, alpha float64, trainA bool, size Size) (*GroupTuner, error) {
	t := &GroupTuner{m: m, base: m.Config.Base(rank, alpha), groups: groups, size: size, trainA: trainA}
	if err := t.base.Validate(); err != nil {
		return nil, err
	}
	if groups < 1 {
		return nil, fmt.Errorf("lm: %d groups, expected at least one", groups)
	}
	targets := len(t.base.Targets)
	var err error
	t.exec, err = graph.NewExec(m.b.Backend, func(in []*graph.Node) []*graph.Node {
		w, a, b := m.split(in, 7)
		trained := b
		if trainA {
			trained = slices.Concat(a, b)
		}
		moments := in[7+len(m.names)+2*targets:]
		first, second := moments[:len(trained)], moments[len(trained):]
		nll, _ := m.Losses(w, a, b, alpha/float64(rank), in[0], in[1], in[2])
		nll, valid := graph.Reshape(nll, groups, -1), graph.Reshape(in[3], groups, -1)
		each := graph.Div(graph.ReduceSum(graph.Mul(nll, valid), -1), graph.ReduceSum(valid, -1))
		grads := graph.Gradient(graph.ReduceAllSum(each), trained...)
		next := adamw.Update(groupOptimizer, trained, grads, first, second, in[4], in[5], in[6])
		return slices.Concat([]*graph.Node{graph.ReduceAllMean(each)}, next.Params, next.First, next.Second)
	})
	if err != nil {
		return nil, fmt.Errorf("lm: build the tuning step: %w", err)
	}
	return t, nil
}

// Reset starts new LoRAs: A of first, or for nil as PEFT's, uniform in ±1/√in from the
// seed; B zero.
func (t *GroupTuner) Reset(seed int64, first *lora.Adapter) error {
	t.free()
	if first != nil && len(first.Pairs) != len(t.base.Targets) {
		return fmt.Errorf("lm: the first adapter has %d modules, expected %d", len(first.Pairs), len(t.base.Targets))
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 0xA))
	r := t.base.Rank
	for i, target := range t.base.Targets {
		x := make([]float32, r*target.In)
		bound := 1 / math.Sqrt(float64(target.In))
		for i := range x {
			x[i] = float32((2*rng.Float64() - 1) * bound)
		}
		if first != nil {
			copy(x, first.Pairs[i].A)
		}
		t.a = append(t.a, tensors.FromFlatDataAndDimensions(x, r, target.In))
		t.b = append(t.b, zeros(t.groups, target.Out, r))
	}
	for _, list := range []*[]*tensors.Tensor{&t.first, &t.second} {
		if t.trainA {
			for _, target := range t.base.Targets {
				*list = append(*list, zeros(r, target.In))
			}
		}
		for _, target := range t.base.Targets {
			*list = append(*list, zeros(t.groups, target.Out, r))
		}
	}
	t.steps = 0
	return nil
}

func zeros(dims ...int) *tensors.Tensor {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return tensors.FromFlatDataAndDimensions(make([]float32, n), dims...)
}

func (t *GroupTuner) free() {
	backend.Free(t.a, t.b, t.first, t.second)
	t.a, t.b, t.first, t.second = nil, nil, nil, nil
}

// Close frees the LoRAs' memory.
func (t *GroupTuner) Close() {
	t.free()
	t.exec.Finalize()
}

// Continue starts from one adapter a group, all with one A.
func (t *GroupTuner) Continue(adapters []*lora.Adapter) error {
	if len(adapters) != t.groups {
		return fmt.Errorf("lm: %d adapters for %d groups", len(adapters), t.groups)
	}
	if err := t.Reset(0, adapters[0]); err != nil {
		return err
	}
	for i, target := range t.base.Targets {
		n := target.Out * t.base.Rank
		b := make([]float32, 0, t.groups*n)
		for g, a := range adapters {
			if len(a.Pairs) != len(t.base.Targets) || len(a.Pairs[i].B) != n {
				return fmt.Errorf("lm: adapter %d of %d has another shape than the model's at module %s", g+1, t.groups, target.Name)
			}
			b = append(b, a.Pairs[i].B...)
		}
		backend.Free(t.b[i : i+1])
		t.b[i] = tensors.FromFlatDataAndDimensions(b, t.groups, target.Out, t.base.Rank)
	}
	return nil
}

// Step makes one step. The examples are those of the first group, then of the second and
// so on, equally many each. It returns the mean over groups of the loss a token.
func (t *GroupTuner) Step(examples []Example, rate float64) (float64, error) {
	if t.a == nil {
		return 0, errors.New("lm: a step before Reset")
	}
	if len(examples)%t.groups != 0 {
		return 0, fmt.Errorf("lm: %d examples for %d groups, expected equally many each", len(examples), t.groups)
	}
	args, err := Inputs(examples, t.size)
	if err != nil {
		return 0, err
	}
	t.steps++
	c := groupOptimizer
	args = append(args, float32(rate), float32(1-math.Pow(c.Beta1, float64(t.steps))), float32(1-math.Pow(c.Beta2, float64(t.steps))))
	args = t.m.withWeights(args, nil)
	for _, list := range [][]*tensors.Tensor{t.a, t.b, t.first, t.second} {
		for _, x := range list {
			args = append(args, x)
		}
	}
	out, err := t.m.call(t.exec, args)
	if err != nil {
		return 0, fmt.Errorf("lm: tuning step %d: %w", t.steps, err)
	}
	k := len(t.first)
	params := out[1 : 1+k]
	if t.trainA {
		backend.Free(t.a)
		t.a, params = params[:len(t.a)], params[len(t.a):]
	}
	backend.Free(t.b, t.first, t.second)
	t.b, t.first, t.second = params, out[1+k:1+2*k], out[1+2*k:]
	return finiteLoss(out[0], t.steps)
}

// Adapters copies the LoRAs as they are now, one a group.
func (t *GroupTuner) Adapters() ([]*lora.Adapter, error) {
	list := make([]*lora.Adapter, t.groups)
	for g := range list {
		list[g] = &lora.Adapter{Base: t.base, Pairs: make([]lora.Pair, len(t.a))}
	}
	for i := range t.a {
		a, err := tensors.CopyFlatData[float32](t.a[i])
		if err != nil {
			return nil, err
		}
		b, err := tensors.CopyFlatData[float32](t.b[i])
		if err != nil {
			return nil, err
		}
		n := len(b) / t.groups
		for g := range list {
			list[g].Pairs[i] = lora.Pair{A: slices.Clone(a), B: b[g*n : (g+1)*n : (g+1)*n]}
		}
	}
	return list, nil
}
