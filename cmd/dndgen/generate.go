package main

import (
	"context"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/host"
)

// stdin is what --prompts - reads.
var stdin io.Reader = os.Stdin

// defaultGenerator is the package that comes with dnd.
const defaultGenerator = "models/default"

// find looks for files that come with dnd: beside the executable, in the tree that it was
// built in, in the sources that go install took it from, and only then in the working
// directory, which may be anybody's.
func find(names ...string) (path string, ok bool) {
	var places []string
	if exe, err := os.Executable(); err == nil {
		for _, up := range []string{".", "..", "../.."} { // build/bin is two below
			places = append(places, filepath.Join(filepath.Dir(exe), up))
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		places = append(places, sources(info.Main, os.Getenv, build.Default.GOPATH)...)
	}
	for _, place := range append(places, ".") {
		for _, name := range names {
			path := filepath.Join(place, filepath.FromSlash(name))
			if _, err := os.Stat(path); err == nil {
				return path, true
			}
		}
	}
	return "", false
}

// sources are the folder of Go's module cache that holds the release that this program was
// built from: go install leaves it there, with the generator in it. gopath may be a list.
func sources(m debug.Module, env func(string) string, gopath string) []string {
	if m.Path == "" || !strings.HasPrefix(m.Version, "v") || strings.Contains(m.Version, "+") {
		return nil // built in a tree
	}
	cache := env("GOMODCACHE")
	if first, _, _ := strings.Cut(gopath, string(filepath.ListSeparator)); cache == "" && first != "" {
		cache = filepath.Join(first, "pkg", "mod")
	}
	if cache == "" {
		return nil
	}
	return []string{filepath.Join(cache, filepath.FromSlash(m.Path)+"@"+m.Version)}
}

// openPackage opens what --generator names, the default package if that is nothing.
func openPackage(ctx context.Context, e *cli.Env, name string, keys *generators.Keys) (*generator.Package, error) {
	if name != "" {
		return generators.Open(ctx, e, name, keys)
	}
	if path, ok := find(defaultGenerator + "/" + generator.ManifestName); ok {
		if asked, err := keys.Parse(); err != nil || len(asked) > 0 {
			return generators.Open(ctx, e, filepath.Dir(path), keys)
		}
		return generator.Open(filepath.Dir(path))
	}
	return nil, fmt.Errorf("%s, the generator that comes with dnd, is not beside the program, in Go's module cache or here: %w: take it from a release's archive or the sources, or name another with --generator (a folder, org/name on the Hugging Face hub, a URL)", defaultGenerator, fs.ErrNotExist)
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
	Alpha     float64 `json:"alpha"`   // of an adapter of near prompts; far ones' is times Nearest.Scale
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
	// Nearest is how far the prompts are from the tasks that the generator was fitted on.
	Nearest *generator.Nearest `json:"nearest,omitempty"`
}

// made is a draw's adapter before it is written.
type made struct {
	files   []lora.File
	layers  []layerNorm
	nearest *generator.Nearest
}

func generate(flags *pflag.FlagSet) cli.Run {
	name := flags.String("generator", "", generators.Usage+" (default: the one that comes with dnd)")
	keys := generators.AddKeys(flags)
	prompts := flags.String("prompts", "", "file of prompts: .txt, .json, .jsonl or .csv; - for standard input; or a folder of such files, each a task")
	field := flags.String("field", "", "key of a record's prompt (default: prompt)")
	out := flags.String("out", "", "folder for the adapter; of a folder of prompts, for one folder each, named like the files")
	format := flags.String("format", lora.PEFT, "peft, gguf or mlx")
	cli.Values(flags, "format", lora.PEFT, lora.GGUF, lora.MLX)
	batch := flags.Int("batch", 0, "with a folder of prompts, how many tasks to decode at a time (default: as many as pay and fit)")
	draws := flags.Int("draws", 1, "adapters to make, each from other prompts of the file, as draw-0, draw-1, ...")
	seed := flags.Int64("seed", 0, "seed of the choice of prompts")
	base := flags.String("base", "", "the model that the adapter is for, a folder, config.json or .gguf: refused if the generator was not made for it")
	b := addBackendFlags(flags)
	where := flags.String("host", native, "where prompts, Program and adapter are worked on: native, or wazero, the sandboxed guest (--backend webgpu)")
	cli.Values(flags, "host", native, wazero)
	wasm := flags.String("guest", "", "the guest for --host wazero (default: the dnd.wasm that comes with dnd)")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "prompts", "out"); err != nil {
			return err
		}
		if err := checkHost(*where, *wasm, b); err != nil {
			return err
		}
		if *draws < 1 || *draws > 1000 {
			return cli.Usagef("--draws %d: expected 1 to 1000", *draws)
		}
		if err := b.check(); err != nil {
			return err
		}
		folder := false
		if st, err := os.Stat(*prompts); err == nil {
			folder = st.IsDir()
		}
		switch {
		case folder && (*draws > 1 || *where == wazero):
			return cli.Usagef("--prompts %s is a folder: that goes with neither --draws nor --host %s", *prompts, wazero)
		case !folder && *batch != 0, *batch < 0 || *batch > 1000:
			return cli.Usagef("--batch %d: expected 1 to 1000, with a folder of prompts", *batch)
		case folder:
			m := manyTasks{
				e: e, dir: *prompts, out: *out, field: *field, batch: *batch, backend: b, keys: keys, watch: stopwatch{e: e},
				options: lora.Options{Format: *format, Provenance: lora.Provenance{Tool: tool(), Seed: *seed}},
			}
			return m.run(ctx, *name, *base)
		}
		if err := checkOut(*out, *draws); err != nil {
			return err
		}
		raw, file, err := text.ReadPromptFile(*prompts, stdin)
		if err != nil {
			return err
		}
		list, err := text.ParsePrompts(raw, strings.ToLower(filepath.Ext(*prompts)), *field)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		p, err := openPackage(ctx, e, *name, keys)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Manifest.Complete(); err != nil {
			return err
		}
		if err := madeFor(e, &p.Manifest, *base); err != nil {
			return err
		}
		g := &generation{
			e: e, p: p, prompts: list, watch: stopwatch{e: e},
			options: lora.Options{Format: *format, Provenance: lora.Provenance{
				Tool: tool(), Generator: p.Manifest.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: text.Hash(list), Seed: *seed,
			}},
		}
		if *where == wazero {
			h, err := openHost(ctx, e, *wasm, b)
			if err != nil {
				return err
			}
			defer h.Close()
			g.use(h.device, backends.WebGPU)
			file := ""
			if *prompts != "-" {
				file = filepath.Base(*prompts)
			}
			g.adapter = func(ctx context.Context, draw int) (made, error) {
				return h.adapter(ctx, g, host.Request{Prompts: raw, Name: file, Field: *field, Seed: *seed, Draw: draw})
			}
		} else {
			n, err := openNative(e, p, b)
			if err != nil {
				return err
			}
			defer n.runner.Close()
			g.use(n.runner.Device(), n.runner.Name())
			g.adapter = func(ctx context.Context, draw int) (made, error) { return n.adapter(ctx, g, draw) }
		}
		if err := g.run(ctx, *out, *draws); err != nil {
			return err
		}
		return g.result.print(e)
	}
}

