package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

func importCheckpoint(flags *pflag.FlagSet) cli.Run {
	var o generator.ImportOptions
	flags.StringVar(&o.Checkpoint, "pth", "", "the checkpoint: .pth, or its state dict as .safetensors")
	flags.StringVar(&o.Layout, "layout", "", "JSON file: class, features, kernel_size, max_length, modified_length, tokenizer")
	flags.StringVar(&o.Donor, "donor", "", "adapter (PEFT folder) that has the base model's names and shapes; without it the package only decodes")
	flags.StringVar(&o.Encoder, "encoder", "", "text encoder (Hugging Face folder); without it the package only decodes")
	flags.StringVar(&o.EncoderID, "encoder-id", "", "its id on the Hugging Face hub (default: the folder's name)")
	flags.StringVar(&o.Out, "out", "", "folder for the generator package")
	flags.StringVar(&o.Name, "name", "", "the generator's name (default: the checkpoint's)")
	flags.BoolVar(&o.Replace, "replace", false, "replace a package that stands there already")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "pth", "layout", "out"); err != nil {
			return err
		}
		bar := e.Bar()
		o.Progress = func(done, total int64) { bar.Set("import", done, total, "") }
		m, err := generator.Import(ctx, o)
		bar.Done()
		if err != nil {
			return err
		}
		if err := m.Complete(); err != nil {
			e.Message("note: %v", err)
		}
		return written(e, o.Out)
	}
}

func madeUp(flags *pflag.FlagSet) cli.Run {
	var o generator.MadeUpOptions
	var weights, out string
	flags.StringVar(&o.Shape, "shape", "", "the decoder's shape: "+strings.Join(generator.Shapes(), ", "))
	flags.StringVar(&o.Encoder, "encoder", "", "text encoder (Hugging Face folder); without it the package only decodes")
	flags.StringVar(&out, "out", "", "folder for the generator package")
	flags.Uint64Var(&o.Seed, "seed", 0, "seed of the weights")
	flags.StringVar(&weights, "weights", "f32", "type to store weights as: f32, f16, bf16, q8 or q4")
	cli.Values(flags, "weights", "f32", "f16", "bf16", "q8", "q4")
	flags.BoolVar(&o.Replace, "replace", false, "replace a package that stands there already")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "shape", "out"); err != nil {
			return err
		}
		if err := cli.OneOf("shape", strings.ToLower(o.Shape), generator.Shapes()...); err != nil {
			return err
		}
		o.DType = safetensors.DType(generator.Storages[weights])
		bar := e.Bar()
		o.Progress = func(done, total int64) { bar.Set("write", done, total, "") }
		err := generator.MadeUp(ctx, out, o)
		bar.Done()
		if err != nil {
			return err
		}
		return written(e, out)
	}
}

// written prints what a new package holds.
func written(e *cli.Env, dir string) error {
	p, err := generator.Open(dir)
	if err != nil {
		return err
	}
	defer p.Close()
	result := struct {
		Generator string `json:"generator"` // the folder
		SHA256    string `json:"sha256"`
		generator.Summary
	}{dir, p.SHA256, p.Summary()}
	return e.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s: generator %s, %d parameters, %s\n", dir, result.Name, result.Decoder.Parameters+result.Encoder.Parameters, size(result.Bytes))
	})
}
