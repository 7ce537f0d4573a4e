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
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/tune"
)

// tuneResult is what tune prints.
type tuneResult struct {
	Device  string        `json:"device"`
	File    string        `json:"file"`
	Results []tune.Result `json:"results"`
}

func tuneDevice(flags *pflag.FlagSet) cli.Run {
	name := flags.String("generator", "", generators.Usage+" (default: the one that comes with dnd)")
	keys := generators.AddKeys(flags)
	shape := flags.String("shape", "", "in place of a generator, its shape: "+strings.Join(generator.Shapes(), ", "))
	batch := flags.Int("batch", 1, "conditions that are decoded at a time")
	device := flags.Int("device", -1, "number of the WebGPU device, see dndgen devices (default: the best)")
	forget := flags.Bool("forget", false, "delete what was measured on the device")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if *batch < 1 {
			return cli.Usagef("--batch %d: expected a positive number", *batch)
		}
		if *name != "" && *shape != "" {
			return cli.Usagef("--generator and --shape exclude each other")
		}
		folder, err := tune.Folder()
		if err != nil {
			return err
		}
		d, called, err := backends.OpenDevice(backends.Options{Device: *device, Tuning: &graph.Tuning{}})
		if err != nil {
			return err
		}
		defer d.Close()
		result := tuneResult{Device: called, File: tune.Path(folder, d.Tuned()), Results: []tune.Result{}}
		if *forget {
			if err := tune.Forget(folder, d.Tuned()); err != nil {
				return err
			}
			return e.Result(result, func(w io.Writer) { fmt.Fprintf(w, "%s: nothing is kept now\n", called) })
		}
		m, err := tuneManifest(ctx, e, *name, *shape, keys)
		if err != nil {
			return err
		}
		shapes, err := generator.Convolutions(m, d.Limits(), *batch)
		if err != nil {
			return err
		}
		e.Message("backend %s: %s", backends.WebGPU, called)
		bar := e.Bar()
		result.Results, err = tune.Measure(ctx, d, shapes, func(done int) { bar.Set("tune", int64(done), int64(len(shapes)), "") })
		bar.Done()
		if err != nil {
			return err
		}
		if err := tune.Save(folder, d.Tuned(), tune.Choices(result.Results)); err != nil {
			return err
		}
		return e.Result(result, result.print)
	}
}

// tuneManifest is the manifest of a generator, or of a shape.
func tuneManifest(ctx context.Context, e *cli.Env, name, shape string, keys *generators.Keys) (*generator.Manifest, error) {
	if shape == "" {
		p, err := openPackage(ctx, e, name, keys)
		if err != nil {
			return nil, err
		}
		defer p.Close()
		return &p.Manifest, nil
	}
	if err := cli.OneOf("shape", strings.ToLower(shape), generator.Shapes()...); err != nil {
		return nil, err
	}
	p, err := generator.MadeUpPackage(strings.ToLower(shape), 0)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return &p.Manifest, nil
}

func (r *tuneResult) print(w io.Writer) {
	var direct, model, fastest float64
	fmt.Fprintf(w, "%-44s %-14s %9s %9s %9s\n", "channels, plane, kernel", "fastest", "direct", "planned", "fastest")
	for _, c := range r.Results {
		s := c.Shape
		fmt.Fprintf(w, "%-44s %-14s %7.3f s %7.3f s %7.3f s\n", fmt.Sprintf("%d to %d, %d x %d x %d, %d", s.In, s.Out, s.Batch, s.Rows, s.Columns, s.Kernel),
			c.Way, c.DirectSeconds, c.ModelSeconds, c.Seconds)
		for _, rejected := range c.Rejected {
			fmt.Fprintf(w, "  not %s\n", rejected)
		}
		direct, model, fastest = direct+c.DirectSeconds, model+c.ModelSeconds, fastest+c.Seconds
	}
	fmt.Fprintf(w, "%-44s %-14s %7.3f s %7.3f s %7.3f s\n", "all, each once", "", direct, model, fastest)
	fmt.Fprintf(w, "Estimated from pieces, on %s. Later runs of dndgen on it use the fastest.\n", r.Device)
}
