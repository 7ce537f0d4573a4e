package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

func precision(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	dir := flags.String("generator", "", generators.Usage)
	keys := generators.AddKeys(flags)
	files := flags.StringSlice("records", nil, "tasks: .json files of records with prompt and response, separated by commas")
	weights := flags.StringSlice("weights", eval.WeightTypes, "types that the decoder's weights are rounded to")
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
		for _, w := range *weights {
			if err := cli.OneOf("weights", w, eval.WeightTypes...); err != nil {
				return err
			}
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
		encode, err := backends.Open(backends.Options{Backend: b.Name, Device: -1}, func(s string) { e.Message("%s", s) })
		if err != nil {
			return err
		}
		defer encode.Close()
		decode := infer.New(b)
		defer decode.Close()
		rows, err := eval.Precision(ctx, m, p, encode, decode, sets, *weights, *seed, *count)
		if err != nil {
			return err
		}
		return e.Result(struct {
			Weights []eval.PrecisionRow `json:"weights"`
		}{rows}, func(w io.Writer) {
			fmt.Fprint(w, "| weights | error of the weights | of what is generated |")
			for _, s := range sets {
				fmt.Fprintf(w, " %s |", s.Name)
			}
			fmt.Fprintf(w, "\n|---|---|---|%s\n", strings.Repeat("---|", len(sets)))
			for _, r := range rows {
				fmt.Fprintf(w, "| %s | %.1e | %.1e |", r.Weights, r.WeightError, r.OutputError)
				for _, s := range r.Tasks {
					fmt.Fprintf(w, " %.3f / %.3f |", s.Exact, s.NLL)
				}
				fmt.Fprintln(w)
			}
		})
	}
}