// madeFor refuses a base model that a generator's adapters do not fit; "" is none.
func madeFor(e *cli.Env, m *generator.Manifest, base string) error {
	if base == "" {
		return nil
	}
	spec, err := lora.ReadSpec(base)
	if err != nil {
		return err
	}
	own := *m.Base
	if err := spec.Fit(&own); err != nil {
		return fmt.Errorf("generator %s, made for %s, does not fit: %w", m.Name, m.Base.Model, err)
	}
	noteModel(e, "generator "+m.Name, m.Base.Model, spec)
	return nil
}

// noteModel says that something was made for another model than the base, which has the same
// sizes: a base of other weights, so that it may do nothing good.
func noteModel(e *cli.Env, what, model string, base *lora.Spec) {
	if model != "" && base.Model != "" && model != base.Model {
		e.Message("note: %s was made for %s, the base %s has the same sizes but says that it is %s", what, model, base.Path, base.Model)
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
	e       *cli.Env
	p       *generator.Package
	prompts []string
	options lora.Options
	watch   stopwatch
	result  generated
	// adapter makes the adapter of a draw.
	adapter func(ctx context.Context, draw int) (made, error)
}

// use notes what computes.
func (g *generation) use(device, backend string) {
	g.result.Device, g.result.Backend = device, backend
	g.options.Provenance.Backend = backend + ", " + device
}

func (g *generation) run(ctx context.Context, out string, draws int) error {
	m := &g.p.Manifest
	r := &g.result
	r.Out, r.Generator, r.Prompts, r.Texts = out, m.Name, len(g.prompts), m.Condition.Texts
	r.Model, r.Rank, r.Alpha, r.Tokens = m.Base.Model, m.Base.Rank, m.Base.Alpha, m.Decoder.Output()
	r.Tensors, r.Values = 2*len(m.Base.Targets), g.p.Summary().BaseValues
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
	r.Stages = g.watch.Stages
	return err
}

// draw makes one adapter in dir, whose final place is shown.
func (g *generation) draw(ctx context.Context, index int, dir, shown string) error {
	a, err := g.adapter(ctx, index)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	begin := time.Now()
	if err := lora.WriteFiles(dir, a.files); err != nil {
		return err
	}
	g.watch.add("write", time.Since(begin))
	d := draw{Dir: shown, Layers: a.layers, Nearest: a.nearest}
	for _, f := range a.files {
		d.Files = append(d.Files, f.Name)
	}
	warnFar(g.e, "these prompts", a.nearest)
	g.result.Draws = append(g.result.Draws, d)
	return nil
}

// warnFar says that prompts are unlike what the generator was fitted on.
func warnFar(e *cli.Env, prompts string, n *generator.Nearest) {
	if n != nil && n.Far {
		weaker := ""
		if n.Scale != 1 {
			weaker = fmt.Sprintf(", and is written at %g of its strength, as the generator asks for with such prompts (dndgen convert --scale changes it)", n.Scale)
		}
		e.Message("warning: %s are unlike all tasks that the generator was fitted on (the nearest, %s, is %.2f away, expected at most %.2f): the adapter may be no better than none%s", prompts, n.Task, n.Distance, n.Limit, weaker)
	}
}

// inProcess makes adapters with this program's own packages.
type inProcess struct{ runner generator.Runner }

func openNative(e *cli.Env, p *generator.Package, b *backendFlags) (*inProcess, error) {
	if _, err := p.Tokenizer(); err != nil {
		return nil, err
	}
	r, err := b.open(e)
	if err != nil {
		return nil, err
	}
	return &inProcess{r}, nil
}

func (n *inProcess) adapter(ctx context.Context, g *generation, index int) (made, error) {
	m := &g.p.Manifest
	texts, _ := text.Draw(g.prompts, m.Condition.Texts, g.options.Provenance.Seed, index)
	tokens, nearest, err := generator.WeightTokens(ctx, g.p, n.runner, texts, g.watch.time)
	if err != nil {
		return made{}, err
	}
	begin := time.Now()
	o := g.options
	o.Provenance.Draw = index
	a, err := finish(m, tokens, nearest, o)
	g.watch.add("finish", time.Since(begin))
	return a, err
}

// finish makes an adapter's files of the weight tokens of one draw.
func finish(m *generator.Manifest, tokens []float32, nearest *generator.Nearest, o lora.Options) (made, error) {
	adapter, err := generator.Finish(m, tokens, nearest)
	if err != nil {
		return made{}, err
	}
	files, err := lora.Files(adapter, o)
	if err != nil {
		return made{}, err
	}
	layers, err := norms(adapter)
	return made{files, layers, nearest}, err
}

func (g *generated) print(e *cli.Env) error {
	return e.Result(g, func(w io.Writer) {
		fmt.Fprintf(w, "device      %s (%s)\n", g.Device, g.Backend)
		printStages(w, g.Stages)
		fmt.Fprintf(w, "adapter     for %s, rank %d, alpha %g\n", g.Model, g.Rank, g.Alpha)
		fmt.Fprintf(w, "made of     %d weight tokens of %d x %d, from %d of %d prompts\n", g.Tokens[0], g.Tokens[1], g.Tokens[2], min(g.Texts, g.Prompts), g.Prompts)
		fmt.Fprintf(w, "tensors     %d, with %d values\n", g.Tensors, g.Values)
		for _, d := range g.Draws {
			if d.Nearest != nil {
				fmt.Fprintf(w, "nearest     training task %s, distance %.3f (new kinds of task begin at %.3f)\n", d.Nearest.Task, d.Nearest.Distance, d.Nearest.Limit)
			}
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
