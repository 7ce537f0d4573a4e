package experiment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/export"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Resources are what a plan is run with.
type Resources struct {
	Models  []*lm.Model        // the base, one a device
	Encoder *generator.Package // the plan's OpenEncoder
	Backend backend.Backend
	Runner  generator.Runner
}

// Progress is how far a run is.
type Progress struct {
	Stage       string // with the split and seed that it is about
	Done, Total int
	Note        string
}

const collectedName = "collected"

// Run makes everything that a plan says in the folder out, or what is missing of it:
// collected/TASK; SPLIT/joint; SPLIT/fit-SEED, SPLIT/generator-SEED and SPLIT/eval-SEED;
// SPLIT/eval-SEED-SCALE of other strengths.
func Run(ctx context.Context, p *Plan, r Resources, out string, report func(Progress)) (*Result, error) {
	if report == nil {
		report = func(Progress) {}
	}
	collected := filepath.Join(out, collectedName)
	sets, err := p.sets(p.tasks())
	if err := errors.Join(err, p.checkFolders(out)); err != nil {
		return nil, err
	}
	tune := func(stage string, c collect.Config, sets []*collect.DataSet, dir string) error {
		return collect.Run(ctx, c, r.Models, sets, dir, func(x collect.Progress) {
			report(Progress{stage, x.Made, x.Total, fmt.Sprintf("%s, loss %.4f, %.0f tokens/s", x.DataSet, x.Loss, x.TokensPerSecond)})
		})
	}
	if err := tune("collect", p.Collect, sets, collected); err != nil {
		return nil, err
	}
	result := &Result{}
	for i := range p.Splits {
		s := &p.Splits[i]
		dir := filepath.Join(out, s.Name)
		train, err := p.sets(p.train(s))
		if err != nil {
			return nil, err
		}
		if err := tune(s.Name+", joint LoRA", p.Joint, []*collect.DataSet{collect.Join(jointName, train)}, jointParent(dir)); err != nil {
			return nil, err
		}
		of := SplitResult{Split: *s, Train: p.train(s)}
		for j, seed := range p.seeds(s) {
			if err := p.fitted(ctx, s, seed, r, train, collected, dir, report); err != nil {
				return nil, fmt.Errorf("split %s, seed %d: %w", s.Name, seed, err)
			}
			x, err := p.scored(ctx, s, seed, j == 0, r, collected, dir, report)
			if err != nil {
				return nil, fmt.Errorf("split %s, seed %d: %w", s.Name, seed, err)
			}
			of.Seeds = append(of.Seeds, *x)
		}
		result.Splits = append(result.Splits, of)
	}
	result.Pooled = pool(result.Splits)
	return result, result.write(out)
}

// jointName is the data set of all training tasks' records.
const jointName = "joint"

// jointParent is the folder in a split's that holds the one of its joint LoRA.
func jointParent(dir string) string { return filepath.Join(dir, "joint") }

// seeds are those of a split's fits.
func (p *Plan) seeds(s *Split) []int64 {
	if len(s.Seeds) > 0 {
		return s.Seeds
	}
	return p.Seeds
}

// generatorDir is a package's folder in its split's.
func generatorDir(dir string, seed int64) string {
	return filepath.Join(dir, fmt.Sprint("generator-", seed))
}

// fitDir is the folder of a generator's run in its split's.
func fitDir(dir string, seed int64) string { return filepath.Join(dir, fmt.Sprint("fit-", seed)) }

// fitOf is the configuration of a generator's run.
func (p *Plan) fitOf(seed int64) fit.Config {
	c := p.fit
	c.Seed = seed
	return c
}

// checkFolders refuses a folder of another plan: what is there of its generators is not made anew.
func (p *Plan) checkFolders(out string) error {
	var all []error
	for i := range p.Splits {
		s := &p.Splits[i]
		dir := filepath.Join(out, s.Name)
		for _, seed := range p.seeds(s) {
			c := p.fitOf(seed)
			all = append(all, fit.CheckFolder(fitDir(dir, seed), &c))
			there, err := generator.Open(generatorDir(dir, seed))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				all = append(all, err)
				continue
			}
			if have, want := cmp.Or(there.Manifest.Provenance.BasisShare, 1), cmp.Or(p.BasisShare, 1); have != want {
				all = append(all, fmt.Errorf("experiment: basis_share is %v, in the generator %s it is %v: choose another folder, or remove that generator and its evaluations", want, there.Dir, have))
			}
			all = append(all, there.Close())
		}
	}
	return errors.Join(all...)
}

