package science

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/floats"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// contest is what the methods are compared on: a split's tasks of one kind in one wording.
type contest struct {
	c       *Config
	scorers *scorers
	x       *material
	tasks   []Task
	own     []*lora.Adapter // of tasks
	exams   []exams         // of tasks
	prompts map[Task][][]float32
	options bool // whether scores have them
}

// scorers are the base for prompts as they are, and for longer ones.
type scorers struct{ plain, wide *lm.Scorer }

func (s *scorers) open(m *lm.Model, rank int) (err error) {
	if s.plain, err = m.NewScorer(rank, size); err != nil {
		return err
	}
	s.wide, err = m.NewScorer(rank, lm.Size{Length: (1 + shots) * (size.Length + 1), Answers: size.Answers})
	return err
}

func (s *scorers) close() {
	for _, scorer := range []*lm.Scorer{s.plain, s.wide} {
		if scorer != nil {
			scorer.Close()
		}
	}
}

// held makes the contest of a split's test or validation tasks.
func held(c *Config, scorers *scorers, x *material, test, unseen bool) *contest {
	k := &contest{c: c, scorers: scorers, x: x, tasks: x.split.Validation, own: x.loras.last()[len(x.split.Train):], options: test}
	if test {
		k.tasks, k.own = x.split.Test, k.own[len(x.split.Validation):]
	}
	k.own = k.own[:len(k.tasks)]
	k.ask(unseen)
	return k
}

// ask takes the exams and prompts of the tasks in one wording.
func (k *contest) ask(unseen bool) {
	from := k.x.corpus.seen
	k.prompts = k.x.conditions.seen
	if unseen {
		from, k.prompts = k.x.corpus.unseen, k.x.conditions.unseen
	}
	k.exams = nil
	for _, t := range k.tasks {
		k.exams = append(k.exams, from[t])
	}
}

// conditions draws a condition for every task, from its own prompts, from those of the
// task after it, or from one prompt each of random training tasks.
func (k *contest) conditions(draw int, from string) [][]float32 {
	rng := rand.New(rand.NewPCG(uint64(draw), 0xd1a))
	n := k.c.Generator.Texts
	list := make([][]float32, len(k.tasks))
	for i, t := range k.tasks {
		switch from {
		case MethodForeign:
			t = k.tasks[(i+1)%len(k.tasks)]
		case MethodShuffled:
			for range n {
				t := k.x.split.Train[rng.IntN(len(k.x.split.Train))]
				list[i] = drawn(list[i], k.prompts[t], 1, rng)
			}
			continue
		}
		list[i] = drawn(nil, k.prompts[t], n, rng)
	}
	return list
}

// optionDraws is how many draws of prompts options are scored for.
const optionDraws = 2

// repeated scores what build gives for each draw of prompts.
func (k *contest) repeated(ctx context.Context, draws int, from string, build func(conditions [][]float32) ([]*lora.Adapter, error)) ([]TaskScore, error) {
	all := make([][]TaskScore, len(k.tasks))
	for draw := range draws {
		adapters, err := build(k.conditions(draw, from))
		if err != nil {
			return nil, err
		}
		scores, err := grade(ctx, k.scorers.plain, k.plain(), adapters, k.options && draw < optionDraws)
		if err != nil {
			return nil, err
		}
		for i := range k.tasks {
			all[i] = append(all[i], scores[i])
		}
	}
	scores := make([]TaskScore, len(k.tasks))
	for i := range scores {
		scores[i] = over(all[i], optionDraws)
	}
	return scores, nil
}

// simple scores one adapter a task, without draws; nil is the base.
func (k *contest) simple(ctx context.Context, adapters []*lora.Adapter) ([]TaskScore, error) {
	return grade(ctx, k.scorers.plain, k.plain(), adapters, k.options)
}

func (k *contest) plain() []exam {
	list := make([]exam, len(k.exams))
	for i, e := range k.exams {
		list[i] = e.plain
	}
	return list
}

func repeat(a *lora.Adapter, n int) []*lora.Adapter {
	list := make([]*lora.Adapter, n)
	for i := range list {
		list[i] = a
	}
	return list
}

// crossRecords and crossOptions are of how many records each training LoRA is scored on.
const (
	crossRecords = 16
	crossOptions = 2
)

// training scores every training LoRA on every task: their mean, and the best one of each
// task by exact match, then likelihood, on these very records.
func (k *contest) training(ctx context.Context) (mean, best []TaskScore, err error) {
	part := k.plain()
	for i, e := range part {
		part[i] = e.first(crossRecords, crossOptions)
	}
	mean, best = make([]TaskScore, len(k.tasks)), make([]TaskScore, len(k.tasks))
	n := len(k.x.split.Train)
	for j, a := range k.x.loras.last()[:n] {
		scores, err := grade(ctx, k.scorers.plain, part, repeat(a, len(k.tasks)), k.options)
		if err != nil {
			return nil, nil, err
		}
		for i, s := range scores {
			mean[i].Exact += s.Exact / float64(n)
			mean[i].Option += s.Option / float64(n)
			mean[i].NLL += s.NLL / float64(n)
			if b := best[i]; j == 0 || s.Exact > b.Exact || s.Exact == b.Exact && s.NLL < b.NLL {
				best[i] = s
			}
		}
	}
	return mean, best, nil
}

