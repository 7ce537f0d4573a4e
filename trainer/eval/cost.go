package eval

import (
	"context"
	"fmt"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Cost is what a generated adapter costs beside one that is tuned until it is as good, in
// one run on one device.
type Cost struct {
	Task     string  `json:"task"`
	Device   string  `json:"device"`
	Generate float64 `json:"generate_seconds"` // encoder, decoder and the adapter's matrices, the second time: nothing is compiled
	// Target is the generated adapter's score on the first records of the task.
	Target lm.Score `json:"target"`
	Tune   float64  `json:"tune_seconds"` // of tuning's steps alone, without compiling and scoring
	Steps  int      `json:"steps"`
	// Reached says whether tuning got as far within its steps; Tuned is where it got.
	Reached bool     `json:"reached"`
	Tuned   lm.Score `json:"tuned"`
}

// scoreEvery is the number of tuning steps between two scores.
const scoreEvery = 2

// MeasureCost tunes a LoRA on the task's examples as package collect does, until its exact
// match is the generated adapter's and its likelihood no worse.
func MeasureCost(ctx context.Context, in Inputs, t Task, c collect.Config, records int, seed int64, device string) (*Cost, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	test, _, err := collect.Examples(in.Model, t.Records[:min(records, len(t.Records))], maxTokens)
	if err != nil {
		return nil, err
	}
	train, _, err := collect.Examples(in.Model, t.Examples, c.MaxTokens)
	if err != nil {
		return nil, err
	}
	if len(train) < c.Batch {
		return nil, fmt.Errorf("eval: task %s has %d records to tune on, a batch takes %d", t.Name, len(train), c.Batch)
	}
	k := &Cost{Task: t.Name, Device: device}
	for range 2 { // the first time compiles and reads the generator
		began := time.Now()
		a, _, err := generator.Generate(ctx, in.Package, in.Runner, t.prompts(), seed, 0, nil)
		if err != nil {
			return nil, err
		}
		k.Generate = time.Since(began).Seconds()
		if k.Target, err = in.Model.Evaluate(ctx, test, a); err != nil {
			return nil, err
		}
	}
	tuner, err := in.Model.NewTuner(c.Rank, c.Alpha, c.TrainA)
	if err != nil {
		return nil, err
	}
	defer tuner.Close()
	batches := c.Batches(len(train))
	// Each size of batch is compiled before the clock starts.
	tuner.Reset(c.Seed)
	compiled := map[lm.Size]bool{}
	for _, order := range batches {
		batch := pick(train, order)
		if size := lm.SizeOf(batch); !compiled[size] {
			compiled[size] = true
			if _, err := tuner.Step(batch, c.Rate); err != nil {
				return nil, err
			}
		}
	}
	tuner.Reset(c.Seed)
	for step, order := range batches {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		began := time.Now()
		if _, err := tuner.Step(pick(train, order), c.LearningRate(step)); err != nil {
			return nil, err
		}
		k.Tune += time.Since(began).Seconds()
		k.Steps = step + 1
		if k.Steps%scoreEvery != 0 && k.Steps < len(batches) {
			continue
		}
		a, err := tuner.Adapter()
		if err != nil {
			return nil, err
		}
		if k.Tuned, err = in.Model.Evaluate(ctx, test, a); err != nil {
			return nil, err
		}
		if k.Reached = k.Tuned.Exact >= k.Target.Exact && k.Tuned.NLL <= k.Target.NLL; k.Reached {
			break
		}
	}
	return k, nil
}

func pick(list []lm.Example, order []int) []lm.Example {
	out := make([]lm.Example, len(order))
	for i, k := range order {
		out[i] = list[k]
	}
	return out
}

func (k *Cost) String() string {
	end := fmt.Sprintf("as good after %d steps, %.1f s", k.Steps, k.Tune)
	if !k.Reached {
		end = fmt.Sprintf("not as good after all %d steps, %.1f s", k.Steps, k.Tune)
	}
	return fmt.Sprintf("Cost on %s (%s): generating %.2f s for %.3f / %.2f; tuning was %s (%.3f / %.2f).",
		k.Task, k.Device, k.Generate, k.Target.Exact, k.Target.NLL, end, k.Tuned.Exact, k.Tuned.NLL)
}
