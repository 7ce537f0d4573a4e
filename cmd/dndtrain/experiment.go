package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/experiment"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func runExperiment(flags *pflag.FlagSet) cli.Run {
	plan := flags.String("plan", "", "plan file: data, recipes, seeds and splits (models/tier-m.json is one)")
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	encoderDir := flags.String("encoder", "", "text encoder (Hugging Face folder)")
	out := flags.String("out", "", "folder for all that is made; an experiment that was stopped goes on")
	devices := flags.Int("devices", 1, "devices of the backend that share the data sets of collect")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "plan", "base", "encoder", "out"); err != nil {
			return err
		}
		b, err := openBackend(e, *name)
		if err != nil {
			return err
		}
		defer b.Finalize()
		// What is wrong with one is no reason to keep quiet about the others.
		p, errPlan := experiment.Read(*plan)
		text, errText := p.OpenEncoder(*encoderDir)
		if errText == nil {
			defer text.Close()
		}
		if err := errors.Join(errPlan, errText, lm.Check(*base, b)); err != nil {
			return err
		}
		r := experiment.Resources{Encoder: text, Backend: b}
		if r.Models, err = loadModels(*base, p.Model, p.Collect.DType, *devices, r.Backend); err != nil {
			return err
		}
		defer closeModels(r.Models)
		runner, err := backends.Open(backends.Options{Backend: r.Backend.Name, Device: -1}, func(s string) { e.Message("%s", s) })
		if err != nil {
			return err
		}
		defer runner.Close()
		r.Runner = runner
		bar := e.Bar()
		result, err := experiment.Run(ctx, p, r, *out, func(x experiment.Progress) { bar.Set(x.Stage, int64(x.Done), int64(x.Total), x.Note) })
		bar.Done()
		if err != nil {
			return err
		}
		return e.Result(result, func(w io.Writer) { err = result.Markdown(w) })
	}
}

// loadModels loads the base once for each device.
func loadModels(path, id, dtype string, devices int, b backend.Backend) ([]*lm.Model, error) {
	if n := b.NumDevices(); devices < 1 || devices > n {
		return nil, cli.Usagef("--devices is %d, expected 1 to %d: that many has backend %s", devices, n, b.Name)
	}
	var models []*lm.Model
	for d := range devices {
		m, err := lm.LoadWith(path, lm.Options{DType: dtype, Device: d}, b)
		if err != nil {
			closeModels(models)
			return nil, err
		}
		if id != "" {
			m.Config.Model = id
		}
		models = append(models, m)
	}
	return models, nil
}

func closeModels(models []*lm.Model) {
	for _, m := range models {
		m.Close()
	}
}
