package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// stdin is what --prompts - reads.
var stdin io.Reader = os.Stdin

// defaultGenerator is the package that comes with dnd, beside the working directory's
// files or those of the executable's folder.
const defaultGenerator = "models/default"

// openGenerator opens a package, the default one if dir is "".
func openGenerator(dir string) (*generator.Package, error) {
	if dir != "" {
		return generator.Open(dir)
	}
	places := []string{"."}
	if exe, err := os.Executable(); err == nil {
		for _, up := range []string{".", "..", "../.."} { // build/bin is two below
			places = append(places, filepath.Join(filepath.Dir(exe), up))
		}
	}
	for _, place := range places {
		dir := filepath.Join(place, filepath.FromSlash(defaultGenerator))
		if _, err := os.Stat(filepath.Join(dir, generator.ManifestName)); err == nil {
			return generator.Open(dir)
		}
	}
	return nil, fmt.Errorf("%s was not found here or beside the program: %w: name a generator with --generator", defaultGenerator, fs.ErrNotExist)
}

// generated is what generate prints.
type generated struct {
	Out       string  `json:"out"`
	Generator string  `json:"generator"`
	Prompts   int     `json:"prompts"` // in the file
	Texts     int     `json:"texts"`   // that the generator reads
	Backend   string  `json:"backend"`
	Device    string  `json:"device"`
	Model     string  `json:"base_model"`
	Rank      int     `json:"rank"`
	Alpha     float64 `json:"alpha"`
	Tokens    [3]int  `json:"tokens"`  // T, h, w
	Tensors   int     `json:"tensors"` // of one adapter
	Values    int64   `json:"values"`
	Stages    []stage `json:"stages"`
	Draws     []draw  `json:"draws"`
}

// draw is one adapter, made of one draw of prompts.
type draw struct {
	Dir    string      `json:"dir"`
	Files  []string    `json:"files"`
	Layers []layerNorm `json:"layers"`
}

func generate(flags *pflag.FlagSet) cli.Run {
	dir := flags.String("generator", "", "generator package (default: the one that comes with dnd)")
	prompts := flags.String("prompts", "", "file of prompts: .txt, .json, .jsonl or .csv; - for standard input")
	field := flags.String("field", "", "key of a record's prompt (default: prompt)")
	out := flags.String("out", "", "folder for the adapter")
	format := flags.String("format", lora.PEFT, "peft or gguf")
	draws := flags.Int("draws", 1, "adapters to make, each from other prompts of the file, as draw-0, draw-1, ...")
	seed := flags.Int64("seed", 0, "seed of the choice of prompts")
	b := addBackendFlags(flags)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "prompts", "out"); err != nil {
			return err
		}
		if err := cli.OneOf("format", *format, lora.PEFT, lora.GGUF); err != nil {
			return err
		}
		if *draws < 1 || *draws > 1000 {
			return cli.Usagef("--draws %d: expected 1 to 1000", *draws)
		}
		if err := b.check(); err != nil {
			return err
		}
		if err := checkOut(*out, *draws); err != nil {
			return err
		}
		list, err := readPrompts(*prompts, *field)
		if err != nil {
			return err
		}
		p, err := openGenerator(*dir)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Manifest.Complete(); err != nil {
			return err
		}
		tokenizer, err := p.Tokenizer()
		if err != nil {
			return err
		}
		r, err := b.open(e)
		if err != nil {
			return err
		}
		defer r.Close()
		job := &generation{
			e: e, p: p, runner: r, tokenizer: tokenizer, prompts: list, seed: *seed, watch: stopwatch{e: e},
			options: lora.Options{Format: *format, Provenance: lora.Provenance{
				Tool: tool(), Generator: p.Manifest.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: text.Hash(list),
				Seed: *seed, Backend: r.Name() + ", " + r.Device(),
			}},
		}
		if err := job.run(ctx, *out, *draws); err != nil {
			return err
		}
		return job.result.print(e)
	}
}

