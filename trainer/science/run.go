package science

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Progress is how far a stage is, or, with no total, a finding worth printing.
type Progress struct {
	Stage       string
	Done, Total int
	Note        string
}

// experiment is a run's state: one model whose weights are replaced from variant to
// variant, so that nothing is compiled twice.
type experiment struct {
	c       *Config
	b       backend.Backend
	store   store
	report  func(Progress)
	m       *lm.Model
	scorers scorers
	tuners  tuners
	corpus  *corpus
	prompts *conditions
	net     *network
	reader  *reader
	result  *Result
}

// Run runs the experiment: OUT/stages keeps what was computed, and a run that was stopped
// goes on there; OUT/result.json, result.md and result.png are what came out. encoderDir is
// the text encoder in Hugging Face layout. report may be nil.
func Run(ctx context.Context, c Config, encoderDir, out string, b backend.Backend, report func(Progress)) (*Result, error) {
	splits, err := c.deal()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	e, err := open(ctx, &c, encoderDir, store{dir: stagesDir(out)}, b, report)
	if err != nil {
		return nil, err
	}
	defer e.close()
	for _, strict := range []bool{false, true} {
		for i := range splits {
			if strict && !c.Strict {
				break
			}
			if err := e.variant(ctx, &splits[i], strict); err != nil {
				return nil, err
			}
			// What there is so far is written, since the whole takes a while.
			e.result.summarise()
			e.result.Seconds["this run"] = time.Since(begin).Seconds()
			if err := e.result.write(out); err != nil {
				return nil, err
			}
		}
	}
	return e.result, nil
}

// deal are a valid configuration's splits.
func (c *Config) deal() ([]Split, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var splits []Split
	for _, seed := range c.Splits {
		s, err := newSplit(seed, c)
		if err != nil {
			return nil, err
		}
		splits = append(splits, s)
	}
	return splits, nil
}

