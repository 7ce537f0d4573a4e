package science

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Seeds of what is drawn, apart from each other.
const (
	seedRecords = 10_000
	seedTest    = 20_000
	seedPrompts = 30_000
)

// corpus is every task's records as the base's tokens: the same for every split.
type corpus struct {
	train map[Task][]lm.Example
	// What tasks are scored on, in the training's wording and in that kept for tests.
	seen, unseen map[Task]exams
}

// exams are a task's, by what the base gets as its prompt.
type exams struct{ plain, formatted, fewShot exam }

func newCorpus(c *Config) (*corpus, error) {
	v := newVocabulary()
	d := &corpus{map[Task][]lm.Example{}, map[Task]exams{}, map[Task]exams{}}
	for i, t := range append(tasks(c.Values), outsiders(c.Values)...) {
		var err error
		// Tuning reads the same nouns for every task: what differs is the task.
		if d.train[t], err = v.examples(t.records(seedRecords, c.Records, false)); err != nil {
			return nil, err
		}
		if d.seen[t], err = newExams(c, v, t, t.records(seedTest+int64(i), c.TestItems, false)); err != nil {
			return nil, err
		}
		if d.unseen[t], err = newExams(c, v, t, t.records(seedTest+1000+int64(i), c.TestItems, true)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func newExams(c *Config, v *vocabulary, t Task, records []Record) (e exams, err error) {
	for _, x := range []struct {
		exam   *exam
		prompt func(int) ([]int32, error)
	}{{&e.plain, plain(v, records)}, {&e.formatted, formatted(v, t, records)}, {&e.fewShot, fewShot(v, records)}} {
		if *x.exam, err = newExam(v, t, c.Values, records, x.prompt); err != nil {
			return exams{}, err
		}
	}
	return e, nil
}

// order walks through n records, shuffled anew in every epoch.
type order struct {
	rng  *rand.Rand
	n    int
	left []int
}

func newOrder(seed int64, n int) *order {
	return &order{rng: rand.New(rand.NewPCG(uint64(seed), 0x0dd)), n: n}
}

func (o *order) next() int {
	if len(o.left) == 0 {
		o.left = o.rng.Perm(o.n)
	}
	i := o.left[0]
	o.left = o.left[1:]
	return i
}

// collection is the tuned LoRAs of all tasks of a split: its training tasks, then
// validation, then test. All have one A, which was tuned on the training tasks alone.
type collection struct {
	tasks       []Task
	checkpoints [][]*lora.Adapter // of the late steps; each has an adapter a task
}

// last are the finished LoRAs.
func (l *collection) last() []*lora.Adapter { return l.checkpoints[len(l.checkpoints)-1] }

func collectionTasks(s *Split) []Task {
	return append(append(append([]Task{}, s.Train...), s.Validation...), s.Test...)
}

// tuners are what tunes so and so many tasks' LoRAs at a time, each compiled once.
type tuners struct {
	m    *lm.Model
	c    *LoRAConfig
	list map[tunerKind]*lm.GroupTuner
}

type tunerKind struct {
	groups int
	trainA bool
}

func (t *tuners) get(groups int, trainA bool) (*lm.GroupTuner, error) {
	kind := tunerKind{groups, trainA}
	if tuner, ok := t.list[kind]; ok {
		return tuner, nil
	}
	tuner, err := t.m.NewGroupTuner(groups, t.c.Rank, t.c.Alpha, trainA, size)
	if err == nil {
		t.list[kind] = tuner
	}
	return tuner, err
}

func (t *tuners) close() {
	for _, tuner := range t.list {
		tuner.Close()
	}
}

// tune makes a collection. First A is tuned with all training tasks' Bs, which are then
// forgotten: then every task's own B, with that A. So all LoRAs stand in one coordinate
// system, without which weights do not compose.
func tune(ctx context.Context, c *Config, m *tuners, d *corpus, s *Split, report func(done, total int, loss float64)) (*collection, error) {
	l := &c.LoRA
	total := l.SharedSteps + l.Steps
	shared, err := m.get(len(s.Train), true)
	if err != nil {
		return nil, err
	}
	if err := shared.Reset(l.Seed, nil); err != nil {
		return nil, err
	}
	o := newOrder(l.Seed, c.Records)
	for i := range l.SharedSteps {
		loss, err := tuneStep(ctx, shared, o, d, s.Train, l.Batch/2, l.SharedRate)
		if err != nil {
			return nil, err
		}
		report(i+1, total, loss)
	}
	first, err := shared.Adapters()
	if err != nil {
		return nil, err
	}
	out := &collection{tasks: collectionTasks(s)}
	own, err := m.get(len(out.tasks), false)
	if err != nil {
		return nil, err
	}
	if err := own.Reset(l.Seed, first[0]); err != nil {
		return nil, err
	}
	for i := range l.Steps {
		loss, err := tuneStep(ctx, own, o, d, out.tasks, l.Batch, l.rate(i))
		if err != nil {
			return nil, err
		}
		if i >= l.Steps-l.Late && (l.Steps-1-i)%l.SaveEvery == 0 {
			adapters, err := own.Adapters()
			if err != nil {
				return nil, err
			}
			out.checkpoints = append(out.checkpoints, adapters)
		}
		report(l.SharedSteps+i+1, total, loss)
	}
	return out, nil
}

// rate is the learning rate of a step: after a short warm-up constant, and less in the late
// steps.
func (l *LoRAConfig) rate(step int) float64 {
	rate := l.Rate * min(1, float64(step+1)/10)
	if step >= l.Steps-l.Late {
		rate *= 0.3
	}
	return rate
}

// tuneStep is a step of some tasks' LoRAs on the records that are next in order.
func tuneStep(ctx context.Context, t *lm.GroupTuner, o *order, d *corpus, list []Task, batch int, rate float64) (float64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	picks := make([]int, batch)
	for i := range picks {
		picks[i] = o.next()
	}
	var examples []lm.Example
	for _, task := range list {
		for _, i := range picks {
			examples = append(examples, d.train[task][i])
		}
	}
	return t.Step(examples, rate)
}

// tensors are a collection for a file.
func (l *collection) tensors() []safetensors.Tensor {
	base := l.checkpoints[0][0].Base
	var list []safetensors.Tensor
	for i, t := range base.Targets {
		list = append(list, safetensors.FromFloat32s(t.Name+".lora_A", safetensors.F32, l.checkpoints[0][0].Pairs[i].A, base.Rank, t.In))
		var b []float32
		for _, adapters := range l.checkpoints {
			for _, a := range adapters {
				b = append(b, a.Pairs[i].B...)
			}
		}
		list = append(list, safetensors.FromFloat32s(t.Name+".lora_B", safetensors.F32, b, len(l.checkpoints), len(l.tasks), t.Out, base.Rank))
	}
	return list
}

// readCollection is the way back.
func readCollection(f *safetensors.File, base lora.Base, list []Task) (*collection, error) {
	out := &collection{tasks: list}
	for i, t := range base.Targets {
		a, err := f.Float32s(t.Name + ".lora_A")
		if err != nil {
			return nil, err
		}
		b, err := f.Float32s(t.Name + ".lora_B")
		if err != nil {
			return nil, err
		}
		n := t.Out * base.Rank
		if len(a) != t.In*base.Rank || len(b) == 0 || len(b)%(n*len(list)) != 0 {
			return nil, fmt.Errorf("science: %s has %d and %d values, expected LoRAs of %d tasks", t.Name, len(a), len(b), len(list))
		}
		for k := range len(b) / n / len(list) {
			if i == 0 {
				adapters := make([]*lora.Adapter, len(list))
				for j := range adapters {
					adapters[j] = &lora.Adapter{Base: base}
				}
				out.checkpoints = append(out.checkpoints, adapters)
			}
			for j, adapter := range out.checkpoints[k] {
				at := (k*len(list) + j) * n
				adapter.Pairs = append(adapter.Pairs, lora.Pair{A: a, B: b[at : at+n : at+n]})
			}
		}
	}
	return out, nil
}

// tuneJoint tunes the rival: one LoRA, A and B, on the records of all training tasks
// together, once with each learning rate. It gives the candidates after each half of the
// steps.
func tuneJoint(ctx context.Context, c *Config, m *tuners, d *corpus, s *Split, report func(done, total int, loss float64)) ([]*lora.Adapter, error) {
	j := &c.Joint
	t, err := m.get(1, true)
	if err != nil {
		return nil, err
	}
	var candidates []*lora.Adapter
	for k, rate := range j.Rates {
		if err := t.Reset(j.Seed, nil); err != nil {
			return nil, err
		}
		o := newOrder(j.Seed, c.Records*len(s.Train))
		for i := range j.Steps {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			examples := make([]lm.Example, j.Batch)
			for k := range examples {
				at := o.next()
				examples[k] = d.train[s.Train[at/c.Records]][at%c.Records]
			}
			loss, err := t.Step(examples, rate*min(1, float64(i+1)/10)*(1-float64(i)/float64(j.Steps)))
			if err != nil {
				return nil, err
			}
			report(k*j.Steps+i+1, len(j.Rates)*j.Steps, loss)
			if i+1 == j.Steps/2 || i+1 == j.Steps {
				adapters, err := t.Adapters()
				if err != nil {
					return nil, err
				}
				candidates = append(candidates, adapters[0])
			}
		}
	}
	return candidates, nil
}
