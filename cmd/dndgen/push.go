package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	servers "github.com/drag-and-drop-lora/dnd/cmd/internal/push"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// The kinds of servers.
const (
	vllm        = "vllm"
	llamaServer = "llama-server"
)

// usualRank is the largest rank that vLLM takes unless it is told otherwise.
const usualRank = 16

// pushed is what push prints.
type pushed struct {
	To       string           `json:"to"`
	Kind     string           `json:"kind"`
	Path     string           `json:"path"`               // as the server was told
	Name     string           `json:"name,omitempty"`     // vLLM: what requests give as model
	Models   []string         `json:"models,omitempty"`   // vLLM's
	Adapters []servers.Scaled `json:"adapters,omitempty"` // llama-server's
}

func push(flags *pflag.FlagSet) cli.Run {
	adapter := flags.String("adapter", "", "adapter: a PEFT folder for vllm, a .gguf file or its folder for llama-server")
	to := flags.String("to", "", "the server, as http://localhost:8000; its key, if it wants one, in the variable DND_API_KEY")
	kind := flags.String("kind", "", "vllm or llama-server")
	cli.Values(flags, "kind", vllm, llamaServer)
	name := flags.String("name", "", "vllm: the name that requests give as their model (default: the folder's)")
	replace := flags.Bool("replace", false, "vllm: unload an adapter of the same name first")
	scale := flags.Float64("scale", 1, "llama-server: strength; 0 is off")
	seen := flags.String("server-path", "", "the adapter's path on the server, if it is another machine (default: the path here)")
	timeout := flags.Duration("timeout", time.Minute, "how long to wait for each answer")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "adapter", "to", "kind"); err != nil {
			return err
		}
		for flag, of := range map[string]string{"name": vllm, "replace": vllm, "scale": llamaServer} {
			if flags.Changed(flag) && *kind != of {
				if flag == "scale" {
					return cli.Usagef("--scale: vLLM has no strength: make an adapter of another with dndgen convert --scale")
				}
				return cli.Usagef("--%s: is for --kind %s", flag, of)
			}
		}
		if *timeout <= 0 {
			return cli.Usagef("--timeout %v: expected a positive duration, as 30s", *timeout)
		}
		client, err := servers.New(*to, os.Getenv("DND_API_KEY"), *timeout)
		if err != nil {
			return cli.Usagef("--to: %w", err)
		}
		format, err := lora.FormatOf(*adapter)
		if err != nil {
			return err
		}
		r := pushed{To: *to, Kind: *kind}
		if r.Path, err = filepath.Abs(*adapter); err != nil {
			return err
		}
		if *kind == vllm {
			if format != lora.PEFT {
				return fmt.Errorf("%s: is a %s adapter, vLLM takes PEFT: dndgen convert --format peft", *adapter, format)
			}
			a, err := lora.ReadPEFT(*adapter)
			if err != nil {
				return err
			}
			if a.Base.Rank > usualRank {
				e.Message("note: rank %d: vLLM takes it if it was started with --max-lora-rank %d or more", a.Base.Rank, a.Base.Rank)
			}
			r.Name = *name
			if r.Name == "" {
				r.Name = filepath.Base(r.Path)
			}
			if *seen != "" {
				r.Path = *seen
			}
			if r.Models, err = client.VLLM(ctx, r.Name, r.Path, *replace); err != nil {
				return err
			}
		} else {
			if format != lora.GGUF {
				return fmt.Errorf("%s: is a %s adapter, llama-server takes GGUF: dndgen convert --format gguf", *adapter, format)
			}
			if st, err := os.Stat(r.Path); err == nil && st.IsDir() {
				r.Path = filepath.Join(r.Path, lora.GGUFName)
			}
			if *seen != "" {
				r.Path = *seen
			}
			if r.Adapters, err = client.Llama(ctx, r.Path, *scale); err != nil {
				return err
			}
		}
		return r.print(e)
	}
}

func (r *pushed) print(e *cli.Env) error {
	return e.Result(r, func(w io.Writer) {
		if r.Kind == vllm {
			fmt.Fprintf(w, "%s serves %s as model %q\n", r.To, r.Path, r.Name)
			return
		}
		for _, a := range r.Adapters {
			fmt.Fprintf(w, "adapter %d  scale %-8g %s\n", a.ID, a.Scale, a.Path)
		}
	})
}
