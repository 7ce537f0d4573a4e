package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/experiment"
	"github.com/drag-and-drop-lora/dnd/trainer/grid"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func evaluate(flags *pflag.FlagSet) cli.Run {
	c := eval.Defaults()
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	dir := flags.String("generator", "", generators.Usage)
	keys := generators.AddKeys(flags)
	files := flags.StringSlice("records", nil, "tasks: .json or .jsonl files of records with prompt and response, separated by commas")
	gridFile := flags.String("grid", "", "in place of --records, JSON file whose lists \"train\", \"validation\" and \"held_out\" name tasks of --data: scores the held-out ones beside all rivals")
	data := flags.String("data", "", "with --grid: folder with the tasks' records, train/NAME.json and test/NAME.json, or .jsonl")
	collected := flags.String("collected", "", "with --grid: folder that collect wrote, with the LoRAs of the training tasks and, where they are there, of the held-out ones")
	joint := flags.String("joint", "", "with --grid: folder of one LoRA that collect --joint tuned on all training tasks")
	out := flags.String("out", "", "folder for result.json, result.md and result.png, and for the scores as they come: an evaluation that was stopped goes on, and takes more methods, draws and rivals")
	cost := flags.String("cost", "", "with --grid: held-out task to tune until it is as good as the generated adapter, and to compare the seconds of")
	flags.IntVar(&c.Records, "count", c.Records, "records of each task to score, the first ones of the file (0: all)")
	flags.IntVar(&c.Cross, "cross-count", c.Cross, "records of each task to score every training LoRA on")
	flags.IntVar(&c.Draws, "draws", c.Draws, "draws of prompts")
	flags.IntVar(&c.Shots, "shots", c.Shots, "examples in the base's few-shot prompts")
	flags.Int64Var(&c.Seed, "seed", c.Seed, "which prompts of a task are drawn")
	flags.StringArrayVar(&c.Methods, "method", nil, "score this row of the tables alone, such as \""+eval.Generated+"\"; may be given more than once (default: all)")
	flags.Float64Var(&c.Scale, "scale", 1, "multiply the alpha of every adapter but the own-task LoRA by this, above 0")
	dtype := flags.String("dtype", lm.F32, "precision of the base's matrices: "+lm.F32+" or "+lm.BF16)
	cli.Values(flags, "dtype", lm.F32, lm.BF16)
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "base", "generator"); err != nil {
			return err
		}
		if (len(*files) == 0) == (*gridFile == "") {
			return cli.Usagef("give one of --records and --grid")
		}
		if err := c.Validate(); err != nil {
			return cli.Usagef("%w", err)
		}
		if c.Scale == 0 {
			return cli.Usagef("--scale 0, expected a number above 0: --method %q is the base without an adapter", eval.Base)
		}
		if *gridFile == "" && (*data != "" || *collected != "" || *joint != "" || *cost != "") {
			return cli.Usagef("--data, --collected, --joint and --cost go with --grid")
		}
		b, err := openBackend(e, *name)
		if err != nil {
			return err
		}
		defer b.Finalize()
		in, err := evalInputs(*files, *gridFile, *data, *collected, *joint)
		if err := errors.Join(err, lm.Check(*base, b)); err != nil {
			return err
		}
		if in.Package, err = generators.Open(ctx, e, *dir, keys); err != nil {
			return err
		}
		defer in.Package.Close()
		if in.Model, err = lm.LoadWith(*base, lm.Options{DType: *dtype}, b); err != nil {
			return err
		}
		defer in.Model.Close()
		r, err := backends.Open(backends.Options{Backend: b.Name, Device: -1}, func(s string) { e.Message("%s", s) })
		if err != nil {
			return err
		}
		defer r.Close()
		in.Runner = r
		bar := e.Bar()
		result, err := eval.Run(ctx, c, *in, *out, func(p eval.Progress) { bar.Set("eval", int64(p.Done), int64(p.Total), p.Task+", "+p.Method) })
		bar.Done()
		if err != nil {
			return err
		}
		if *cost != "" {
			if result.Cost, err = experiment.Cost(ctx, in, *cost, collect.Defaults(), *dtype, c, b.Device); err != nil {
				return err
			}
		}
		if *out != "" {
			if err := result.Write(*out); err != nil {
				return err
			}
		}
		return e.Result(result, func(w io.Writer) { err = result.Markdown(w) })
	}
}

// evalInputs reads what is scored: tasks of files, or those of a grid with their rivals.
func evalInputs(files []string, gridFile, data, collected, joint string) (*eval.Inputs, error) {
	if gridFile != "" {
		if data == "" {
			return nil, cli.Usagef("--data is missing: the folder with the records of the grid's tasks")
		}
		g, err := grid.Read(gridFile)
		if err != nil {
			return nil, err
		}
		if collected != "" {
			if _, err := os.Stat(collected); err != nil {
				return nil, err
			}
		}
		if joint != "" {
			if _, err := os.Stat(filepath.Join(joint, "collect.json")); err != nil {
				return nil, fmt.Errorf("--joint: a folder of one data set is needed: %w", err)
			}
		}
		return experiment.Inputs(g, data, collected, joint)
	}
	in := &eval.Inputs{}
	var all []error
	for _, path := range files {
		set, err := collect.ReadDataSet(path)
		if err != nil {
			all = append(all, err)
			continue
		}
		in.Tasks = append(in.Tasks, eval.Task{Name: set.Name, Records: set.Records})
	}
	return in, errors.Join(all...)
}