// fitted fits and exports a generator, unless it is there; train are the split's training
// tasks.
func (p *Plan) fitted(ctx context.Context, s *Split, seed int64, r Resources, train []*collect.DataSet, collected, dir string, report func(Progress)) error {
	run, out := fitDir(dir, seed), generatorDir(dir, seed)
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c := p.fitOf(seed)
	data, err := fit.OpenData(collected, p.train(s), "", c.Tiling)
	if err != nil {
		return err
	}
	if c.JointShare > 0 {
		if err := data.SetJoint(filepath.Join(jointParent(dir), jointName)); err != nil {
			return err
		}
	}
	with := fit.Resources{Encoder: r.Encoder, Backend: r.Backend}
	if c.Loss != fit.LossWeights {
		examples, err := collect.ExamplesOf(r.Models[0], train, p.Collect.MaxTokens, func(string) {})
		if err != nil {
			return err
		}
		with.Task = &fit.Task{Model: r.Models[0], Examples: examples}
	}
	if _, err := fit.Run(ctx, c, data, with, run, func(x fit.Progress) {
		report(Progress{fmt.Sprintf("%s, seed %d, %s", s.Name, seed, x.Stage), x.Done, x.Total, fmt.Sprintf("loss %.4f", x.Smooth)})
	}); err != nil {
		return err
	}
	base := &r.Models[0].Config
	o := export.Options{Name: fmt.Sprintf("%s-%d", s.Name, seed), EncoderDir: r.Encoder.Dir, Architecture: base.Architecture, Heads: base.Heads, KVHeads: base.KVHeads,
		Model: p.Model, DType: safetensors.F32, BasisShare: p.BasisShare, HeldOut: append(append([]string{}, s.HeldOut...), s.Validation...)}
	return export.Write(ctx, []string{run}, out, o, nil)
}

// scored evaluates a generator. Rivals do not depend on the seed: they are scored with the
// first, which is scored at the split's other strengths, too.
func (p *Plan) scored(ctx context.Context, s *Split, seed int64, first bool, r Resources, collected, dir string, report func(Progress)) (*SeedResult, error) {
	in, err := Inputs(p.of(s), p.Data, collected, filepath.Join(jointParent(dir), jointName))
	if err != nil {
		return nil, err
	}
	if in.Package, err = generator.Open(generatorDir(dir, seed)); err != nil {
		return nil, err
	}
	defer in.Package.Close()
	in.Model, in.Runner = r.Models[0], r.Runner
	run := func(c eval.Config, name string) (*eval.Result, error) {
		scores := filepath.Join(dir, name)
		x, err := eval.Run(ctx, c, *in, scores, func(x eval.Progress) {
			report(Progress{s.Name + ", " + name, x.Done, x.Total, x.Task + ", " + x.Method})
		})
		if err != nil {
			return nil, err
		}
		return x, x.Write(scores)
	}
	c, name := p.Eval, fmt.Sprint("eval-", seed)
	if !first {
		c.Methods = []string{eval.Foreign, eval.Shuffled, eval.Generated}
	}
	result := &SeedResult{Seed: seed}
	if result.Result, err = run(c, name); err != nil || !first {
		return result, err
	}
	c.Methods = slices.DeleteFunc(slices.Clone(eval.Adapters), func(m string) bool {
		return len(p.Eval.Methods) > 0 && !slices.Contains(p.Eval.Methods, m)
	})
	for _, c.Scale = range s.Scales {
		x, err := run(c, fmt.Sprint(name, "-", c.Scale))
		if err != nil {
			return nil, err
		}
		result.Scaled = append(result.Scaled, x)
	}
	return result, nil
}

// sets reads tasks' training records.
func (p *Plan) sets(tasks []string) ([]*collect.DataSet, error) {
	return collect.ReadDataSets([]string{filepath.Join(p.Data, "train")}, tasks)
}