// checkOut refuses a folder that must not be written to, before the long work.
func checkOut(out string, draws int) error {
	if draws == 1 {
		return lora.CheckTarget(out)
	}
	if _, err := os.Lstat(out); err == nil {
		return fmt.Errorf("%s exists already: choose another folder for %d draws", out, draws)
	}
	return nil
}

// generation is one call of generate.
type generation struct {
	e         *cli.Env
	p         *generator.Package
	runner    generator.Runner
	tokenizer *text.Tokenizer
	prompts   []string
	seed      int64
	options   lora.Options
	watch     stopwatch
	result    generated
}

func (g *generation) run(ctx context.Context, out string, draws int) error {
	m := &g.p.Manifest
	g.result = generated{
		Out: out, Generator: m.Name, Prompts: len(g.prompts), Texts: m.Condition.Texts, Backend: g.runner.Name(), Device: g.runner.Device(),
		Model: m.Base.Model, Rank: m.Base.Rank, Alpha: m.Base.Alpha, Tokens: m.Decoder.Output(),
		Tensors: 2 * len(m.Base.Targets), Values: g.p.Summary().BaseValues,
	}
	if len(g.prompts) < m.Condition.Texts {
		g.e.Message("note: %d prompts for the generator's %d places: they are repeated", len(g.prompts), m.Condition.Texts)
	}
	var err error
	if draws == 1 {
		err = g.draw(ctx, 0, out, out)
	} else {
		err = atomicfile.Dir(out, false, func(tmp string) error {
			for i := range draws {
				name := fmt.Sprintf("draw-%d", i)
				if err := g.draw(ctx, i, filepath.Join(tmp, name), filepath.Join(out, name)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.result.Stages = g.watch.Stages
	return err
}

// draw makes one adapter in dir, whose final place is shown.
func (g *generation) draw(ctx context.Context, index int, dir, shown string) error {
	m := &g.p.Manifest
	texts, _ := text.Draw(g.prompts, m.Condition.Texts, g.seed, index)
	batch, err := g.tokenizer.Encode(texts, m.Condition.Length)
	if err != nil {
		return err
	}
	var values []float32
	err = g.watch.time("encode", func(report func(graph.Progress)) (err error) {
		values, err = g.runner.Encode(ctx, g.p, batch, report)
		return err
	})
	if err != nil {
		return err
	}
	err = g.watch.time("decode", func(report func(graph.Progress)) (err error) {
		values, err = g.runner.Decode(ctx, g.p, values, 1, report)
		return err
	})
	if err != nil {
		return err
	}
	begin := time.Now()
	adapter, err := generator.Finish(m, values)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	g.options.Provenance.Draw = index
	if err := lora.Write(dir, adapter, g.options); err != nil {
		return err
	}
	g.watch.add("write", time.Since(begin))
	d := draw{Dir: shown}
	if d.Layers, err = norms(adapter); err != nil {
		return err
	}
	info, err := lora.ReadInfo(dir)
	if err != nil {
		return err
	}
	for _, f := range info.Files {
		d.Files = append(d.Files, f.Name)
	}
	d.Files = append(d.Files, lora.InfoName)
	g.result.Draws = append(g.result.Draws, d)
	return nil
}

func (g *generated) print(e *cli.Env) error {
	return e.Result(g, func(w io.Writer) {
		fmt.Fprintf(w, "device      %s (%s)\n", g.Device, g.Backend)
		printStages(w, g.Stages)
		fmt.Fprintf(w, "adapter     for %s, rank %d, alpha %g\n", g.Model, g.Rank, g.Alpha)
		fmt.Fprintf(w, "made of     %d weight tokens of %d x %d, from %d of %d prompts\n", g.Tokens[0], g.Tokens[1], g.Tokens[2], min(g.Texts, g.Prompts), g.Prompts)
		fmt.Fprintf(w, "tensors     %d, with %d values\n", g.Tensors, g.Values)
		for _, d := range g.Draws {
			printNorms(w, d.Layers)
			for _, name := range d.Files {
				fmt.Fprintf(w, "%s\n", filepath.Join(d.Dir, name))
			}
		}
	})
}

// tool is the program's name and version, as the build knows it.
func tool() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "dndgen " + info.Main.Version
	}
	return "dndgen"
}
