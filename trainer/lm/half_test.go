package lm_test

import (
	"math"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// A base in bfloat16 scores as the one in float32 does, but for rounding, and gives a LoRA
// the same gradients: Adam's first step is their signs.
func TestHalf(t *testing.T) {
	for _, kind := range []string{backend.CPU, backend.PJRT} {
		t.Run(kind, func(t *testing.T) {
			b, dir := open(t, kind), tiny(t)
			var scores []lm.Score
			var losses []float64
			var steps [][]float32
			for _, dtype := range []string{lm.F32, lm.BF16} {
				m, err := lm.LoadWith(dir, lm.Options{DType: dtype}, b)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				list := examples(t, m)
				tuner, err := m.NewTuner(4, 8, true)
				if err != nil {
					t.Fatal(err)
				}
				defer tuner.Close()
				tuner.Reset(1)
				loss, err := tuner.Step(list, 1e-2)
				if err != nil {
					t.Fatal(err)
				}
				a, err := tuner.Adapter()
				if err != nil {
					t.Fatal(err)
				}
				score, err := m.Evaluate(t.Context(), list, a)
				if err != nil {
					t.Fatal(err)
				}
				var all []float32
				for _, p := range a.Pairs {
					all = slices.Concat(all, p.B)
				}
				scores, losses, steps = append(scores, score), append(losses, loss), append(steps, all)
			}
			near := func(x, y float64) bool { return math.Abs(x-y) < 0.01*x }
			if !near(scores[0].NLL, scores[1].NLL) || !near(losses[0], losses[1]) || scores[0] == scores[1] {
				t.Errorf("scores %+v, losses %v", scores, losses)
			}
			other := 0
			for i, x := range steps[0] {
				if math.Abs(float64(x-steps[1][i])) > 1e-3 {
					other++
				}
			}
			if other > len(steps[0])/50 {
				t.Errorf("%d of %d values of B go elsewhere", other, len(steps[0]))
			}
		})
	}
}

// What needs the weights as they were read says so.
func TestHalfRefuses(t *testing.T) {
	b, dir := open(t, backend.CPU), tiny(t)
	if _, err := lm.LoadWith(dir, lm.Options{DType: "f16"}, b); err == nil {
		t.Error("a base in f16 was loaded")
	}
	m, err := lm.LoadWith(dir, lm.Options{DType: lm.BF16}, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Tensors(); err == nil {
		t.Error("rounded weights were given as the model's")
	}
	if _, err := m.NewTrainer(adamw.Config{Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8, Clip: 1}, smallSize); err == nil {
		t.Error("a base in bfloat16 is trained")
	}
}
