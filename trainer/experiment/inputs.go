package experiment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/grid"
)

// Inputs are what package eval scores for a grid: its held-out tasks with the records of
// data/test, its training tasks' LoRAs and those of the held-out ones in collected, and the
// LoRA of the folder joint; collected and joint may be "". All that is wrong comes back
// joined.
func Inputs(g *grid.Grid, data, collected, joint string) (*eval.Inputs, error) {
	in := &eval.Inputs{}
	var all []error
	task := func(name string) eval.Task {
		t := eval.Task{Name: name, System: g.System(name), Attributes: g.Attributes(name)}
		var err error
		if t.Records, err = grid.Records(data, "test", name); err != nil {
			all = append(all, err)
		}
		if t.Examples, err = grid.Records(data, "train", name); err != nil {
			all = append(all, err)
		}
		// Prompts are unlabelled and plenty: those of training, so that records of the test
		// are never among the prompts that they are answered by.
		for _, r := range t.Examples {
			t.Prompts = append(t.Prompts, r.Prompt)
		}
		return t
	}
	for _, name := range g.HeldOut {
		in.Tasks = append(in.Tasks, task(name))
	}
	for _, name := range g.Validation {
		in.Validation = append(in.Validation, task(name))
	}
	trained := func(name string, required bool) *eval.Trained {
		dir := filepath.Join(collected, name)
		if _, err := os.Stat(filepath.Join(dir, "collect.json")); errors.Is(err, fs.ErrNotExist) && !required {
			return nil
		}
		prompts, err := text.ReadPrompts(filepath.Join(dir, "prompts.json"), nil, "")
		if err != nil {
			all = append(all, fmt.Errorf("LoRA of %s: %w", name, err))
		}
		return &eval.Trained{Name: name, Dir: dir, Prompts: prompts, Attributes: g.Attributes(name)}
	}
	if collected != "" {
		for _, name := range g.Train {
			in.Training = append(in.Training, *trained(name, true))
		}
		for _, name := range g.HeldOut {
			if t := trained(name, false); t != nil {
				in.Own = append(in.Own, *t)
			}
		}
	}
	if joint != "" {
		in.Joint = &eval.Trained{Name: "joint", Dir: joint}
	}
	return in, errors.Join(all...)
}

// costRecords is how many records say when tuning is as good as generating.
const costRecords = 64

// Cost compares the seconds of generating with those of tuning on one held-out task, by a
// recipe with the generator's rank and alpha.
func Cost(ctx context.Context, in *eval.Inputs, task string, c collect.Config, dtype string, e eval.Config, device string) (*eval.Cost, error) {
	base := in.Package.Manifest.Base
	c.Rank, c.Alpha, c.DType = base.Rank, base.Alpha, dtype
	for _, t := range in.Tasks {
		if t.Name == task {
			records := costRecords
			if e.Records > 0 {
				records = min(records, e.Records)
			}
			return eval.MeasureCost(ctx, *in, t, c, records, e.Seed, device)
		}
	}
	return nil, fmt.Errorf("task %s is not held out: there is nothing generated to compare", task)
}
