package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// manyTasks is generate with a folder of prompt files: one adapter each, in a folder named
// like the file. Weights are loaded once. A file that fails does not stop the others, and
// what is there from an earlier call with the same inputs is kept.
type manyTasks struct {
	e          *cli.Env
	dir, out   string
	field      string
	batch      int // 0: chosen
	backend    *backendFlags
	keys       *generators.Keys
	options    lora.Options
	watch      stopwatch
	p          *generator.Package
	runner     generator.Runner
	result     generatedMany
	conditions []float32 // of the tasks that are decoded next
}

// generatedMany is what generate prints of a folder.
type generatedMany struct {
	Out       string       `json:"out"`
	Generator string       `json:"generator"`
	Backend   string       `json:"backend,omitempty"`
	Device    string       `json:"device,omitempty"`
	Model     string       `json:"base_model"`
	Batch     int          `json:"batch"`    // tasks that were decoded at a time
	Resident  bool         `json:"resident"` // weights stayed on the device
	Prepared  bool         `json:"prepared"` // packed and transformed once for all
	Made      int          `json:"made"`
	Kept      int          `json:"kept"`
	Failed    int          `json:"failed"`
	Stages    []stage      `json:"stages"`
	Tasks     []taskResult `json:"tasks"`
}

// What became of a task.
const (
	taskMade   = "made"
	taskKept   = "kept"
	taskFailed = "failed"
)

type taskResult struct {
	Prompts string             `json:"prompts"` // the file's name
	Texts   int                `json:"texts"`   // in it
	State   string             `json:"state"`
	Error   string             `json:"error,omitempty"`
	Dir     string             `json:"dir,omitempty"`
	Files   []string           `json:"files,omitempty"`
	Nearest *generator.Nearest `json:"nearest,omitempty"`

	prompts []string
	options lora.Options
}

// promptFiles are the prompt files of a folder, in the order of their names.
func promptFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	stems := map[string]string{}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || entry.IsDir() || !slices.Contains([]string{".txt", ".json", ".jsonl", ".ndjson", ".csv"}, strings.ToLower(filepath.Ext(name))) {
			continue
		}
		if other, ok := stems[stem(name)]; ok {
			return nil, fmt.Errorf("%s: %s and %s would make adapters of one name: rename one", dir, other, name)
		}
		stems[stem(name)] = name
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: holds no prompt file, .txt, .json, .jsonl or .csv", dir)
	}
	return names, nil
}

func stem(name string) string { return strings.TrimSuffix(name, filepath.Ext(name)) }

func (m *manyTasks) run(ctx context.Context, name, base string) error {
	files, err := promptFiles(m.dir)
	if err != nil {
		return err
	}
	if st, err := os.Stat(m.out); err == nil && !st.IsDir() {
		return fmt.Errorf("%s is not a folder: choose another place for the adapters", m.out)
	}
	if m.p, err = openPackage(ctx, m.e, name, m.keys); err != nil {
		return err
	}
	defer m.p.Close()
	manifest := &m.p.Manifest
	if err := manifest.Complete(); err != nil {
		return err
	}
	if err := madeFor(m.e, manifest, base); err != nil {
		return err
	}
	m.options.Provenance.Generator, m.options.Provenance.GeneratorSHA256 = manifest.Name, m.p.SHA256
	m.result = generatedMany{Out: m.out, Generator: manifest.Name, Model: manifest.Base.Model, Tasks: make([]taskResult, len(files))}
	var todo []*taskResult
	for i, file := range files {
		t := &m.result.Tasks[i]
		*t = taskResult{Prompts: file, Dir: filepath.Join(m.out, stem(file))}
		if m.prepare(t) {
			todo = append(todo, t)
		}
	}
	if len(todo) > 0 {
		err = m.generate(ctx, todo)
	}
	m.result.Stages = m.watch.Stages
	if err != nil {
		return err
	}
	if err := m.result.print(m.e); err != nil {
		return err
	}
	if n := m.result.Failed; n > 0 {
		return fmt.Errorf("%d of %d prompt files made no adapter; the same command tries those again", n, len(files))
	}
	return nil
}

