package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// tried is what try prints.
type tried struct {
	Prompt       string        `json:"prompt"`
	PromptTokens int           `json:"prompt_tokens"` // with those of the turns around it
	Device       string        `json:"device"`
	Base         string        `json:"base"` // the answer without an adapter
	Adapters     []triedAnswer `json:"adapters"`
	Seconds      float64       `json:"seconds"`
}

type triedAnswer struct {
	Adapter string `json:"adapter"`
	Answer  string `json:"answer"`
}

func try(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model, a .gguf file of F32, F16, BF16, Q8_0, Q4_0 or Q4_1")
	adapters := flags.StringSlice("adapter", nil, "adapter, PEFT, GGUF or MLX; several are answered with one after the other")
	system := flags.String("system", "", "system prompt (default: the base model's own)")
	tokens := flags.Int("tokens", 128, "most tokens of an answer")
	device := flags.Int("device", -1, "number of the WebGPU device, see dndgen devices (default: the best)")
	return func(ctx context.Context, e *cli.Env, args []string) error {
		if err := cli.Required(flags, "base"); err != nil {
			return err
		}
		if len(*adapters) == 0 {
			return cli.Usagef("--adapter is missing: %s", flags.Lookup("adapter").Usage)
		}
		if *tokens < 1 {
			return cli.Usagef("--tokens %d: expected 1 or more", *tokens)
		}
		spec, err := lora.ReadSpec(*base)
		if err != nil {
			return err
		}
		file, err := gguf.Open(*base)
		if err != nil {
			return err
		}
		defer file.Close()
		var files []*gguf.File
		for _, path := range *adapters {
			f, err := adapterGGUF(path, spec)
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		d, name, err := backends.OpenDevice(backends.Options{Device: *device})
		if err != nil {
			return err
		}
		defer d.Close()
		e.Message("backend %s: %s", backends.WebGPU, name)
		r := tried{Prompt: args[0], Device: name}
		begin := time.Now()
		for i, f := range files {
			answers, n, err := answerWith(ctx, e, d, file, f, r.Prompt, *system, *tokens)
			if err != nil {
				return fmt.Errorf("%s: %w", (*adapters)[i], err)
			}
			r.PromptTokens, r.Base = n, answers[llama.RowBase]
			r.Adapters = append(r.Adapters, triedAnswer{(*adapters)[i], answers[llama.RowAdapter]})
		}
		r.Seconds = time.Since(begin).Seconds()
		return e.Result(r, func(w io.Writer) {
			fmt.Fprintf(w, "without:\n%s\n", indented(r.Base))
			for _, a := range r.Adapters {
				fmt.Fprintf(w, "with %s:\n%s\n", a.Adapter, indented(a.Answer))
			}
		})
	}
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// adapterGGUF is an adapter as the GGUF file that llama.cpp would load.
func adapterGGUF(path string, spec *lora.Spec) (*gguf.File, error) {
	a, err := lora.Read(path, spec)
	if err != nil {
		return nil, err
	}
	if err := spec.Fit(&a.Base); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	files, err := lora.Files(a, lora.Options{Format: lora.GGUF})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name) != ".gguf" {
			continue
		}
		var raw bytes.Buffer
		if err := f.Write(&raw); err != nil {
			return nil, err
		}
		return gguf.Read(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
	}
	return nil, fmt.Errorf("%s: no GGUF file of it", path)
}

// answerWith is a prompt's answers by row, and how many tokens it has.
func answerWith(ctx context.Context, e *cli.Env, d graph.Holder, base, adapter *gguf.File, prompt, system string, tokens int) (answers [2]string, n int, err error) {
	config, err := llama.FromGGUF(base)
	if err != nil {
		return answers, 0, err
	}
	if system == "" {
		system = config.System
	}
	tokenizer, err := llama.TokenizerFromGGUF(base)
	if err != nil {
		return answers, 0, err
	}
	ids, err := tokenizer.Prompt(system, prompt)
	if err != nil {
		return answers, 0, err
	}
	ends, err := llama.Ends(base, tokenizer)
	if err != nil {
		return answers, 0, err
	}
	step, err := llama.NewStep(base, adapter, llama.StepOptions{Length: len(ids) + tokens - 1, Limits: d.Limits()})
	if err != nil {
		return answers, 0, err
	}
	held, err := d.Hold(step.Program, step.Weights(base, adapter))
	if err != nil {
		return answers, 0, err
	}
	defer held.Close()
	bar := e.Bar()
	defer bar.Done()
	var said [2][]int32
	err = step.Answer(ctx, held, ids, ends, func(row int, id int32) error {
		said[row] = append(said[row], id)
		bar.Set("answer", int64(max(len(said[0]), len(said[1]))), int64(tokens), "")
		return nil
	})
	for row := range said {
		answers[row] = tokenizer.Decode(said[row])
	}
	return answers, len(ids), err
}
