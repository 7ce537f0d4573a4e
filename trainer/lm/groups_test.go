package lm_test

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

var small = lm.Config{Architecture: "llama", Layers: 1, Hidden: 16, Heads: 2, KVHeads: 2, HeadDim: 8, MLP: 24, Vocab: 12, RopeTheta: 10000, NormEps: 1e-6}

var smallSize = lm.Size{Length: 6, Answers: 3}

// counting are prompts of one token, answered by those that follow it step apart.
func counting(step int32) []lm.Example {
	var list []lm.Example
	for i := range int32(4) {
		list = append(list, lm.Example{Prompt: []int32{i}, Answer: []int32{(i + step) % 12, (i + 2*step) % 12}})
	}
	return list
}

// A model that is trained from nothing learns, and its weights come back from a file.
func TestTrainer(t *testing.T) {
	b := open(t, backend.PJRT)
	m, err := lm.New(small, 1, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	trainer, err := m.NewTrainer(adamw.Config{Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8, Clip: 1}, smallSize)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	var first, last float64
	for i := range 60 {
		if last, err = trainer.Step(counting(1), 1e-2); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = last
		}
	}
	if math.Abs(first-math.Log(12)) > 0.5 || last > 0.1 {
		t.Errorf("loss from %v to %v, want from about %v to nearly 0", first, last, math.Log(12))
	}
	list, err := m.Tensors()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := safetensors.WriteFile(path, list, nil); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := lm.New(small, 2, b)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Replace(f); err != nil {
		t.Fatal(err)
	}
	want, err := m.Evaluate(t.Context(), counting(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Evaluate(t.Context(), counting(1), nil); err != nil || got != want || got.Exact != 1 {
		t.Errorf("after Replace %+v, %v, want %+v", got, err, want)
	}
	wide := small
	wide.Hidden, wide.HeadDim = 32, 16
	w, err := lm.New(wide, 1, b)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Replace(f); err == nil {
		t.Error("weights of another shape were taken")
	}
}

// Groups do not see each other: each is tuned as it would be alone. The scores of a
// batch of groups are those of one adapter at a time.
func TestGroups(t *testing.T) {
	b := open(t, backend.PJRT)
	m, err := lm.New(small, 1, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	data := [][]lm.Example{counting(1), counting(5)}
	tune := func(groups ...[]lm.Example) *lm.GroupTuner {
		tuner, err := m.NewGroupTuner(len(groups), 2, 4, false, smallSize)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tuner.Close)
		if err := tuner.Reset(3, nil); err != nil {
			t.Fatal(err)
		}
		var examples []lm.Example
		for _, g := range groups {
			examples = append(examples, g...)
		}
		for range 20 {
			if _, err := tuner.Step(examples, 1e-2); err != nil {
				t.Fatal(err)
			}
		}
		return tuner
	}
	together, err := tune(data...).Adapters()
	if err != nil {
		t.Fatal(err)
	}
	scorer, err := m.NewScorer(2, smallSize)
	if err != nil {
		t.Fatal(err)
	}
	defer scorer.Close()
	outcomes, err := scorer.Score(t.Context(), data, together)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		alone, err := tune(data[i]).Adapters()
		if err != nil {
			t.Fatal(err)
		}
		for j, p := range alone[0].Pairs {
			for k := range p.B {
				if math.Abs(float64(p.B[k]-together[i].Pairs[j].B[k])) > 1e-4 {
					t.Fatalf("group %d, target %d: B %v, alone %v", i, j, together[i].Pairs[j].B[k], p.B[k])
				}
			}
		}
		want, err := m.Evaluate(t.Context(), data[i], together[i])
		if err != nil {
			t.Fatal(err)
		}
		nll, exact := 0.0, 0.0
		for _, o := range outcomes[i] {
			nll += o.NLL / float64(len(outcomes[i]))
			if o.Exact {
				exact += 1 / float64(len(outcomes[i]))
			}
		}
		if math.Abs(nll-want.NLL) > 1e-4 || math.Abs(exact-want.Exact) > 1e-9 {
			t.Errorf("group %d: %v nats and %v exact, want %+v", i, nll, exact, want)
		}
	}
	// More pieces than a batch of the scorer has, of unequal length.
	var many [][]lm.Example
	var adapters []*lora.Adapter
	for i := range 11 {
		list := slices.Repeat(data[i%2], 5)
		many, adapters = append(many, list[:20-i]), append(adapters, together[i%2])
	}
	scores, err := scorer.Score(t.Context(), many, adapters)
	if err != nil {
		t.Fatal(err)
	}
	for i, list := range scores {
		if len(list) != 20-i {
			t.Fatalf("group %d: %d outcomes of %d examples", i, len(list), 20-i)
		}
		for j, o := range list {
			if want := outcomes[i%2][j%4]; math.Abs(o.NLL-want.NLL) > 1e-4 || o.Exact != want.Exact {
				t.Errorf("group %d, example %d: %+v, in a small batch %+v", i, j, o, want)
			}
		}
	}
	// Tuning goes on from adapters: with a rate of nothing, they stay.
	again := tune(data...)
	if err := again.Continue(together); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Step(slices.Concat(data...), 0); err != nil {
		t.Fatal(err)
	}
	same, err := again.Adapters()
	if err != nil {
		t.Fatal(err)
	}
	for g := range same {
		for j, p := range same[g].Pairs {
			if !slices.Equal(p.A, together[g].Pairs[j].A) || !slices.Equal(p.B, together[g].Pairs[j].B) {
				t.Fatalf("group %d, target %d is not what it was continued from", g, j)
			}
		}
	}
	if err := again.Continue(together[:1]); err == nil {
		t.Error("one adapter for two groups was continued")
	}
	if _, err := scorer.Score(t.Context(), data, together[:1]); err == nil {
		t.Error("one adapter for two groups was taken")
	}
	tuner := tune(data...)
	if _, err := tuner.Step(data[0][:3], 1e-2); err == nil {
		t.Error("three examples for two groups were taken")
	}
	long := lm.Example{Prompt: make([]int32, 7), Answer: []int32{1}}
	if _, err := tuner.Step([]lm.Example{long, long}, 1e-2); err == nil {
		t.Error("an example that is too long was taken")
	}
}
