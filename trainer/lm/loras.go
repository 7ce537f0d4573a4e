package lm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// loras are the matrices that the steps of Tuner and GroupTuner read and change, and AdamW's
// moments of them.
type loras struct {
	m         *Model
	exec      *graph.Exec // of a step
	optimizer adamw.Config
	base      lora.Base
	trainA    bool

	a, b          []*tensors.Tensor
	first, second []*tensors.Tensor // moments of what is trained: A, if it is, then B
	steps         int
}

// reset starts new LoRAs as PEFT does: A uniform in ±1/√in, from the seed alone, and B zero.
// outer are axes of B before its own.
func (l *loras) reset(seed int64, outer ...int) {
	l.free()
	rng := rand.New(rand.NewPCG(uint64(seed), 0xA))
	r := l.base.Rank
	zeroB := func(t lora.Target) *tensors.Tensor { return zeros(append(outer[:len(outer):len(outer)], t.Out, r)...) }
	for _, t := range l.base.Targets {
		x := make([]float32, r*t.In)
		bound := 1 / math.Sqrt(float64(t.In))
		for i := range x {
			x[i] = float32((2*rng.Float64() - 1) * bound)
		}
		l.a = append(l.a, tensors.FromFlatDataAndDimensions(x, r, t.In))
		l.b = append(l.b, zeroB(t))
	}
	for _, list := range []*[]*tensors.Tensor{&l.first, &l.second} {
		if l.trainA {
			for _, t := range l.base.Targets {
				*list = append(*list, zeros(r, t.In))
			}
		}
		for _, t := range l.base.Targets {
			*list = append(*list, zeroB(t))
		}
	}
	l.steps = 0
}

// fits is an error for an adapter that steps cannot go on from.
func (l *loras) fits(a *lora.Adapter) error {
	if a.Base.Rank != l.base.Rank || a.Base.Alpha != l.base.Alpha {
		return fmt.Errorf("lm: the adapter has rank %d and alpha %v, expected %d and %v", a.Base.Rank, a.Base.Alpha, l.base.Rank, l.base.Alpha)
	}
	return l.m.Fits(a)
}

func zeros(dims ...int) *tensors.Tensor {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return tensors.FromFlatDataAndDimensions(make([]float32, n), dims...)
}

// step makes a step on a batch of Inputs, and returns its loss.
func (l *loras) step(batch []any, rate float64) (float64, error) {
	if l.a == nil {
		return 0, errors.New("lm: a step before Reset")
	}
	l.steps++
	c, n := l.optimizer, float64(l.steps)
	args := append(batch, float32(rate), float32(1-math.Pow(c.Beta1, n)), float32(1-math.Pow(c.Beta2, n)))
	args = l.m.withWeights(args, nil)
	for _, kind := range l.lists() {
		for _, x := range kind.tensors {
			args = append(args, x)
		}
	}
	out, err := l.m.call(l.exec, args)
	if err != nil {
		return 0, fmt.Errorf("lm: tuning step %d: %w", l.steps, err)
	}
	k := len(l.first)
	params := out[1 : 1+k]
	if l.trainA {
		backend.Free(l.a)
		l.a, params = params[:len(l.a)], params[len(l.a):]
	}
	backend.Free(l.b, l.first, l.second)
	l.b, l.first, l.second = params, out[1+k:1+2*k], out[1+2*k:]
	return finiteLoss(out[0], l.steps)
}

// lists are all that steps read and change, with the names that they are stored by.
func (l *loras) lists() []tuned {
	return []tuned{{"lora_A", l.a}, {"lora_B", l.b}, {"first_moment", l.first}, {"second_moment", l.second}}
}

// tuned are tensors of a kind.
type tuned struct {
	kind    string
	tensors []*tensors.Tensor
}

func (t tuned) name(i int) string { return fmt.Sprintf("%s.%d", t.kind, i) }

func (l *loras) free() {
	backend.Free(l.a, l.b, l.first, l.second)
	l.a, l.b, l.first, l.second = nil, nil, nil, nil
}

// Close frees the LoRAs' memory.
func (l *loras) Close() {
	l.free()
	l.exec.Finalize()
}
