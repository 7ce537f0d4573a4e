package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/merge"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/dequant"
)

// The formats of convert beyond those of adapters.
const (
	merged     = "merged"
	mergedGGUF = "merged-gguf"
)

// The ways to make one adapter of several.
const (
	concat = "concat"
	sum    = "sum"
)

// conversion is one call of convert.
type conversion struct {
	adapters []string
	weights  []float64
	scale    float64
	rank     int
	combine  string
	base     string
	format   string
	kind     string
	out      string
	result   converted
}

// converted is what convert prints.
type converted struct {
	Out      string    `json:"out"`
	Format   string    `json:"format"`
	Adapters []readOne `json:"adapters"`
	Model    string    `json:"base_model,omitempty"`
	Rank     int       `json:"rank"`
	Alpha    float64   `json:"alpha"`
	Modules  int       `json:"modules"`
	// Rerank is what a cut to a lower rank left out; absent if there was none.
	Rerank *rerankLoss `json:"rerank,omitempty"`
	// Merge is there for the merged formats.
	Merge *merge.Report `json:"merge,omitempty"`
	Files []string      `json:"files"`
}

type readOne struct {
	Path   string  `json:"path"`
	Format string  `json:"format"`
	Model  string  `json:"base_model,omitempty"`
	Rank   int     `json:"rank"`
	Alpha  float64 `json:"alpha"`
	Weight float64 `json:"weight"`
}

// rerankLoss is relative: 0 is nothing, 1 all.
type rerankLoss struct {
	From  int     `json:"from"` // the rank before
	Error float64 `json:"error"`
	Worst float64 `json:"worst"` // of all modules
	Where string  `json:"where"`
}

func convert(flags *pflag.FlagSet) cli.Run {
	c := &conversion{}
	flags.StringArrayVar(&c.adapters, "adapter", nil, "adapter to read: a PEFT or MLX `folder`, a .gguf or .safetensors file; several are added up")
	flags.Float64SliceVar(&c.weights, "weight", nil, "`weights` of the adapters, in their order (default: 1 each)")
	flags.StringVar(&c.format, "format", lora.PEFT, "peft, gguf, mlx, merged (Hugging Face folder) or merged-gguf")
	cli.Values(flags, "format", lora.PEFT, lora.GGUF, lora.MLX, merged, mergedGGUF)
	flags.StringVar(&c.out, "out", "", "folder to write")
	flags.StringVar(&c.base, "base", "", "base model, a folder, config.json or .gguf: to check against, to name heads for gguf, to merge into")
	flags.Float64Var(&c.scale, "scale", 1, "strength of the result")
	flags.IntVar(&c.rank, "rank", 0, "rank of the result, by singular values (default: none is left out)")
	flags.StringVar(&c.combine, "combine", "", "concat keeps every adapter's rank, exactly; sum cuts to --rank, or to the largest rank of all (default: concat, sum with --rank)")
	cli.Values(flags, "combine", concat, sum)
	flags.StringVar(&c.kind, "type", "", "values written as: f32, f16 or bf16; for merged-gguf also "+strings.Join(merge.Types(), ", ")+" (default: f32; merging keeps floats, and makes quantised tensors f16)")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := c.check(flags); err != nil {
			return err
		}
		a, provenance, err := c.read(ctx, e)
		if err != nil {
			return err
		}
		if c.format == merged || c.format == mergedGGUF {
			err = c.merge(ctx, e, a)
		} else {
			err = c.write(ctx, a, provenance)
		}
		if err != nil {
			return err
		}
		return c.result.print(e)
	}
}

