package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
)

func evaluate(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	dir := flags.String("generator", "", generators.Usage)
	keys := generators.AddKeys(flags)
	files := flags.StringSlice("records", nil, "tasks: .json files of records with prompt and response, separated by commas")
	count := flags.Int("count", 0, "records of each task to score, the first ones of the file (0: all)")
	seed := flags.Int64("seed", 0, "which prompts of a task are drawn")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "base", "generator", "records"); err != nil {
			return err
		}
		if *count < 0 {
			return cli.Usagef("--count is %d, expected 0 or more", *count)
		}
		sets := make([]*collect.DataSet, len(*files))
		for i, path := range *files {
			var err error
			if sets[i], err = collect.ReadDataSet(path); err != nil {
				return err
			}
		}
		p, err := generators.Open(ctx, e, *dir, keys)
		if err != nil {
			return err
		}
		defer p.Close()
		b, m, err := loadBase(e, *name, *base)
		if err != nil {
			return err
		}
		defer b.Finalize()
		defer m.Close()
		r, err := backends.Open(backends.Options{Backend: b.Name, Device: -1}, func(s string) { e.Message("%s", s) })
		if err != nil {
			return err
		}
		defer r.Close()
		rows, err := eval.Run(ctx, m, p, r, sets, *seed, *count, func(done int) { e.Message("%d of %d tasks", done, len(sets)) })
		if err != nil {
			return err
		}
		return e.Result(struct {
			Tasks []eval.Row `json:"tasks"`
		}{rows}, func(w io.Writer) {
			fmt.Fprintf(w, "| task | records | base | foreign prompts | generated |\n|---|---|---|---|---|\n")
			for _, r := range rows {
				foreign := "–"
				if r.Foreign != nil {
					foreign = fmt.Sprintf("%.3f / %.2f", r.Foreign.Exact, r.Foreign.NLL)
				}
				fmt.Fprintf(w, "| %s | %d | %.3f / %.2f | %s | %.3f / %.2f |\n", r.Task, r.Records, r.Base.Exact, r.Base.NLL, foreign, r.Generated.Exact, r.Generated.NLL)
			}
		})
	}
}
