package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// tried is what try prints.
type tried struct {
	Prompt       string         `json:"prompt"`
	PromptTokens int            `json:"prompt_tokens"` // with those of the turns around it
	Device       string         `json:"device"`
	Base         string         `json:"base"` // the answer without an adapter
	Adapters     []triedAnswer  `json:"adapters"`
	Controls     []triedControl `json:"controls,omitempty"`
	Seconds      float64        `json:"seconds"` // of the answers
}

type triedAnswer struct {
	Adapter string `json:"adapter"`
	Answer  string `json:"answer"`
}

// triedControl is the answer with an adapter that should do less than the first one.
type triedControl struct {
	Control string `json:"control"`
	Answer  string `json:"answer"`
	Same    bool   `json:"same"` // as the first adapter's
}

// generatedName stands for the adapter that try makes of --prompts itself.
const generatedName = "generated"

func try(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model, a .gguf file of F32, F16, BF16, Q8_0, Q4_0 or Q4_1")
	adapters := flags.StringArray("adapter", nil, "PEFT or MLX `folder`, a .gguf or .safetensors file; several are answered with one after the other")
	c := &controls{}
	flags.StringVar(&c.prompts, "prompts", "", "file of prompts: makes the adapter of them, or with --adapter is what it was made of, for --control")
	flags.StringVar(&c.field, "field", "", "key of a record's prompt (default: prompt)")
	flags.StringVar(&c.generator, "generator", "", generators.Usage+" (default: the one that comes with dnd)")
	c.keys = generators.AddKeys(flags)
	flags.StringSliceVar(&c.kinds, "control", nil, "answers with adapters that should do less: shuffled (made of the prompts' words in random order), mean (what the generator's training adapters have in common), or both")
	system := flags.String("system", "", "system prompt (default: the base model's own)")
	tokens := flags.Int("tokens", 128, "most tokens of an answer")
	device := flags.Int("device", -1, "number of the WebGPU device, see dndgen devices (default: the best)")
	return func(ctx context.Context, e *cli.Env, args []string) error {
		if err := cli.Required(flags, "base"); err != nil {
			return err
		}
		if *tokens < 1 {
			return cli.Usagef("--tokens %d: expected 1 or more", *tokens)
		}
		if err := c.check(*adapters); err != nil {
			return err
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
		var list []*candidate
		for _, path := range *adapters {
			a, err := lora.Read(path, spec)
			if err != nil {
				return err
			}
			list = append(list, &candidate{name: path, adapter: a})
		}
		made, err := c.make(ctx, e, list, *device)
		if err != nil {
			return err
		}
		list = append(list, made...)
		for _, x := range list {
			if !x.control {
				noteModel(e, x.name, x.adapter.Base.Model, spec)
			}
			if err := x.encode(spec); err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
		d, name, err := backends.OpenDevice(backends.Options{Device: *device})
		if err != nil {
			return err
		}
		defer d.Close()
		e.Message("backend %s: %s", backends.WebGPU, name)
		r := tried{Prompt: args[0], Device: name}
		begin := time.Now()
		for _, x := range list {
			answers, n, err := answerWith(ctx, e, d, file, x.file, r.Prompt, *system, *tokens)
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
			r.PromptTokens, r.Base = n, answers[llama.RowBase]
			r.add(x, answers[llama.RowAdapter])
		}
		r.Seconds = time.Since(begin).Seconds()
		return r.print(e)
	}
}

func (r *tried) add(x *candidate, answer string) {
	if !x.control {
		r.Adapters = append(r.Adapters, triedAnswer{x.name, answer})
		return
	}
	r.Controls = append(r.Controls, triedControl{x.name, answer, answer == r.Adapters[0].Answer})
}

func (r *tried) print(e *cli.Env) error {
	heads, texts := []string{"without"}, []string{r.Base}
	for _, a := range r.Adapters {
		heads, texts = append(heads, "with "+a.Adapter), append(texts, a.Answer)
	}
	for _, c := range r.Controls {
		heads, texts = append(heads, "control: "+c.Control), append(texts, c.Answer)
		if c.Same {
			e.Message("note: the answer is the same with the control %s: here it is not due to these prompts", c.Control)
		}
	}
	return e.Result(r, func(w io.Writer) { sideBySide(w, e.Width(), heads, texts) })
}

// candidate is an adapter to answer with.
type candidate struct {
	name    string
	control bool
	adapter *lora.Adapter
	file    *gguf.File // the adapter as llama.cpp would load it
}

// encode makes the GGUF file of an adapter for the base spec.
func (x *candidate) encode(spec *lora.Spec) error {
	if err := spec.Fit(&x.adapter.Base); err != nil {
		return err
	}
	files, err := lora.Files(x.adapter, lora.Options{Format: lora.GGUF})
	if err != nil {
		return err
	}
	for _, f := range files {
		if filepath.Ext(f.Name) != ".gguf" {
			continue
		}
		var raw bytes.Buffer
		if err := f.Write(&raw); err != nil {
			return err
		}
		x.file, err = gguf.Read(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
		return err
	}
	return fmt.Errorf("no GGUF file of it")
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
