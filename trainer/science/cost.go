package science

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Cost compares generating with tuning, measured in one run on one device.
type Cost struct {
	// EncodeSeconds and GenerateSeconds are for one task: its prompts through the text
	// encoder, and the condition through the generator. Medians.
	EncodeSeconds   float64 `json:"encode_seconds"`
	GenerateSeconds float64 `json:"generate_seconds"`
	// StepSeconds is one step of tuning one task's LoRA alone, the median.
	StepSeconds float64 `json:"step_seconds"`
	// Zero and Generated are exact match on the test tasks by the steps of tuning, from a B
	// of zeros and from the generated one.
	Steps     []int     `json:"steps"`
	Zero      []float64 `json:"exact_from_zero"`
	Generated []float64 `json:"exact_from_generated"`
	// ToMatch is after how many steps from zero tuning is as good as generating; 0 if never.
	ToMatch int `json:"steps_to_match_generated"`
	// ToOwn is how many steps it takes from either start to 99 % of what tuning from zero
	// ends with; 0 if never.
	ToOwnZero      int `json:"steps_to_own_from_zero"`
	ToOwnGenerated int `json:"steps_to_own_from_generated"`
}

const (
	costEvery  = 10 // steps between scores
	costRepeat = 5  // of what is timed
)

// cost tunes the test tasks from both starts and times what one task takes.
func (e *experiment) cost(ctx context.Context, prefix string, key []any, test *contest, f *fitted) (*Cost, error) {
	l := &e.c.LoRA
	k := *test
	k.options = false
	conditions := k.conditions(0, "")
	curves, err := e.stage(prefix+"cost", key, func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		adapters, err := e.net.generate(f, conditions)
		if err != nil {
			return nil, err
		}
		t, err := e.tuners.get(len(k.tasks), false)
		if err != nil {
			return nil, err
		}
		var exact []float32
		for start := range 2 {
			err := t.Reset(l.Seed, k.own[0])
			if start == 1 {
				err = t.Continue(adapters)
			}
			if err != nil {
				return nil, err
			}
			o := newOrder(l.Seed, e.c.Records)
			for step := range l.Steps + 1 {
				if step%costEvery == 0 {
					now, err := t.Adapters()
					if err != nil {
						return nil, err
					}
					scores, err := k.simple(ctx, now)
					if err != nil {
						return nil, err
					}
					exact = append(exact, float32(meanScore(scores).Exact))
				}
				if step == l.Steps {
					break
				}
				loss, err := tuneStep(ctx, t, o, e.corpus, k.tasks, l.Batch, l.rate(step))
				if err != nil {
					return nil, err
				}
				report(start*l.Steps+step+1, 2*l.Steps, fmt.Sprintf("loss %.4f", loss))
			}
		}
		seconds, err := e.seconds(ctx, k.tasks[0], k.own[0], f, conditions[:1])
		if err != nil {
			return nil, err
		}
		return []safetensors.Tensor{safetensors.FromFloat32s("exact", safetensors.F32, exact, 2, len(exact)/2),
			safetensors.FromFloat32s("seconds", safetensors.F32, seconds, len(seconds))}, nil
	})
	if err != nil {
		return nil, err
	}
	defer curves.Close()
	exact, err := curves.Float32s("exact")
	if err != nil {
		return nil, err
	}
	seconds, err := curves.Float32s("seconds")
	if err != nil {
		return nil, err
	}
	if len(seconds) != 3 || len(exact) < 2 || len(exact)%2 != 0 {
		return nil, fmt.Errorf("science: %scost has %d and %d values, expected curves and three times", prefix, len(exact), len(seconds))
	}
	out := &Cost{StepSeconds: float64(seconds[0]), EncodeSeconds: float64(seconds[1]), GenerateSeconds: float64(seconds[2])}
	n := len(exact) / 2
	for i := range n {
		out.Steps, out.Zero, out.Generated = append(out.Steps, i*costEvery), append(out.Zero, float64(exact[i])), append(out.Generated, float64(exact[n+i]))
	}
	end := 0.99 * out.Zero[n-1]
	out.ToMatch = out.steps(out.Zero, out.Generated[0])
	out.ToOwnZero, out.ToOwnGenerated = out.steps(out.Zero, end), out.steps(out.Generated, end)
	return out, nil
}

// steps is after how many a curve reaches a level; 0 if it never does or starts there.
func (c *Cost) steps(curve []float64, level float64) int {
	for i, v := range curve {
		if v >= level {
			return c.Steps[i]
		}
	}
	return 0
}

// seconds times one task alone: a step of tuning, its prompts through the text encoder, and
// the condition through the generator. Medians.
func (e *experiment) seconds(ctx context.Context, task Task, first *lora.Adapter, f *fitted, condition [][]float32) ([]float32, error) {
	l := &e.c.LoRA
	t, err := e.tuners.get(1, false)
	if err != nil {
		return nil, err
	}
	if err := t.Reset(l.Seed, first); err != nil {
		return nil, err
	}
	var prompts []string
	for _, record := range task.records(seedPrompts, e.c.Generator.Texts, false) {
		prompts = append(prompts, record.Prompt)
	}
	o := newOrder(l.Seed, e.c.Records)
	var medians []float32
	for _, do := range []func() error{
		func() error { _, err := tuneStep(ctx, t, o, e.corpus, []Task{task}, l.Batch, l.Rate); return err },
		func() error { _, _, err := e.reader.read(ctx, prompts); return err },
		func() error { _, err := e.net.generate(f, condition); return err },
	} {
		var all []float64
		for i := range 1 + costRepeat {
			begin := time.Now()
			if err := do(); err != nil {
				return nil, err
			}
			if i > 0 { // the first compiles
				all = append(all, time.Since(begin).Seconds())
			}
		}
		slices.Sort(all)
		medians = append(medians, float32(all[len(all)/2]))
	}
	return medians, nil
}