// prepare reads a task's prompts; false if there is nothing to compute.
func (m *manyTasks) prepare(t *taskResult) bool {
	path := filepath.Join(m.dir, t.Prompts)
	var err error
	if t.prompts, err = readPrompts(path, m.field); err != nil {
		m.failed(t, err)
		return false
	}
	t.Texts = len(t.prompts)
	t.options = m.options
	t.options.Provenance.PromptsSHA256 = text.Hash(t.prompts)
	if err := lora.CheckTarget(t.Dir); err != nil {
		m.failed(t, err)
		return false
	}
	if info, err := lora.ReadInfo(t.Dir); err == nil && info.Format == t.options.Format {
		// The device may be another: its adapters are equal but for rounding.
		was, want := info.Provenance, t.options.Provenance
		was.Tool, was.Backend = want.Tool, want.Backend
		if was == want {
			t.State = taskKept
			m.result.Kept++
			for _, f := range info.Files {
				t.Files = append(t.Files, f.Name)
			}
			return false
		}
	}
	if n := m.p.Manifest.Condition.Texts; t.Texts < n {
		m.e.Message("note: %s: %d prompts for the generator's %d places: they are repeated", t.Prompts, t.Texts, n)
	}
	return true
}

func (m *manyTasks) failed(t *taskResult, err error) {
	t.State, t.Error, t.Dir = taskFailed, err.Error(), ""
	m.result.Failed++
	m.e.Message("%s: %v", t.Prompts, err)
}

// mostLoaded is how many bytes of weights are kept in the host's memory.
const mostLoaded = 1 << 30

// generate makes the tasks' adapters, some at a time.
func (m *manyTasks) generate(ctx context.Context, todo []*taskResult) error {
	native, err := openNative(m.e, m.p, m.backend)
	if err != nil {
		return err
	}
	defer native.runner.Close()
	m.runner = native.runner
	m.result.Backend, m.result.Device = m.runner.Name(), m.runner.Device()
	batch := m.batch
	if batch == 0 {
		batch = goodBatch(m.p.Manifest.Decoder.MACs(1), m.activations())
	}
	// Groups of one size, so that one compiled graph or Program serves all.
	groups := (len(todo) + batch - 1) / batch
	batch = (len(todo) + groups - 1) / groups
	m.result.Batch = batch
	if r, ok := m.runner.(generator.Keeper); ok && len(todo) > 1 {
		kept, err := r.Keep(m.p, batch, m.backend.resident())
		if err != nil {
			return err
		}
		m.result.Resident = kept.Resident != generator.ResidentNothing
		m.result.Prepared = kept.Resident == generator.ResidentPrepared
	}
	if bytes := m.p.Summary().Bytes; !m.result.Resident && len(todo) > 1 && bytes <= mostLoaded {
		begin := time.Now()
		if err := m.p.Load(ctx, true); err != nil {
			return err
		}
		m.watch.add("load", time.Since(begin))
	}
	for len(todo) > 0 {
		group := todo[:min(batch, len(todo))]
		todo = todo[len(group):]
		if err := m.group(ctx, group, batch); err != nil {
			return err
		}
	}
	return nil
}

// activations is about the most bytes that one task takes beside the weights: four times
// the largest tensor between two convolutions.
func (m *manyTasks) activations() int64 {
	c := m.p.Manifest.Decoder
	in := c.Condition()
	most := int64(in[0]) * int64(in[1]) * int64(in[2])
	for i := range len(c.Features) - 1 {
		from, to := c.Features[i], c.Features[i+1]
		most = max(most, int64(from[0])*int64(from[1])*int64(max(from[2], to[2])), int64(to[0])*int64(to[1])*int64(to[2]))
	}
	return 4 * 4 * most
}