// check finds what is wrong with the flags, and an output that must not be written.
func (c *conversion) check(flags *pflag.FlagSet) error {
	if len(c.adapters) == 0 {
		return cli.Usagef("--adapter is missing: the adapter to read")
	}
	if err := cli.Required(flags, "out"); err != nil {
		return err
	}
	if len(c.weights) > 0 && len(c.weights) != len(c.adapters) {
		return cli.Usagef("--weight: %d weights for %d adapters, expected one for each", len(c.weights), len(c.adapters))
	}
	if flags.Changed("rank") && c.rank < 1 {
		return cli.Usagef("--rank %d: expected 1 or more", c.rank)
	}
	switch c.combine {
	case "":
		c.combine = concat
		if c.rank > 0 {
			c.combine = sum
		}
	case concat:
		if c.rank > 0 {
			return cli.Usagef("--rank %d: concat keeps all ranks: leave it out, or take --combine sum", c.rank)
		}
	}
	var allowed []string
	switch c.format {
	case lora.GGUF:
		allowed = []string{"f32", "f16"}
	case lora.PEFT, lora.MLX:
		allowed = []string{"f32", "f16", "bf16"}
	case merged:
		if c.kind != "" {
			return cli.Usagef("--type %s: the merged folder keeps the types of the base", c.kind)
		}
	default:
		allowed = merge.Types()
	}
	if c.kind != "" {
		if err := cli.OneOf("type", c.kind, allowed...); err != nil {
			return err
		}
	}
	if c.format == merged || c.format == mergedGGUF {
		if c.base == "" {
			return cli.Usagef("--base is missing: the model to merge into")
		}
		if err := c.mergeable(); err != nil {
			return err
		}
		if _, err := os.Lstat(c.out); err == nil {
			return fmt.Errorf("%s exists already: choose another folder or remove it", c.out)
		}
		return nil
	}
	if target, err := os.Stat(c.out); err == nil {
		for _, path := range c.adapters {
			if st, err := os.Stat(path); err == nil && os.SameFile(st, target) {
				return fmt.Errorf("--out %s is also an --adapter: choose another folder", c.out)
			}
		}
	}
	return lora.CheckTarget(c.out)
}

// mergeable says whether --base holds weights of the kind that --format merges into.
func (c *conversion) mergeable() error {
	st, err := os.Stat(c.base)
	switch {
	case err != nil:
		return err
	case c.format == merged && !st.IsDir():
		return fmt.Errorf("--base %s: --format %s merges into a Hugging Face folder with its weights; for a .gguf file take --format %s", c.base, merged, mergedGGUF)
	case c.format == mergedGGUF && st.IsDir():
		return fmt.Errorf("--base %s: --format %s merges into a .gguf file; merge a folder with --format %s, and make a GGUF of that with llama.cpp's convert_hf_to_gguf.py", c.base, mergedGGUF, merged)
	}
	return nil
}

// read reads the adapters and makes the one that is to be written.
func (c *conversion) read(ctx context.Context, e *cli.Env) (*lora.Adapter, lora.Provenance, error) {
	provenance := lora.Provenance{Tool: tool()}
	var spec *lora.Spec
	var err error
	if c.base != "" {
		if spec, err = lora.ReadSpec(c.base); err != nil {
			return nil, provenance, err
		}
	}
	var terms []combine.Term
	most := 0
	for i, path := range c.adapters {
		a, err := lora.Read(path, spec)
		if err != nil {
			return nil, provenance, err
		}
		if err := ctx.Err(); err != nil {
			return nil, provenance, err
		}
		format, err := lora.FormatOf(path)
		if err != nil {
			return nil, provenance, err
		}
		if spec != nil {
			noteModel(e, path, a.Base.Model, spec)
		}
		if a.AlphaAssumed {
			e.Message("note: %s names no alpha: twice the rank is assumed, %g", path, a.Base.Alpha)
		}
		weight := 1.0
		if len(c.weights) > 0 {
			weight = c.weights[i]
		}
		first := a
		if i > 0 {
			first = terms[0].Adapter
		}
		if a.Base.Model != first.Base.Model {
			e.Message("note: %s was made for %q, the first adapter for %q", path, a.Base.Model, first.Base.Model)
		}
		terms = append(terms, combine.Term{Adapter: a, Weight: weight})
		most = max(most, a.Base.Rank)
		c.result.Adapters = append(c.result.Adapters, readOne{path, format, a.Base.Model, a.Base.Rank, a.Base.Alpha, weight})
	}
	if len(terms) == 1 {
		info, err := lora.ReadInfo(c.adapters[0])
		if err == nil {
			provenance = info.Provenance
		}
	}
	a := terms[0].Adapter
	if len(terms) > 1 {
		if a, err = combine.Concat(terms...); err != nil {
			return nil, provenance, err
		}
	} else {
		c.scale *= terms[0].Weight
	}
	if c.scale != 1 {
		if a, err = combine.Scale(a, c.scale); err != nil {
			return nil, provenance, err
		}
	}
	if c.combine == sum {
		rank := c.rank
		if rank == 0 {
			rank = most
		}
		if a, err = c.rerank(ctx, a, rank); err != nil {
			return nil, provenance, err
		}
	}
	r := &c.result
	r.Out, r.Format, r.Model, r.Rank, r.Alpha, r.Modules = c.out, c.format, a.Base.Model, a.Base.Rank, a.Base.Alpha, len(a.Base.Targets)
	return a, provenance, nil
}

