package science

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// A change is one difference from the recipe.
type change struct {
	name, label string
	apply       func(*Config)
}

// changes are what can be ablated, in the order of the table. The first is none.
var changes = []change{
	{"recipe", "the recipe", func(*Config) {}},
	{"loss-weights", "loss on weights alone", func(c *Config) { c.Loss = LossWeights }},
	{"loss-task", "the base's loss alone", func(c *Config) { c.Loss = LossTask }},
	{"no-token-drop", "no tokens dropped", func(c *Config) { c.Generator.Drop = 0 }},
	{"no-averaging", "the last weights, not their mean", func(c *Config) { c.Generator.Average = 0 }},
	{"pads-encoded", "pads as the encoder makes them, not zeros", func(c *Config) { c.Generator.Pads = generator.PadsEncoded }},
	{"pooled", "mean of the prompts: their order does not matter", func(c *Config) { c.Generator.Pooled = true }},
	{"one-prompt", "one prompt a condition", func(c *Config) { c.Generator.Texts = 1 }},
	{"random-a", "one random A, not tuned", func(c *Config) { c.LoRA.SharedSteps = 0 }},
	{"kernel-1", "kernels of 1", func(c *Config) { c.Generator.Kernel = 1 }},
	{"channels-quarter", "a quarter of the channels", func(c *Config) { c.Generator.scale(1, 4) }},
	{"channels-half", "half the channels", func(c *Config) { c.Generator.scale(1, 2) }},
	{"channels-double", "twice the channels", double},
	{"mixing-rank-4", "kernels over prompts and tokens of rank 4", func(c *Config) { c.Generator.MixingRank = 4 }},
	{"basis-8", "weight tokens in a basis of 8 directions", func(c *Config) { c.Generator.Basis = 8 }},
	{"basis-23", "in one of 23, all in which the training tasks differ", func(c *Config) { c.Generator.Basis = 23 }},
	{"basis-23-loss-weights", "in one of 23, by the loss on weights alone", func(c *Config) { c.Generator.Basis, c.Loss = 23, LossWeights }},
	{"encoder-dropout", "the encoder's dropout, a tenth, as in the reference", func(c *Config) { c.Generator.EncoderDropout = 0.1 }},
	{"prompts-128", "128 prompts a task, not 24", func(c *Config) { c.Prompts = Defaults().Prompts }},
	{"prompts-128-channels-double", "128 prompts a task and twice the channels", func(c *Config) { c.Prompts = Defaults().Prompts; double(c) }},
}

func double(c *Config) { c.Generator.scale(2, 1) }

// scale multiplies the hidden layers' texts and width.
func (g *GeneratorConfig) scale(by, over int) {
	g.Features = slices.Clone(g.Features)
	for i, f := range g.Features {
		g.Features[i] = [3]int{max(1, f[0]*by/over), f[1], f[2] * by / over}
	}
}

// Ablations are the names of what Ablate knows.
func Ablations() []string {
	var names []string
	for _, c := range changes {
		names = append(names, c.name)
	}
	return names
}

// Ablation is what a change does on the tasks that are held out of the splits.
type Ablation struct {
	Name    string         `json:"name"`
	Label   string         `json:"label"`
	Weights int            `json:"weights"` // of the generator: its bytes at 8 bits
	FLOP    float64        `json:"flop"`    // of generating one adapter
	Exact   stats.Interval `json:"exact"`
	NLL     stats.Interval `json:"nll"`
	// Unseen is exact match in unseen wording.
	Unseen  stats.Interval `json:"unseen_wording_exact"`
	Train   float64        `json:"training_tasks_exact"`
	Seconds float64        `json:"seconds"` // of fitting
}

// Ablate fits the generator of each change by name and scores it on the validation and test
// tasks of the configuration's splits: choices may be made on them, so they must be none
// that results are reported on. It writes OUT/ablations.json, .md and .png; a run that was
// stopped goes on.
func Ablate(ctx context.Context, c Config, names []string, encoderDir, out string, b backend.Backend, report func(Progress)) ([]Ablation, error) {
	if _, err := c.deal(); err != nil {
		return nil, err
	}
	var list []Ablation
	for _, x := range changes {
		if !slices.Contains(names, x.name) {
			continue
		}
		one := c
		x.apply(&one)
		a, err := ablate(ctx, one, encoderDir, out, b, report)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.name, err)
		}
		a.Name, a.Label = x.name, x.label
		list = append(list, *a)
		if report != nil {
			report(Progress{Stage: x.name, Note: fmt.Sprintf("exact match %.3f, in unseen wording %.3f, %.2f nats", a.Exact.Value, a.Unseen.Value, a.NLL.Value)})
		}
		if err := atomicfile.Files(out, map[string]func(io.Writer) error{
			"ablations.json": atomicfile.JSON(map[string]any{"device": b.Device, "config": c, "ablations": list}),
			"ablations.md":   func(w io.Writer) error { return AblationTable(w, list) },
			"ablations.png":  func(w io.Writer) error { return plotSizes(w, list) },
		}); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ablationDraws is how many draws of prompts an ablation is scored by.
