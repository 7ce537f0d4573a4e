package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/export"
)

func exportGenerator(flags *pflag.FlagSet) cli.Run {
	var o export.Options
	runs := flags.StringSlice("run", nil, "folder of a run of fit; of several with --recipe basis that differ in their --seed alone, the generator is the mean")
	out := flags.String("out", "", "folder for the generator package")
	flags.StringVar(&o.EncoderDir, "encoder", "", "text encoder that the run was fitted with (Hugging Face folder)")
	flags.StringVar(&o.EncoderID, "encoder-id", "", "its id on the Hugging Face hub (default: the folder's name)")
	flags.StringVar(&o.Name, "name", "", "the generator's name")
	flags.StringVar(&o.Model, "base-model", "", "Hugging Face id of the base model (default: as the checkpoints say)")
	flags.StringVar(&o.Architecture, "architecture", "", "GGUF's name of its architecture, llama or qwen2, which adapters in GGUF need (default: as collect noted)")
	flags.IntVar(&o.Heads, "heads", 0, "its attention heads; with --architecture")
	flags.IntVar(&o.KVHeads, "kv-heads", 0, "its key/value heads; with --architecture")
	flags.StringSliceVar(&o.HeldOut, "held-out", nil, "data sets kept from training, for the record")
	flags.Float64Var(&o.FarScale, "far-scale", 1, "multiply the alpha of adapters whose prompts are unlike all data sets by this, above 0 and at most 1; eval --scale on a kind of task that was left out shows what helps")
	flags.Float64Var(&o.BasisShare, "basis-share", 1, "keep this share of what fit --basis-learning-rate changed in the basis, above 0 and at most 1: less holds better on tasks far from all of training, and eval shows what helps")
	flags.StringVar(&o.License, "license", "", "SPDX id, for the record")
	flags.StringVar(&o.Commit, "commit", "", "commit of the code that fitted it, for the record")
	weights := flags.String("weights", "f32", "type to store weights as: f32, f16, q8 or q4 (matrices in blocks of 32 values with a scale, the rest f16; with q4 the encoder is q8)")
	cli.Values(flags, "weights", "f32", "f16", "q8", "q4")
	flags.BoolVar(&o.Replace, "replace", false, "replace a package that stands there already")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "run", "encoder", "name", "out"); err != nil {
			return err
		}
		if (o.Architecture == "") != (o.Heads == 0 && o.KVHeads == 0) {
			return cli.Usagef("--architecture, --heads and --kv-heads go together")
		}
		if !(o.FarScale > 0 && o.FarScale <= 1) {
			return cli.Usagef("--far-scale %v, expected a number above 0, at most 1", o.FarScale)
		}
		if !(o.BasisShare > 0 && o.BasisShare <= 1) {
			return cli.Usagef("--basis-share %v, expected a number above 0, at most 1", o.BasisShare)
		}
		o.DType = safetensors.DType(generator.Storages[*weights])
		bar := e.Bar()
		err := export.Write(ctx, *runs, *out, o, func(done, total int64) { bar.Set("export", done, total, "") })
		bar.Done()
		if err != nil {
			return err
		}
		p, err := generator.Open(*out)
		if err != nil {
			return err
		}
		defer p.Close()
		result := struct {
			Generator string `json:"generator"` // the folder
			SHA256    string `json:"sha256"`
			generator.Summary
		}{*out, p.SHA256, p.Summary()}
		return e.Result(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s: generator %s, %d parameters\n", *out, result.Name, result.Decoder.Parameters+result.Encoder.Parameters)
		})
	}
}