// open prepares what all variants share.
func open(ctx context.Context, c *Config, encoderDir string, s store, b backend.Backend, report func(Progress)) (*experiment, error) {
	if report == nil {
		report = func(Progress) {}
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	e := &experiment{c: c, b: b, store: s, report: report, result: &Result{Config: *c, Labels: Labels, Device: b.Device, Seconds: map[string]float64{}}}
	if err := e.open(ctx, encoderDir); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *experiment) open(ctx context.Context, encoderDir string) (err error) {
	c := e.c
	if e.corpus, err = newCorpus(c); err != nil {
		return err
	}
	if e.reader, err = openReader(c, encoderDir, e.b); err != nil {
		return err
	}
	f, err := e.stage("conditions", []any{c.Values, c.Prompts, c.UnseenPrompts, c.Generator.Length, c.Generator.Pads, encoderDir}, func(report func(done, total int, note string)) ([]safetensors.Tensor, error) {
		return e.reader.encode(ctx, c, func(done, total int) { report(done, total, "") })
	})
	if err != nil {
		return err
	}
	e.prompts, err = readConditions(f, c)
	f.Close()
	if err != nil {
		return err
	}
	if share := c.Generator.EncoderDropout; share > 0 {
		f, err := e.stage("dropped conditions", []any{c.Values, c.Prompts, c.Generator.Length, share, encoderDir}, func(report func(done, total int, note string)) ([]safetensors.Tensor, error) {
			return e.reader.encodeDropped(ctx, c, e.b, func(done, total int) { report(done, total, "") })
		})
		if err != nil {
			return err
		}
		err = e.prompts.readDropped(f, c)
		f.Close()
		if err != nil {
			return err
		}
	}
	if e.m, err = lm.New(c.model(), c.Base.Seed, e.b); err != nil {
		return err
	}
	e.tuners = tuners{e.m, &c.LoRA, map[tunerKind]*lm.GroupTuner{}}
	if err := e.scorers.open(e.m, c.LoRA.Rank); err != nil {
		return err
	}
	e.net, err = newNetwork(c, e.prompts.width, e.m, e.b)
	return err
}

func (e *experiment) close() {
	if e.net != nil {
		e.net.close()
	}
	e.scorers.close()
	e.tuners.close()
	if e.m != nil {
		e.m.Close()
	}
	if e.reader != nil {
		e.reader.close()
	}
}

// stage is store.stage with progress and time.
func (e *experiment) stage(name string, key any, fill func(report func(done, total int, note string)) ([]safetensors.Tensor, error)) (*safetensors.File, error) {
	f, seconds, err := e.store.stage(name, key, func() ([]safetensors.Tensor, error) {
		return fill(func(done, total int, note string) { e.report(Progress{name, done, total, note}) })
	})
	e.result.Seconds[name] = seconds
	return f, err
}

// collect gives the model the base that saw all combinations or, strict, only the
// training's, and makes a split's LoRAs. key is what they depend on.
func (e *experiment) collect(ctx context.Context, s *Split, strict bool) (x *material, prefix string, key []any, err error) {
	c := e.c
	prefix = fmt.Sprintf("split%d-", s.Seed)
	list, more, baseName := tasks(c.Values), []Task(nil), "base"
	if strict {
		prefix += "strict-"
		list, more, baseName = s.Train, further(c.Values, c.Further), prefix+"base"
	}
	note := func(loss float64) string { return fmt.Sprintf("loss %.4f", loss) }
	key = []any{c.Values, c.Base, list, more}
	f, err := e.stage(baseName, key, func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		return trainBase(ctx, c, list, more, e.b, func(done, total int, loss float64) { report(done, total, note(loss)) })
	})
	if err != nil {
		return nil, "", nil, err
	}
	err = e.m.Replace(f)
	f.Close()
	if err != nil {
		return nil, "", nil, err
	}
	key = append(key, *s, s.Train, s.Validation, s.Test, c.Records, c.LoRA)
	if f, err = e.stage(prefix+"loras", key, func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		l, err := tune(ctx, c, &e.tuners, e.corpus, s, func(done, total int, loss float64) { report(done, total, note(loss)) })
		if err != nil {
			return nil, err
		}
		return l.tensors(), nil
	}); err != nil {
		return nil, "", nil, err
	}
	defer f.Close()
	loras, err := readCollection(f, c.lora(), collectionTasks(s))
	return &material{e.prompts, e.corpus, loras, s}, prefix, key, err
}

// variant runs a split, strict or not.
func (e *experiment) variant(ctx context.Context, s *Split, strict bool) error {
	c := e.c
	x, prefix, key, err := e.collect(ctx, s, strict)
	if err != nil {
		return err
	}
	choose := held(c, &e.scorers, x, false, false)
	contests := []*contest{held(c, &e.scorers, x, true, false), held(c, &e.scorers, x, true, true)}
	names := []string{UnseenTask, UnseenWording}
	if strict {
		contests, names = contests[:1], []string{StrictTask}
	}

	known := newKnown(x)
	check, err := e.additive(ctx, known, contests[0])
	if err != nil {
		return err
	}
	e.report(Progress{Stage: prefix + "loras", Note: fmt.Sprintf(
		"additive check on true attributes: exact match %.3f (own-task LoRAs %.3f), %.2f of the weights' variance explained", check.Additive, check.Own, check.Explained)})
	r, strength, err := known.pickRidge(ctx, choose)
	if err != nil {
		return err
	}
	joint, err := e.joint(ctx, prefix, key, s, choose)
	if err != nil {
		return err
	}
	fitted, err := e.fit(ctx, prefix, append(key, c.Generator, c.Loss, c.Prompts), x, choose)
	if err != nil {
		return err
	}
	for i, k := range contests {
		e.report(Progress{Stage: prefix + "score", Done: i, Total: len(contests)})
		scores, err := k.rivals(ctx, known, r, joint)
		if err != nil {
			return err
		}
		if err := k.generated(ctx, e.net, fitted, scores); err != nil {
			return err
		}
		e.result.add(s.Seed, names[i], k.tasks, scores, Choices{Check: *check, RidgeStrength: strength, GeneratorSteps: fitted.steps})
	}
	if strict {
		return nil
	}
	if e.result.Calibration == nil {
		e.result.Calibration = &Calibration{}
	}
	if err := e.result.Calibration.calibrate(ctx, e.net, fitted, contests[0], c); err != nil {
		return err
	}
	if c.Cost && e.result.Cost == nil {
		e.result.Cost, err = e.cost(ctx, prefix, append(key, c.Generator, c.Loss, c.Prompts), contests[0], fitted)
	}
	return err
}