const ablationDraws = 4

func ablate(ctx context.Context, c Config, encoderDir, out string, b backend.Backend, report func(Progress)) (*Ablation, error) {
	splits, err := c.deal()
	if err != nil {
		return nil, err
	}
	e, err := open(ctx, &c, encoderDir, store{dir: stagesDir(out), keyed: true}, b, report)
	if err != nil {
		return nil, err
	}
	defer e.close()
	a := &Ablation{}
	for _, v := range e.net.initial {
		a.Weights += len(v)
	}
	if rank := e.net.config.Rank(); rank > 0 {
		t, h, w := e.net.layout.Shape()
		a.Weights += t * h * w * rank
	}
	a.FLOP = 2 * float64(e.net.macs())
	var seen, unseen []TaskScore
	for i := range splits {
		s := &splits[i]
		x, prefix, key, err := e.collect(ctx, s, false)
		if err != nil {
			return nil, err
		}
		f, err := e.last(ctx, prefix, append(key, c.Generator, c.Loss, c.Prompts), x)
		if err != nil {
			return nil, err
		}
		k := held(&c, &e.scorers, x, false, false)
		k.tasks = slices.Concat(s.Validation, s.Test)
		for _, part := range []struct {
			to     *[]TaskScore
			unseen bool
		}{{&seen, false}, {&unseen, true}} {
			k.ask(part.unseen)
			scores, err := k.repeated(ctx, ablationDraws, "", e.net.by(f))
			if err != nil {
				return nil, err
			}
			*part.to = append(*part.to, scores...)
		}
		k.tasks = s.Train
		k.ask(false)
		scores, err := k.repeated(ctx, 1, "", e.net.by(f))
		if err != nil {
			return nil, err
		}
		a.Train += meanScore(scores).Exact / float64(len(splits))
		a.Seconds += e.result.Seconds[prefix+"generator"]
	}
	average := averages(map[string][]TaskScore{MethodGenerated: seen, MethodOwn: unseen, MethodBase: seen})
	a.Exact, a.NLL, a.Unseen = average[MethodGenerated].Exact, average[MethodGenerated].NLL, average[MethodOwn].Exact
	return a, nil
}

// last fits a generator and keeps what it ends with: all held out tasks score it, none
// chooses.
func (e *experiment) last(ctx context.Context, prefix string, key []any, x *material) (*fitted, error) {
	f, err := e.stage(prefix+"generator", key, func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		var last *fitted
		keep := func(f *fitted) error { last = f; return nil }
		if err := e.net.fit(ctx, x, e.c.Loss, keep, func(done, total int, onWeights, onAnswers float64) {
			report(done, total, fmt.Sprintf("loss on weights %.4f, on answers %.4f", onWeights, onAnswers))
		}); err != nil {
			return nil, err
		}
		return e.net.tensors(last), nil
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return e.net.read(f)
}

// AblationTable writes ablations as Markdown.
func AblationTable(w io.Writer, list []Ablation) error {
	p := &printer{w: w}
	p.print("| change | exact match | in unseen wording | NLL | training tasks | weights | MFLOP | seconds |\n|---|---|---|---|---|---|---|---|\n")
	for _, a := range list {
		p.print("| %s | %.3f (%.3f to %.3f) | %.3f (%.3f to %.3f) | %.2f (%.2f to %.2f) | %.3f | %d k | %.0f | %.0f |\n", a.Label, a.Exact.Value, a.Exact.Low, a.Exact.High,
			a.Unseen.Value, a.Unseen.Low, a.Unseen.High, a.NLL.Value, a.NLL.Low, a.NLL.High, a.Train, a.Weights/1000, a.FLOP/1e6, a.Seconds)
	}
	return p.err
}