// known is what the training-free rivals know: weights and pooled conditions of the
// training tasks.
type known struct {
	weights, pooled, attributes [][]float64
	like                        *lora.Adapter
}

func newKnown(x *material) *known {
	l := &known{like: x.loras.last()[0]}
	for i, t := range x.split.Train {
		var rows [][]float64
		for _, adapters := range x.loras.checkpoints {
			rows = append(rows, flatten(adapters[i]))
		}
		l.weights = append(l.weights, linear.Mean(rows))
		l.pooled = append(l.pooled, x.conditions.pooled(slices.Concat(x.conditions.seen[t]...)))
		l.attributes = append(l.attributes, attributesOf(t))
	}
	return l
}

// strengths are what validation picks the ridge's from.
var strengths = []float64{1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10}

// pickRidge fits a ridge of every strength and keeps the one with most exact matches on
// the validation tasks.
func (l *known) pickRidge(ctx context.Context, k *contest) (best *ridge, strength float64, err error) {
	top := math.Inf(-1)
	for _, s := range strengths {
		r, err := newRidge(l.pooled, l.weights, s)
		if err != nil {
			return nil, 0, err
		}
		scores, err := k.repeated(ctx, 2, "", l.by(k, r))
		if err != nil {
			return nil, 0, err
		}
		if m := meanScore(scores); m.Exact-1e-6*m.NLL > top {
			top, best, strength = m.Exact-1e-6*m.NLL, r, s
		}
	}
	return best, strength, nil
}

// by makes adapters of conditions by a regression.
func (l *known) by(k *contest, r *ridge) func([][]float32) ([]*lora.Adapter, error) {
	return func(conditions [][]float32) ([]*lora.Adapter, error) {
		var list []*lora.Adapter
		for _, x := range conditions {
			list = append(list, unflatten(r.predict(k.x.conditions.pooled(x)), l.like))
		}
		return list, nil
	}
}

// additive predicts from the true attributes: what a perfect reader of prompts could do
// whose weights only add up. It is printed before any generator is fitted: where it fails,
// the LoRAs' weight spaces are not aligned, and no generator can help.
func (l *known) additive(list []Task) ([]*lora.Adapter, error) {
	r, err := newRidge(l.attributes, l.weights, 1e-3)
	if err != nil {
		return nil, err
	}
	var out []*lora.Adapter
	for _, t := range list {
		out = append(out, unflatten(r.predict(attributesOf(t)), l.like))
	}
	return out, nil
}

// explained is the share of the own-task LoRAs' variance around the mean training LoRA
// that a prediction explains.
func (l *known) explained(predicted, own []*lora.Adapter) float64 {
	mean := linear.Mean(l.weights)
	left, total := 0.0, 0.0
	for i := range own {
		d := floats.Distance(flatten(own[i]), flatten(predicted[i]), 2)
		e := floats.Distance(flatten(own[i]), mean, 2)
		left, total = left+d*d, total+e*e
	}
	return 1 - left/total
}

// rivals scores every method but the generated ones.
func (k *contest) rivals(ctx context.Context, l *known, r *ridge, joint *lora.Adapter) (map[string][]TaskScore, error) {
	n := len(k.tasks)
	all := map[string][]TaskScore{}
	add := func(method string, adapters []*lora.Adapter) error {
		scores, err := k.simple(ctx, adapters)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		all[method] = scores
		return nil
	}
	additive, err := l.additive(k.tasks)
	if err != nil {
		return nil, err
	}
	for _, x := range []struct {
		method   string
		adapters []*lora.Adapter
	}{{MethodBase, nil}, {MethodAverage, repeat(unflatten(linear.Mean(l.weights), l.like), n)}, {MethodAdditive, additive},
		{MethodJoint, repeat(joint, n)}, {MethodOwn, k.own}} {
		if err := add(x.method, x.adapters); err != nil {
			return nil, err
		}
	}
	var format, few []exam
	for _, e := range k.exams {
		format, few = append(format, e.formatted), append(few, e.fewShot)
	}
	if all[MethodFormat], err = grade(ctx, k.scorers.wide, format, nil, k.options); err != nil {
		return nil, err
	}
	if all[MethodFewShot], err = grade(ctx, k.scorers.wide, few, nil, k.options); err != nil {
		return nil, err
	}
	if all[MethodMean], all[MethodBest], err = k.training(ctx); err != nil {
		return nil, err
	}
	if all[MethodRidge], err = k.repeated(ctx, k.c.Draws, "", l.by(k, r)); err != nil {
		return nil, err
	}
	all[MethodNearest], err = k.repeated(ctx, k.c.Draws, "", func(conditions [][]float32) ([]*lora.Adapter, error) {
		var list []*lora.Adapter
		for _, x := range conditions {
			list = append(list, k.x.loras.last()[linear.Nearest(l.pooled, k.x.conditions.pooled(x))])
		}
		return list, nil
	})
	return all, err
}

// generated scores a generator: from each task's own prompts, and from the controls'.
func (k *contest) generated(ctx context.Context, g *network, f *fitted, all map[string][]TaskScore) error {
	for _, x := range []struct {
		method string
		draws  int
	}{{MethodGenerated, k.c.Draws}, {MethodForeign, 1}, {MethodShuffled, 1}} {
		var err error
		if all[x.method], err = k.repeated(ctx, x.draws, x.method, g.by(f)); err != nil {
			return fmt.Errorf("%s: %w", x.method, err)
		}
	}
	return nil
}
