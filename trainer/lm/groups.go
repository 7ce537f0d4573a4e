package lm

import (
	"fmt"
	"math"
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
	loras
	groups int
	size   Size
}

// groupOptimizer does not clip: a group's steps must not depend on the others'.
var groupOptimizer = adamw.Config{Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8, Clip: math.MaxFloat32}

// NewGroupTuner prepares LoRAs of a rank and alpha. With trainA, A is tuned too, for all
// groups together.
func (m *Model) NewGroupTuner(groups, rank int, alpha float64, trainA bool, size Size) (*GroupTuner, error) {
	t := &GroupTuner{loras: loras{m: m, optimizer: groupOptimizer, base: m.Config.Base(rank, alpha), trainA: trainA}, groups: groups, size: size}
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
	if first != nil {
		if err := t.fits(first); err != nil {
			return err
		}
	}
	t.reset(seed, t.groups)
	if first == nil {
		return nil
	}
	for i, target := range t.base.Targets {
		backend.Free(t.a[i : i+1])
		t.a[i] = tensors.FromFlatDataAndDimensions(first.Pairs[i].A, t.base.Rank, target.In)
	}
	return nil
}

// Continue starts from one adapter a group, all with one A.
func (t *GroupTuner) Continue(adapters []*lora.Adapter) error {
	if len(adapters) != t.groups {
		return fmt.Errorf("lm: %d adapters for %d groups", len(adapters), t.groups)
	}
	if err := t.Reset(0, adapters[0]); err != nil {
		return err
	}
	for g, a := range adapters {
		if err := t.fits(a); err != nil {
			return fmt.Errorf("%w (adapter %d of %d)", err, g+1, t.groups)
		}
	}
	for i, target := range t.base.Targets {
		b := make([]float32, 0, t.groups*target.Out*t.base.Rank)
		for _, a := range adapters {
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
	if len(examples)%t.groups != 0 {
		return 0, fmt.Errorf("lm: %d examples for %d groups, expected equally many each", len(examples), t.groups)
	}
	in, err := Inputs(examples, t.size)
	if err != nil {
		return 0, err
	}
	return t.step(in, rate)
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
