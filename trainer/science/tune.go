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
	train  map[Task][]lm.Example
	seen   map[Task][]lm.Example // for scoring
	unseen map[Task][]lm.Example // for scoring, in unseen wording
}

func newCorpus(c *Config) (*corpus, error) {
	v := newVocabulary()
	d := &corpus{map[Task][]lm.Example{}, map[Task][]lm.Example{}, map[Task][]lm.Example{}}
	for i, t := range tasks(c.Values) {
		// Tuning reads the same nouns for every task: what differs is the task.
		for _, part := range []struct {
			to      map[Task][]lm.Example
			records []Record
		}{{d.train, t.records(seedRecords, c.Records, false)},
			{d.seen, t.records(seedTest+int64(i), c.TestItems, false)},
			{d.unseen, t.records(seedTest+1000+int64(i), c.TestItems, true)}} {
			var err error
			if part.to[t], err = v.examples(part.records); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func gather(from map[Task][]lm.Example, list []Task) [][]lm.Example {
	out := make([][]lm.Example, len(list))
	for i, t := range list {
		out[i] = from[t]
	}
	return out
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

// tune makes a collection. First A is tuned with all training tasks' Bs, which are then
// forgotten: then every task's own B, with that A. So all LoRAs stand in one coordinate
// system, without which weights do not compose.
func tune(ctx context.Context, c *Config, m *lm.Model, d *corpus, s *Split, report func(done, total int, loss float64)) (*collection, error) {
	l := &c.LoRA
	total := l.SharedSteps + l.Steps
	shared, err := m.NewGroupTuner(len(s.Train), l.Rank, l.Alpha, true, size)
	if err != nil {
		return nil, err
	}
	defer shared.Close()
	if err := shared.Reset(l.Seed, nil); err != nil {
		return nil, err
	}
	o := newOrder(l.Seed, c.Records)
	step := func(t *lm.GroupTuner, list []Task, batch int, rate float64) (float64, error) {
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
	for i := range l.SharedSteps {
		loss, err := step(shared, s.Train, l.Batch/2, l.SharedRate)
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
	own, err := m.NewGroupTuner(len(out.tasks), l.Rank, l.Alpha, false, size)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if err := own.Reset(l.Seed, first[0]); err != nil {
		return nil, err
	}
	for i := range l.Steps {
		late := i - (l.Steps - l.Late)
		rate := l.Rate * min(1, float64(i+1)/10)
		if late >= 0 {
			rate *= 0.3
		}
		loss, err := step(own, out.tasks, l.Batch, rate)
		if err != nil {
			return nil, err
		}
		if late >= 0 && (l.Steps-1-i)%l.SaveEvery == 0 {
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
func tuneJoint(ctx context.Context, c *Config, m *lm.Model, d *corpus, s *Split, report func(done, total int, loss float64)) ([]*lora.Adapter, error) {
	j := &c.Joint
	t, err := m.NewGroupTuner(1, c.LoRA.Rank, c.LoRA.Alpha, true, size)
	if err != nil {
		return nil, err
	}
	defer t.Close()
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
