package eval

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// adapter is what a cell's method adds to the base; nil is nothing.
func (e *evaluation) adapter(ctx context.Context, k cell, t *Task) (*lora.Adapter, error) {
	training := e.in.Training
	draw, _ := strconv.Atoi(k.Of)
	switch k.Method {
	case TrainMean:
		return lastOf(find(training, k.Of).Dir)
	case Average:
		shares := make([]float64, len(training))
		for i := range shares {
			shares[i] = 1 / float64(len(training))
		}
		return e.combined(shares)
	case Nearest:
		x, err := e.pooled(ctx, t, draw)
		if err != nil {
			return nil, err
		}
		rows, err := e.trainingFeatures(ctx)
		if err != nil {
			return nil, err
		}
		return lastOf(training[linear.Nearest(rows, x)].Dir)
	case Additive:
		r, err := linear.NewRidge(e.attributes(training), additiveStrength)
		if err != nil {
			return nil, err
		}
		return e.combined(r.Shares(e.oneHot(t.Attributes)))
	case Ridge:
		return e.ridge(ctx, t, draw, e.strength)
	case Joint:
		return lastOf(e.in.Joint.Dir)
	case RidgeJoint:
		a, err := e.ridge(ctx, t, draw, e.strength)
		if err != nil {
			return nil, err
		}
		j, err := lastOf(e.in.Joint.Dir)
		if err != nil {
			return nil, err
		}
		half := empty(a)
		half.add(a, 0.5)
		half.add(j, 0.5)
		return half.Adapter, nil
	case Own:
		return lastOf(find(e.in.Own, t.Name).Dir)
	case Foreign:
		i := slices.IndexFunc(e.in.Tasks, func(x Task) bool { return x.Name == t.Name })
		other := &e.in.Tasks[(i+len(e.in.Tasks)-1)%len(e.in.Tasks)]
		return e.generated(ctx, other.prompts(), 0)
	case Shuffled:
		return e.generated(ctx, e.mixture(t), 0)
	case Generated:
		return e.generated(ctx, t.prompts(), draw)
	}
	return nil, nil
}

// additiveStrength is that of a ridge on attributes that are known: only so much that the
// system, whose columns depend on each other, can be solved.
const additiveStrength = 1e-3

func (t *Task) prompts() []string {
	if t.Prompts != nil {
		return t.Prompts
	}
	list := make([]string, len(t.Records))
	for i, r := range t.Records {
		list[i] = r.Prompt
	}
	return list
}

// lastOf reads the last checkpoint of a data set that package collect wrote.
func lastOf(dir string) (*lora.Adapter, error) {
	a, _, err := collect.Last(dir)
	return a, err
}

// sum is an adapter that others are added to.
type sum struct{ *lora.Adapter }

// empty is a sum of nothing, of an adapter's shapes.
func empty(like *lora.Adapter) sum {
	a := &lora.Adapter{Base: like.Base}
	for _, p := range like.Pairs {
		a.Pairs = append(a.Pairs, lora.Pair{A: make([]float32, len(p.A)), B: make([]float32, len(p.B))})
	}
	return sum{a}
}

func (s sum) add(a *lora.Adapter, share float64) {
	add := func(to, from []float32) {
		for i, v := range from {
			to[i] += float32(share * float64(v))
		}
	}
	for i, p := range a.Pairs {
		add(s.Pairs[i].A, p.A)
		add(s.Pairs[i].B, p.B)
	}
}

// combined adds the training tasks' matrices up by shares, one adapter in memory at a time
// beside the sum.
func (e *evaluation) combined(shares []float64) (*lora.Adapter, error) {
	var all sum
	for i, t := range e.in.Training {
		a, err := lastOf(t.Dir)
		if err != nil {
			return nil, err
		}
		if all.Adapter == nil {
			all = empty(a)
		}
		all.add(a, shares[i])
	}
	return all.Adapter, nil
}

func (e *evaluation) ridge(ctx context.Context, t *Task, draw int, strength float64) (*lora.Adapter, error) {
	rows, err := e.trainingFeatures(ctx)
	if err != nil {
		return nil, err
	}
	r, err := linear.NewRidge(rows, strength)
	if err != nil {
		return nil, err
	}
	x, err := e.pooled(ctx, t, draw)
	if err != nil {
		return nil, err
	}
	return e.combined(r.Shares(x))
}

// pooled is the mean condition of a draw of a task's prompts.
func (e *evaluation) pooled(ctx context.Context, t *Task, draw int) ([]float64, error) {
	return e.pool(ctx, t.prompts(), e.c.Seed, draw, 1)
}

