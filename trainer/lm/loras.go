package lm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
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
	for _, t := range l.base.Targets {
		x := make([]float32, r*t.In)
		bound := 1 / math.Sqrt(float64(t.In))
		for i := range x {
			x[i] = float32((2*rng.Float64() - 1) * bound)
		}
		l.a = append(l.a, tensors.FromFlatDataAndDimensions(x, r, t.In))
		l.b = append(l.b, tensors.FromShape(shapes.Make(dtypes.Float32, slices.Concat(outer, []int{t.Out, r})...)))
	}
	trained := l.b
	if l.trainA {
		trained = slices.Concat(l.a, l.b)
	}
	for _, x := range trained {
		l.first, l.second = append(l.first, tensors.FromShape(x.Shape())), append(l.second, tensors.FromShape(x.Shape()))
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

// step makes a step on a batch of Inputs, and returns its loss.
func (l *loras) step(batch []any, rate float64) (float64, error) {
	if l.a == nil {
		return 0, errors.New("lm: a step before Reset")
	}
	l.steps++
	args := l.m.withWeights(append(batch, l.optimizer.Scalars(rate, l.steps)...), nil)
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
