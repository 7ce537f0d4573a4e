package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// tokensName is the tensor of weight tokens, (T,h,w).
const tokensName = "tokens"

// tokensResult is what tokens prints.
type tokensResult struct {
	Out     string `json:"out"`
	Tokens  [3]int `json:"tokens"` // T, h, w
	Rank    int    `json:"rank"`
	Modules int    `json:"modules"`
}

func tokens(flags *pflag.FlagSet) cli.Run {
	adapter := flags.String("adapter", "", "PEFT folder or its safetensors file: the adapter to cut; with --reverse, one that has the names and shapes to build")
	layout := flags.String("layout", "", "JSON file: the decoder's class, features and kernel_size, and the tokenizer")
	out := flags.String("out", "", "file for the tokens; with --reverse, folder for the adapter")
	reverse := flags.Bool("reverse", false, "build an adapter from --tokens")
	in := flags.String("tokens", "", "with --reverse: file with a tensor \"tokens\", (T,h,w), or a decoder's \"output\", (1,T,h,w)")
	bf16 := flags.Bool("bf16", false, "compute as the reference does in bfloat16")
	return func(_ context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "adapter", "layout", "out"); err != nil {
			return err
		}
		if *reverse != (*in != "") {
			return cli.Usagef("--reverse and --tokens go together")
		}
		mode := lora.Float32
		if *bf16 {
			mode = lora.BFloat16
		}
		l, err := generator.ReadLayout(*layout)
		if err != nil {
			return err
		}
		if l.Tiling.Kind == "" {
			return fmt.Errorf("%s: names no tokenizer: add \"tokenizer\"", *layout)
		}
		result := tokensResult{Out: *out}
		if *reverse {
			err = untile(&result, *adapter, *in, l, mode)
		} else {
			err = tile(&result, *adapter, l, mode)
		}
		if err != nil {
			return err
		}
		return e.Result(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d tokens of %d x %d, rank %d, %d modules\n", *out, result.Tokens[0], result.Tokens[1], result.Tokens[2], result.Rank, result.Modules)
		})
	}
}

// fitting is the layout of base's tokens, which must be as many as the decoder makes.
func fitting(base lora.Base, l generator.Layout, r *tokensResult) (*lora.Layout, error) {
	t, err := lora.NewLayout(base, l.Tiling)
	if err != nil {
		return nil, err
	}
	count, h, w := t.Shape()
	r.Tokens, r.Rank, r.Modules = [3]int{count, h, w}, base.Rank, len(base.Targets)
	if want := l.Decoder.Output(); r.Tokens != want {
		return nil, fmt.Errorf("the adapter makes tokens %v, the layout's decoder makes %v", r.Tokens, want)
	}
	return t, nil
}

func tile(r *tokensResult, adapter string, l generator.Layout, mode lora.Mode) error {
	a, err := lora.ReadPEFT(adapter)
	if err != nil {
		return err
	}
	t, err := fitting(a.Base, l, r)
	if err != nil {
		return fmt.Errorf("%s: %w", adapter, err)
	}
	values := make([]float32, r.Tokens[0]*r.Tokens[1]*r.Tokens[2])
	if err := t.Encode(a, mode, values); err != nil {
		return fmt.Errorf("%s: %w", adapter, err)
	}
	return safetensors.WriteFile(r.Out, []safetensors.Tensor{
		safetensors.FromFloat32s(tokensName, safetensors.F32, values, r.Tokens[:]...),
	}, nil)
}

func untile(r *tokensResult, donor, in string, l generator.Layout, mode lora.Mode) error {
	if err := lora.CheckTarget(r.Out); err != nil {
		return err
	}
	base, err := lora.DescribeBase(donor)
	if err != nil {
		return err
	}
	t, err := fitting(base, l, r)
	if err != nil {
		return fmt.Errorf("%s: %w", donor, err)
	}
	values, err := readTokens(in, r.Tokens)
	if err != nil {
		return err
	}
	a, err := t.Decode(values, mode)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	return lora.Write(r.Out, a, lora.Options{Format: lora.PEFT})
}

func readTokens(path string, shape [3]int) ([]float32, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, name := range []string{tokensName, "output"} {
		t, ok := f.Lookup(name)
		if !ok {
			continue
		}
		s := t.Shape
		if len(s) == 4 && s[0] == 1 {
			s = s[1:]
		}
		if len(s) != 3 || [3]int(s) != shape {
			return nil, fmt.Errorf("%s: tensor %q has shape %v, expected %v", path, name, t.Shape, shape)
		}
		values, err := f.Float32s(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return values, nil
	}
	return nil, fmt.Errorf("%s: has no tensor %q", path, tokensName)
}
