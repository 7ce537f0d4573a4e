package fit_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// task is a random base of the golden adapters' shape, and records whose answers are a
// data set's own token.
func task(t *testing.T, b backend.Backend) *fit.Task {
	t.Helper()
	m := must[*lm.Model](t)(lm.New(lm.Config{Architecture: "qwen2", Model: "example/mini", Layers: 1, Hidden: 56, Heads: 14, KVHeads: 1, HeadDim: 4, MLP: 266,
		Vocab: 32, RopeTheta: 100, NormEps: 1e-6}, 7, b))
	t.Cleanup(m.Close)
	rng := rand.New(rand.NewPCG(5, 5))
	examples := map[string][]lm.Example{}
	for i, name := range []string{"one", "two", "three"} {
		for range 8 {
			e := lm.Example{Answer: []int32{int32(20 + i), 2}}
			for range 3 + rng.IntN(4) {
				e.Prompt = append(e.Prompt, int32(3+rng.IntN(16)))
			}
			examples[name] = append(examples[name], e)
		}
	}
	return &fit.Task{Model: m, Examples: examples}
}

// answersLosses are the losses on answers of a run's steps, 0 for those without.
func answersLosses(t *testing.T, dir string) []float64 {
	t.Helper()
	var list []float64
	for _, m := range metricsOf(t, dir) {
		list = append(list, m.Answers)
	}
	return list
}

// The base's loss on answers falls while only the generator is fitted, and a step in
// parts on two devices of XLA is the Go backend's step at once.
func TestTaskLossFalls(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	run := func(c fit.Config, b backend.Backend, devices int) (string, map[string][]float32) {
		t.Helper()
		dir := t.TempDir()
		must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: b, Task: task(t, b), Devices: devices}, dir, nil))
		return dir, tensorsOf(t, dir)
	}
	for _, affine := range []bool{false, true} {
		c := config(affine)
		c.Steps, c.Batch = 20, 4
		c.SetLoss(fit.LossTask)
		dir, _ := run(c, cpu(t), 1)
		list := answersLosses(t, dir)
		first, last := list[0], list[len(list)-1]
		t.Logf("affine=%v: loss on answers %.3f, after %d steps %.3f", affine, first, len(list), last)
		if !(last < 0.75*first) {
			t.Errorf("affine=%v: the loss on answers went from %v to %v, expected less than three quarters", affine, first, last)
		}
	}

	c := config(true)
	c.Steps, c.Batch, c.Epsilon, c.ConditionNoise, c.TargetNoise = 3, 4, 1e-3, 0, 0
	c.SetLoss(fit.LossBoth)
	c.Task.From = 1
	dir, _ := run(c, cpu(t), 1)
	if list := answersLosses(t, dir); list[0] != 0 || !(list[1] > 0) {
		t.Errorf("losses on answers %v, expected them from the second step on", list)
	}
	c.Steps, c.Task.From = 2, 0
	for _, basis := range []bool{false, true} {
		c := c
		if basis {
			inBasis(&c)
		}
		_, want := run(c, cpu(t), 1)
		c.Accumulate = 2
		_, got := run(c, pjrt(t), 2)
		if d := distance(t, c, want, got); d > 1e-4 {
			t.Errorf("basis %v: in two parts on two devices of XLA the weights differ by %.2g of their change", basis, d)
		}
	}
}

func TestTaskIsChecked(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	b := cpu(t)
	good := task(t, b)
	deep := must[*lm.Model](t)(lm.New(lm.Config{Architecture: "llama", Model: "example/deep", Layers: 2, Hidden: 56, Heads: 14, KVHeads: 1, HeadDim: 4, MLP: 266,
		Vocab: 32, RopeTheta: 100, NormEps: 1e-6}, 7, b))
	t.Cleanup(deep.Close)
	for _, bad := range []struct {
		task  *fit.Task
		dtype string
		want  []string
	}{
		{nil, lm.F32, []string{"base model"}},
		{good, lm.BF16, []string{"in f32", "says bf16"}},
		{&fit.Task{Model: deep, Examples: map[string][]lm.Example{"two": good.Examples["two"]}}, lm.F32, []string{"14 modules", "data set one"}},
	} {
		c, dir := config(true), filepath.Join(t.TempDir(), "run")
		c.SetLoss(fit.LossTask)
		c.Task.BaseDType = bad.dtype
		_, err := fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: b, Task: bad.task}, dir, nil)
		for _, want := range bad.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not mention %q", err, want)
			}
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("a refused run left a folder behind")
		}
	}
	for _, change := range []func(*fit.Config){
		func(c *fit.Config) { c.Loss = "all" },
		func(c *fit.Config) { c.Task.Records = 1 },
		func(c *fit.Config) { c.SetLoss(fit.LossTask); c.Task.Share = 1 },
		func(c *fit.Config) { c.SetLoss(fit.LossTask); c.Task.Records = 0 },
		func(c *fit.Config) { c.SetLoss(fit.LossBoth); c.Task.From = c.Steps },
		func(c *fit.Config) { c.SetLoss(fit.LossBoth); c.Task.BaseDType = "f16" },
		func(c *fit.Config) { c.Task.BaseDType = lm.BF16 },
	} {
		c := config(true)
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("loss %s with %+v was accepted", c.Loss, c.Task)
		}
	}
}