// Check is the diagnostic of alignment: what weights that only add up reach with the true
// attributes.
type Check struct {
	Additive  float64 `json:"additive_exact"`
	Own       float64 `json:"own_exact"`
	Explained float64 `json:"variance_explained"`
}

func (e *experiment) additive(ctx context.Context, l *known, k *contest) (*Check, error) {
	predicted, err := l.additive(k.tasks)
	if err != nil {
		return nil, err
	}
	scores, err := k.simple(ctx, predicted)
	if err != nil {
		return nil, err
	}
	own, err := k.simple(ctx, k.own)
	if err != nil {
		return nil, err
	}
	return &Check{meanScore(scores).Exact, meanScore(own).Exact, l.explained(predicted, k.own)}, nil
}

// joint tunes the joint LoRA and lets the validation tasks pick among its candidates.
func (e *experiment) joint(ctx context.Context, prefix string, key []any, s *Split, choose *contest) (*lora.Adapter, error) {
	f, err := e.stage(prefix+"joint", append(slices.Clone(key), e.c.Joint), func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		candidates, err := tuneJoint(ctx, e.c, &e.tuners, e.corpus, s, func(done, total int, loss float64) { report(done, total, fmt.Sprintf("loss %.4f", loss)) })
		if err != nil {
			return nil, err
		}
		var best *lora.Adapter
		var top TaskScore
		for _, a := range candidates {
			scores, err := choose.simple(ctx, repeat(a, len(choose.tasks)))
			if err != nil {
				return nil, err
			}
			if m := meanScore(scores); best == nil || m.better(top) {
				best, top = a, m
			}
		}
		return (&collection{tasks: make([]Task, 1), checkpoints: [][]*lora.Adapter{{best}}}).tensors(), nil
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := readCollection(f, e.c.lora(), make([]Task, 1))
	if err != nil {
		return nil, err
	}
	return l.last()[0], nil
}

// better is by exact match, then by likelihood.
func (s TaskScore) better(than TaskScore) bool {
	return s.Exact > than.Exact || s.Exact == than.Exact && s.NLL < than.NLL
}

// validationDraws is how many draws of prompts a candidate generator is chosen by.
const validationDraws = 2

// fit fits the generator; the validation tasks pick among its candidates.
func (e *experiment) fit(ctx context.Context, prefix string, key []any, x *material, choose *contest) (*fitted, error) {
	f, err := e.stage(prefix+"generator", key, func(report func(int, int, string)) ([]safetensors.Tensor, error) {
		var best *fitted
		var top TaskScore
		pick := func(f *fitted) error {
			scores, err := choose.repeated(ctx, validationDraws, "", e.net.by(f))
			if err != nil {
				return err
			}
			if m := meanScore(scores); best == nil || m.better(top) {
				best, top = f, m
			}
			return nil
		}
		if err := e.net.fit(ctx, x, e.c.Loss, pick, func(done, total int, onWeights, onAnswers float64) {
			report(done, total, fmt.Sprintf("loss on weights %.4f, on answers %.4f", onWeights, onAnswers))
		}); err != nil {
			return nil, err
		}
		return e.net.tensors(best), nil
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return e.net.read(f)
}
