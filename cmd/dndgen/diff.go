package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/picture"
	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// difference is what diff prints.
type difference struct {
	A       string             `json:"a"`
	B       string             `json:"b"`
	Total   combine.Distance   `json:"total"`
	Modules []combine.Distance `json:"modules"`
}

func diff(flags *pflag.FlagSet) cli.Run {
	base := flags.String("base", "", "base model of both, a folder, config.json or .gguf: for .gguf adapters of llama models that do not say its heads")
	png := flags.String("png", "", "PNG file to write: a heat map of how far apart layers and modules are")
	return func(ctx context.Context, e *cli.Env, args []string) error {
		var spec *lora.Spec
		if *base != "" {
			var err error
			if spec, err = lora.ReadSpec(*base); err != nil {
				return err
			}
		}
		var read [2]*lora.Adapter
		for i, path := range args {
			var err error
			if read[i], err = lora.Read(path, spec); err != nil {
				return err
			}
		}
		d := difference{A: args[0], B: args[1]}
		var err error
		if d.Modules, d.Total, err = combine.Diff(ctx, read[0], read[1]); err != nil {
			return err
		}
		if *png != "" {
			if err := d.picture(*png); err != nil {
				return err
			}
		}
		return e.Result(d, func(w io.Writer) {
			const line = "%-44s %12.4g %10.6f %12.4g %12.4g\n"
			fmt.Fprintf(w, "%-44s %12s %10s %12s %12s\n", "module", "difference", "cosine", "norm of A", "norm of B")
			for _, m := range d.Modules {
				fmt.Fprintf(w, line, m.Name, m.Relative, m.Cosine, m.X, m.Y)
			}
			fmt.Fprintf(w, line, "all", d.Total.Relative, d.Total.Cosine, d.Total.X, d.Total.Y)
		})
	}
}

// picture draws the norm of the difference of every module.
func (d *difference) picture(path string) error {
	var names []string
	var values []float64
	for _, m := range d.Modules {
		gap := m.Relative * m.X
		if m.X == 0 {
			gap = m.Relative * m.Y
		}
		names, values = append(names, m.Name), append(values, gap)
	}
	g, err := picture.New(names, values)
	if err != nil {
		return fmt.Errorf("%s: %w", d.A, err)
	}
	return writePicture(path, g, "Difference of what two adapters add to each matrix", "Frobenius norm")
}
