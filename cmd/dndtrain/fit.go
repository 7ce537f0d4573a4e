package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

func fitGenerator(flags *pflag.FlagSet) cli.Run {
	c := fit.Defaults()
	data := flags.String("data", "", "folder that collect wrote")
	sets := flags.StringSlice("sets", nil, "data sets in it to fit on (default: all)")
	grid := flags.String("grid", "", "JSON file whose list \"train\" names the data sets to fit on")
	joint := flags.String("joint", "", "folder of the LoRA that collect --joint tuned on all data sets: each adapter becomes an average of it and what is generated")
	field := flags.String("field", "", "key of a record's prompt (default: prompt)")
	arch := addArchitectureFlags(flags)
	encoderDir := flags.String("encoder", "", "text encoder (Hugging Face folder)")
	out := flags.String("out", "", "folder for the run: checkpoints, metrics.jsonl, TensorBoard events and loss.png; a run that was stopped goes on")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	flags.StringVar(&c.Pads, "pads", c.Pads, "condition at pad positions: "+generator.PadsEncoded+" or "+generator.PadsZero)
	flags.IntVar(&c.Steps, "steps", c.Steps, "optimizer steps")
	flags.IntVar(&c.Batch, "batch", c.Batch, "pairs of prompts and checkpoint a step")
	flags.IntVar(&c.Accumulate, "accumulate", c.Accumulate, "parts that a step's pairs are computed in, one after the other, for less memory")
	flags.StringVar(&c.DType, "dtype", c.DType, "precision of convolutions: "+fit.F32+" or "+fit.BF16+"; weights are f32")
	devices := flags.Int("devices", 1, "devices of the backend that share a step's pairs")
	flags.Float64Var(&c.LearningRate, "learning-rate", c.LearningRate, "peak of the schedule")
	flags.IntVar(&c.WarmUp, "warm-up", c.WarmUp, "steps of linear warm-up")
	flags.Float64Var(&c.WeightDecay, "weight-decay", c.WeightDecay, "AdamW's weight decay")
	flags.Float64Var(&c.Clip, "clip", c.Clip, "largest norm of a gradient")
	flags.Float64Var(&c.ConditionNoise, "condition-noise", c.ConditionNoise, "deviation of noise on the condition")
	flags.Float64Var(&c.TargetNoise, "target-noise", c.TargetNoise, "deviation of noise on the weight tokens")
	flags.Float64Var(&c.TokenDrop, "token-drop", c.TokenDrop, "share of the prompts' tokens that are left out of each step")
	flags.BoolVar(&c.LinearStart, "linear-start", c.LinearStart, "start as linear regression from conditions to weight tokens (a decoder of one layer that ends in a basis)")
	flags.Float64Var(&c.LinearStrength, "linear-strength", c.LinearStrength, "with --linear-start: strength of the ridge, of the mean squared distance of conditions from their mean")
	flags.BoolVar(&c.LeaveOut, "leave-out", c.LeaveOut, "with --linear-start: answer for each data set through what the others say, in steps with the loss on answers")
	flags.Float64Var(&c.BasisRate, "basis-learning-rate", c.BasisRate, "learning rate of a basis of weight tokens by the loss on answers; 0 keeps it as it is")
	flags.Float64Var(&c.BasisNoise, "basis-noise", c.BasisNoise, "with --basis-learning-rate: deviation of noise on the coordinates by which the change counts, so that it holds beside the data sets' own")
	flags.IntVar(&c.Prompts, "prompts", c.Prompts, "prompts of each data set that take part (0: all)")
	flags.Int64Var(&c.Seed, "seed", c.Seed, "seed of weights, pairs and noise")
	flags.Float64Var(&c.Average, "average", c.Average, "share of the past in the exponential mean of the weights, which export then takes (0: the last weights)")
	// models/README.md has what other shares reach.
	jointShare := flags.Float64("joint-share", 0.5, "with --joint: its share in that average")
	flags.IntVar(&c.SaveEvery, "save-every", c.SaveEvery, "steps between checkpoints")
	task := addTaskFlags(flags)
	dry := addPlanFlags(flags)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		names, err := wanted(*sets, *grid)
		if err != nil {
			return err
		}
		from := source{data: *data, sets: names, encoder: *encoderDir, joint: *joint != ""}
		if err := arch.configure(e, &c, from); err != nil {
			return err
		}
		if err := task.configure(&c); err != nil {
			return err
		}
		if *joint != "" {
			c.JointShare = *jointShare
		} else if flags.Changed("joint-share") {
			return cli.Usagef("--joint-share goes with --joint")
		}
		if err := cli.OneOf("backend", *name, backend.Auto, backend.PJRT, backend.CPU); err != nil {
			return err
		}
		if err := dry.check(); err != nil {
			return err
		}
		if dry.plan {
			return dry.run(ctx, e, &c, arch.name(), *devices, *name)
		}
		if err := cli.Required(flags, "data", "encoder", "out"); err != nil {
			return err
		}
		if err := task.required(); err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return cli.Usagef("%w", err)
		}
		b, err := openBackend(e, *name)
		if err != nil {
			return err
		}
		defer b.Finalize()
		// What is wrong with one is no reason to keep quiet about the other.
		text, errText := generator.OpenEncoder(*encoderDir, c.Texts, c.Length)
		if errText == nil {
			defer text.Close()
		}
		d, errData := fit.OpenData(*data, names, *field, c.Tiling)
		if *joint != "" && d != nil {
			errData = errors.Join(errData, d.SetJoint(*joint))
		}
		if err := errors.Join(errText, errData, fit.CheckFolder(*out, &c), task.check(b)); err != nil {
			return err
		}

		onAnswers, err := task.load(e, &c, d.Sets, b)
		if err != nil {
			return err
		}
		if onAnswers != nil {
			defer onAnswers.Model.Close()
		}

		bar := e.Bar()
		result, err := fit.Run(ctx, c, d, fit.Resources{Encoder: text, Backend: b, Devices: *devices, Task: onAnswers}, *out, func(p fit.Progress) {
			note := ""
			if p.PerStep > 0 {
				note = fmt.Sprintf("loss %.5f, %.2f steps/s", p.Smooth, 1/p.PerStep.Seconds())
			}
			bar.Set(p.Stage, int64(p.Done), int64(p.Total), note)
		})
		bar.Done()
		if err != nil {
			return err
		}
		return e.Result(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d steps, loss %.6f\n", *out, result.Steps, result.Loss)
			if len(result.Spreads) > 0 {
				fmt.Fprintf(w, "the data sets' conditions lie %.2f apart, of which the basis has the first %d; they drop most after %d\n", result.Spreads, c.Decoder.Rank(), result.Directions)
			}
		})
	}
}

// openBackend opens what GoMLX computes on, and says what it is.
func openBackend(e *cli.Env, name string) (backend.Backend, error) {
	b, err := backend.Open(name)
	if err != nil {
		return b, err
	}
	if b.Skipped != nil {
		e.Message("note: %v", b.Skipped)
	}
	e.Message("backend %s: %s", b.Name, b.Device)
	return b, nil
}
