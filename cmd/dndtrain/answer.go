package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// answered is one prompt with the model's answers.
type answered struct {
	Prompt  string `json:"prompt"`
	Without string `json:"without"`
	With    string `json:"with,omitempty"`
}

func answer(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	adapter := flags.String("adapter", "", "PEFT folder to answer with, too")
	prompts := flags.String("prompts", "", "file of prompts: .txt, .json, .jsonl or .csv")
	field := flags.String("field", "", "key of a record's prompt (default: prompt)")
	count := flags.Int("count", 2, "prompts to answer, the first ones of the file")
	tokens := flags.Int("max-tokens", 24, "longest answer, in tokens")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "base", "prompts"); err != nil {
			return err
		}
		if *count < 1 || *tokens < 1 {
			return cli.Usagef("--count %d and --max-tokens %d: expected positive numbers", *count, *tokens)
		}
		list, err := text.ReadPrompts(*prompts, nil, *field)
		if err != nil {
			return err
		}
		list = list[:min(*count, len(list))]
		var a *lora.Adapter
		if *adapter != "" {
			if a, err = lora.ReadPEFT(*adapter); err != nil {
				return err
			}
		}
		b, m, err := loadBase(e, *name, *base)
		if err != nil {
			return err
		}
		defer b.Finalize()
		defer m.Close()
		out := make([]answered, len(list))
		without, err := m.Answers(ctx, list, nil, *tokens)
		if err != nil {
			return err
		}
		with := make([]string, len(list))
		if a != nil {
			if with, err = m.Answers(ctx, list, a, *tokens); err != nil {
				return err
			}
		}
		for i, p := range list {
			out[i] = answered{p, without[i], with[i]}
		}
		return e.Result(struct {
			Answers []answered `json:"answers"`
		}{out}, func(w io.Writer) {
			for _, x := range out {
				fmt.Fprintf(w, "prompt      %q\n  without   %q\n", x.Prompt, x.Without)
				if a != nil {
					fmt.Fprintf(w, "  with      %q\n", x.With)
				}
			}
		})
	}
}