func (c *conversion) rerank(ctx context.Context, a *lora.Adapter, rank int) (*lora.Adapter, error) {
	out, loss, err := combine.Rerank(ctx, a, rank)
	if err != nil {
		return nil, err
	}
	worst := slices.Max(loss.Modules)
	c.result.Rerank = &rerankLoss{From: a.Base.Rank, Error: loss.Total, Worst: worst, Where: a.Base.Targets[slices.Index(loss.Modules, worst)].Name}
	return out, nil
}

// write writes the adapter as an adapter.
func (c *conversion) write(ctx context.Context, a *lora.Adapter, provenance lora.Provenance) error {
	o := lora.Options{Format: c.format, DType: safetensors.DType(strings.ToUpper(c.kind)), Provenance: provenance}
	if c.base != "" {
		spec, err := lora.ReadSpec(c.base)
		if err != nil {
			return err
		}
		o.Layers = spec.Layers
	}
	files, err := lora.Files(a, o)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, f := range files {
		c.result.Files = append(c.result.Files, filepath.Join(c.out, f.Name))
	}
	return lora.WriteFiles(c.out, files)
}

// merge writes the base model with the adapter in its weights.
func (c *conversion) merge(ctx context.Context, e *cli.Env, a *lora.Adapter) error {
	bar := e.Bar()
	defer bar.Done()
	tell := func(done, total int64) { bar.Set("merge", done, total, "") }
	var err error
	if c.format == merged {
		if c.result.Merge, err = merge.Folder(ctx, c.base, a, c.out, tell); err != nil {
			return err
		}
	} else {
		base, err := gguf.Open(c.base)
		if err != nil {
			return err
		}
		defer base.Close()
		values, err := dequant.Open(base)
		if err != nil {
			return err
		}
		defer values.Close()
		if c.result.Merge, err = merge.GGUF(ctx, base, values, a, c.kind, c.out, tell); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(c.out)
	for _, f := range entries {
		c.result.Files = append(c.result.Files, filepath.Join(c.out, f.Name()))
	}
	return err
}

func (r *converted) print(e *cli.Env) error {
	return e.Result(r, func(w io.Writer) {
		for _, a := range r.Adapters {
			fmt.Fprintf(w, "read        %s (%s), rank %d, alpha %g, weight %g\n", a.Path, a.Format, a.Rank, a.Alpha, a.Weight)
		}
		fmt.Fprintf(w, "adapter     for %s, rank %d, alpha %g, %d modules\n", named(r.Model), r.Rank, r.Alpha, r.Modules)
		if l := r.Rerank; l != nil {
			fmt.Fprintf(w, "re-rank     from %d to %d: relative error %.3g, most in %s: %.3g\n", l.From, r.Rank, l.Error, l.Where, l.Worst)
		}
		if m := r.Merge; m != nil {
			fmt.Fprintf(w, "%-44s %-13s %10s %10s %10s\n", "merged tensor", "type", "change", "error", "lost")
			for _, t := range m.Tensors {
				kind := t.To
				if t.From != t.To {
					kind = t.From + ">" + t.To
				}
				fmt.Fprintf(w, "%-44s %-13s %10.3g %10.3g %10.3g\n", t.Name, kind, t.Change, t.Error, t.Lost)
			}
			fmt.Fprintf(w, "cost        rounding to the stored types is %.3g of what the adapter adds (base + adapter: 0)\n", m.Lost)
		}
		for _, f := range r.Files {
			fmt.Fprintln(w, f)
		}
	})
}

func named(model string) string {
	if model == "" {
		return "a base model that its files do not name"
	}
	return model
}
