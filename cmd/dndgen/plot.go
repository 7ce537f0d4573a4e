package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/picture"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// plotted is what plot prints.
type plotted struct {
	Out     string       `json:"out,omitempty"`
	Modules []moduleNorm `json:"modules"`
	Layers  []layerNorm  `json:"layers"`
}

// moduleNorm is the Frobenius norm of what an adapter adds to a module's weight.
type moduleNorm struct {
	Name string  `json:"name"`
	Norm float64 `json:"norm"`
}

func plot(flags *pflag.FlagSet) cli.Run {
	out := flags.String("out", "", "PNG file to write: a heat map of layers and modules, and the norm of each layer")
	base := flags.String("base", "", "base model, a folder, config.json or .gguf: for .gguf adapters of llama models that do not say its heads")
	return func(_ context.Context, e *cli.Env, args []string) error {
		var spec *lora.Spec
		if *base != "" {
			var err error
			if spec, err = lora.ReadSpec(*base); err != nil {
				return err
			}
		}
		a, err := lora.Read(args[0], spec)
		if err != nil {
			return err
		}
		modules, layers, err := a.Norms()
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		r := plotted{Out: *out}
		var names []string
		var values []float64
		for _, m := range modules {
			names, values = append(names, m.Name), append(values, m.Value)
			r.Modules = append(r.Modules, moduleNorm{m.Name, m.Value})
		}
		for _, l := range layers {
			r.Layers = append(r.Layers, layerNorm{l.Layer, l.Value})
		}
		grid, err := picture.New(names, values)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *out != "" {
			title := "What the LoRA adds to each matrix"
			if a.Base.Model != "" {
				title += " of " + oneLine(a.Base.Model, 60)
			}
			if err := writePicture(*out, grid, title, "Frobenius norm"); err != nil {
				return err
			}
		}
		return e.Result(r, func(w io.Writer) {
			grid.Text(w)
			printNorms(w, r.Layers)
			if *out != "" {
				fmt.Fprintln(w, *out)
			}
		})
	}
}

func writePicture(path string, g *picture.Grid, title, value string) error {
	return atomicfile.Write(path, func(w io.Writer) error { return g.PNG(w, title, value) })
}