// pool is the mean condition of some draws.
func (e *evaluation) pool(ctx context.Context, prompts []string, seed int64, draw, draws int) ([]float64, error) {
	var p generator.Pool
	c := e.in.Package.Manifest.Condition
	for d := range draws {
		condition, batch, err := encode(ctx, e.in.Package, e.in.Runner, prompts, seed, draw+d)
		if err != nil {
			return nil, err
		}
		size := len(condition) / c.Texts
		for i := range c.Texts {
			p.Add(condition[i*size:(i+1)*size], batch.Mask[i*c.Length:(i+1)*c.Length])
		}
	}
	v := p.Vector()
	out := make([]float64, len(v))
	for i := range v {
		out[i] = float64(v[i])
	}
	return out, nil
}

// featureDraws is how many draws of a training task's prompts its features are the mean of.
const featureDraws = 4

// trainingFeatures are the training tasks' mean conditions, made once: those that the
// generator brings along, if it does.
func (e *evaluation) trainingFeatures(ctx context.Context) ([][]float64, error) {
	if e.features != nil {
		return e.features, nil
	}
	known := map[string][]float64{}
	if c := e.in.Package.Manifest.Coverage; c != nil {
		for _, t := range c.Tasks {
			for _, v := range generator.Float32s(t.Center) {
				known[t.Name] = append(known[t.Name], float64(v))
			}
		}
	}
	var rows [][]float64
	for _, t := range e.in.Training {
		row := known[t.Name]
		if row == nil {
			if len(t.Prompts) == 0 {
				return nil, fmt.Errorf("eval: training task %s has no prompts", t.Name)
			}
			var err error
			if row, err = e.pool(ctx, t.Prompts, e.c.Seed, 0, featureDraws); err != nil {
				return nil, err
			}
		}
		rows = append(rows, row)
	}
	e.features = rows
	return rows, nil
}

// strengths are those that the ridge's is chosen from.
var strengths = []float64{1e-3, 1e-2, 0.1, 1}

// chooseRidge takes the strength of the lowest likelihood loss on the validation tasks, on
// as many records as everything is scored on: by few it is a matter of luck.
func (e *evaluation) chooseRidge(ctx context.Context, s *cells, report func(Progress), total int) error {
	best := 0.0
	for i, strength := range strengths {
		nll := 0.0
		for j := range e.in.Validation {
			t := &e.in.Validation[j]
			report(Progress{Task: t.Name, Method: Ridge + ", choice of its strength", Total: total})
			e.strength = strength
			k, err := e.cell(ctx, s, cell{Method: Ridge, Task: t.Name, Of: fmt.Sprint("strength ", strength)}, t)
			if err != nil {
				return err
			}
			nll += k.score().NLL
		}
		if i == 0 || nll < best {
			best, s.strength = nll, strength
		}
	}
	e.strength = s.strength
	return nil
}

// values are all attributes of the training tasks.
func (e *evaluation) values() []string {
	var all []string
	for _, t := range e.in.Training {
		all = append(all, t.Attributes...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// oneHot is attributes as zeros and ones.
func (e *evaluation) oneHot(attributes []string) []float64 {
	var v []float64
	for _, x := range e.values() {
		if slices.Contains(attributes, x) {
			v = append(v, 1)
		} else {
			v = append(v, 0)
		}
	}
	return v
}

func (e *evaluation) attributes(list []Trained) [][]float64 {
	var rows [][]float64
	for _, t := range list {
		rows = append(rows, e.oneHot(t.Attributes))
	}
	return rows
}

// mixture are prompts of random training tasks, one each, the same for one task.
func (e *evaluation) mixture(t *Task) []string {
	rng := rand.New(rand.NewPCG(uint64(e.c.Seed), uint64(len(t.Name))))
	var list []string
	for range e.in.Package.Manifest.Condition.Texts {
		from := e.in.Training[rng.IntN(len(e.in.Training))].Prompts
		list = append(list, from[rng.IntN(len(from))])
	}
	return list
}

// encode makes the condition of a draw of prompts.
func encode(ctx context.Context, p *generator.Package, r generator.Runner, prompts []string, seed int64, draw int) ([]float32, text.Batch, error) {
	drawn, _ := text.Draw(prompts, p.Manifest.Condition.Texts, seed, draw)
	return generator.Encode(ctx, p, r, drawn, nil)
}

func (e *evaluation) generated(ctx context.Context, prompts []string, draw int) (*lora.Adapter, error) {
	a, _, err := generator.Generate(ctx, e.in.Package, e.in.Runner, prompts, e.c.Seed, draw, nil)
	return a, err
}

// sameTargets is the first difference of two lists of modules.
func sameTargets(a, b []lora.Target) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d modules, expected %d", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("module %+v, expected %+v", a[i], b[i])
		}
	}
	return nil
}

var errFinite = errors.New("the score is not finite: the adapter's values are too large")