// goodBatch is how many tasks to decode at a time: enough to share the reading of weights,
// and no more than takes a gigabyte or a minute of a processor.
func goodBatch(macs, activations int64) int {
	return int(min(8, max(1, 1<<30/activations), max(1, 2e12/macs)))
}

// group encodes tasks one after the other and decodes them together. What of the batch is
// left is filled with the last, since another size would be compiled anew. The error is
// of what no other task can do without.
func (m *manyTasks) group(ctx context.Context, group []*taskResult, batch int) error {
	manifest := &m.p.Manifest
	tokenizer, err := m.p.Tokenizer()
	if err != nil {
		return err
	}
	m.conditions = m.conditions[:0]
	var tasks []*taskResult
	for _, t := range group {
		texts, _ := text.Draw(t.prompts, manifest.Condition.Texts, t.options.Provenance.Seed, 0)
		tokens, err := tokenizer.Encode(texts, manifest.Condition.Length)
		if err != nil {
			m.failed(t, err)
			continue
		}
		var condition []float32
		if err := m.watch.time("encode", func(report func(graph.Progress)) (err error) {
			condition, err = m.runner.Encode(ctx, m.p, tokens, report)
			return err
		}); err != nil {
			return fmt.Errorf("%s: %w", t.Prompts, err)
		}
		if t.Nearest, err = manifest.Nearest(condition, tokens.Mask); err != nil {
			return err
		}
		warnFar(m.e, t.Prompts+": these prompts", t.Nearest)
		m.conditions = append(m.conditions, condition...)
		tasks = append(tasks, t)
	}
	if len(tasks) == 0 {
		return ctx.Err()
	}
	each := len(m.conditions) / len(tasks)
	for len(m.conditions) < batch*each {
		m.conditions = append(m.conditions, m.conditions[len(m.conditions)-each:]...)
	}
	var tokens []float32
	if err := m.watch.time("decode", func(report func(graph.Progress)) (err error) {
		tokens, err = m.runner.Decode(ctx, m.p, m.conditions, batch, report)
		return err
	}); err != nil {
		return fmt.Errorf("decoding %d at a time: %w", batch, err)
	}
	begin := time.Now()
	defer func() { m.watch.add("write", time.Since(begin)) }()
	each = len(tokens) / batch
	for i, t := range tasks {
		t.options.Provenance.Backend = m.runner.Name() + ", " + m.runner.Device()
		a, err := finish(manifest, tokens[i*each:(i+1)*each], t.Nearest, t.options)
		if err == nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			err = lora.WriteFiles(t.Dir, a.files)
		}
		if err != nil {
			m.failed(t, err)
			continue
		}
		t.State = taskMade
		m.result.Made++
		for _, f := range a.files {
			t.Files = append(t.Files, f.Name)
		}
	}
	return nil
}

func (g *generatedMany) print(e *cli.Env) error {
	return e.Result(g, func(w io.Writer) {
		if g.Made > 0 {
			fmt.Fprintf(w, "device      %s (%s)\n", g.Device, g.Backend)
			printStages(w, g.Stages)
			where := "brought for each batch"
			switch {
			case g.Prepared:
				where = "on the device for all, packed and transformed once"
			case g.Resident:
				where = "on the device for all"
			case g.Backend != backends.WebGPU:
				where = "read for each batch"
			}
			fmt.Fprintf(w, "batch       %d at a time, weights %s\n", g.Batch, where)
		}
		for _, t := range g.Tasks {
			fmt.Fprintf(w, "%-8s  %s", t.State, t.Prompts)
			switch {
			case t.Error != "":
				fmt.Fprintf(w, ": %s", oneLine(t.Error, 500))
			case t.Nearest != nil:
				fmt.Fprintf(w, " > %s, nearest %s (%.3f)", t.Dir, t.Nearest.Task, t.Nearest.Distance)
			default:
				fmt.Fprintf(w, " > %s", t.Dir)
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%d made, %d kept, %d failed\n", g.Made, g.Kept, g.Failed)
	})
}
