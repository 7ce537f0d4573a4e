// Package collect makes the targets that package fit trains on: for each data set it
// tunes a LoRA of the base model (package lm) to a good point and then, in a late phase
// at a low constant rate, saves the adapter after every step (reference d.1). Its output
// is a folder a data set, which package fit reads.
package collect

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/disk"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Config is how every data set is tuned.
type Config struct {
	Rank     int     `json:"rank"`
	Alpha    float64 `json:"alpha"`
	TrainA   bool    `json:"train_a"` // false keeps every data set's A equal
	Seed     int64   `json:"seed"`    // of A and of the order of examples, for all data sets
	Batch    int     `json:"batch"`
	Steps    int     `json:"steps"` // of the first phase, with warm-up and cosine
	Rate     float64 `json:"learning_rate"`
	WarmUp   int     `json:"warm_up"`
	Late     int     `json:"late_steps"` // each is saved
	LateRate float64 `json:"late_learning_rate"`
	// MaxTokens is the longest example, prompt and answer, in the model's tokens. Longer
	// ones are left out.
	MaxTokens int `json:"max_tokens"`
	// DType is the base's precision, lm.F32 or lm.BF16.
	DType string `json:"dtype"`
	// Start is the SHA-256 of the matrices of the LoRA that every data set is tuned from
	// (SetStart), "" for a new one: A from the seed and B zero.
	Start string `json:"start,omitempty"`
	start *lora.Adapter
}

// SetStart has every data set tuned from a LoRA: an adapter in PEFT's format, or the last
// checkpoint of a folder that Run wrote for a data set.
func (c *Config) SetStart(dir string) error {
	var a *lora.Adapter
	_, err := os.Stat(filepath.Join(dir, "checkpoints"))
	if err == nil {
		a, _, err = Last(dir)
	} else {
		a, err = lora.ReadPEFT(dir)
	}
	if err != nil {
		return fmt.Errorf("LoRA to start from: %w", err)
	}
	sum := sha256.New()
	for _, p := range a.Pairs {
		for _, m := range [][]float32{p.A, p.B} {
			if err := binary.Write(sum, binary.LittleEndian, m); err != nil {
				return err
			}
		}
	}
	c.Start, c.start = hex.EncodeToString(sum.Sum(nil)), a
	return nil
}

// Defaults is the recipe of the shipped generator.
func Defaults() Config {
	return Config{Rank: 8, Alpha: 16, TrainA: false, Seed: 999, Batch: 8, Steps: 40, Rate: 3e-3, WarmUp: 4, Late: 12, LateRate: 3e-4, MaxTokens: 256, DType: lm.F32}
}

// Validate returns all that is wrong, joined.
func (c *Config) Validate() error {
	var all []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	check(c.Rank > 0 && c.Rank <= 1024, "rank is %d, expected 1 to 1024", c.Rank)
	check(c.Alpha > 0 && !math.IsInf(c.Alpha, 0), "alpha is %v, expected a positive number", c.Alpha)
	check(c.Batch > 0 && c.Batch <= 1024, "batch is %d, expected 1 to 1024", c.Batch)
	check(c.Steps > 0 && c.WarmUp >= 0 && c.WarmUp < c.Steps, "steps %d and warm-up %d, expected more steps than warm-up", c.Steps, c.WarmUp)
	check(c.Late > 0, "late steps are %d, expected at least 1: they are what is saved", c.Late)
	check(c.Rate > 0 && c.Rate < 1 && c.LateRate > 0 && c.LateRate < 1, "learning rates %v and %v, expected numbers between 0 and 1", c.Rate, c.LateRate)
	check(c.MaxTokens >= 8 && c.MaxTokens <= 1<<16, "max tokens is %d, expected 8 to %d", c.MaxTokens, 1<<16)
	check(c.DType == lm.F32 || c.DType == lm.BF16, "dtype is %q, expected %s or %s", c.DType, lm.F32, lm.BF16)
	check((c.Start != "") == (c.start != nil), "start is %q, and a LoRA to start from is there: %v", c.Start, c.start != nil)
	return errors.Join(all...)
}

// Examples tokenises records for a model; those of more than maxTokens are left out and
// counted.
func Examples(m *lm.Model, records []Record, maxTokens int) (examples []lm.Example, dropped int, err error) {
	for _, r := range records {
		var e lm.Example
		if e.Prompt, err = m.Prompt(r.System, r.Question()); err != nil {
			return nil, 0, err
		}
		if e.Answer, err = m.Answer(r.Response); err != nil {
			return nil, 0, err
		}
		if e.Tokens() > maxTokens {
			dropped++
			continue
		}
		examples = append(examples, e)
	}
	return examples, dropped, nil
}

// ExamplesOf are the examples of data sets by their names. note hears of records that are
// left out; a data set with none left is an error.
func ExamplesOf(m *lm.Model, sets []*DataSet, maxTokens int, note func(string)) (map[string][]lm.Example, error) {
	all := map[string][]lm.Example{}
	var wrong []error
	for _, s := range sets {
		examples, dropped, err := Examples(m, s.Records, maxTokens)
		if err != nil {
			return nil, fmt.Errorf("data set %s: %w", s.Name, err)
		}
		if len(examples) == 0 {
			wrong = append(wrong, fmt.Errorf("data set %s: no record of at most %d tokens: raise max_tokens (--max-tokens)", s.Name, maxTokens))
		} else if dropped > 0 {
			note(fmt.Sprintf("data set %s: %d of %d records have more than %d tokens and were left out", s.Name, dropped, len(s.Records), maxTokens))
		}
		all[s.Name] = examples
	}
	return all, errors.Join(wrong...)
}

// Record of a data set's run: collect.json.
type run struct {
	Config Config `json:"config"`
	Base   string `json:"base"`
	// What a PEFT adapter does not say of its base, and one in GGUF has to.
	Architecture string `json:"architecture,omitempty"`
	Heads        int    `json:"heads,omitempty"`
	KVHeads      int    `json:"kv_heads,omitempty"`

	Data    string    `json:"data"` // SHA-256 of the data set's records
	Used    int       `json:"examples"`
	Dropped int       `json:"dropped"`
	Loss    []float64 `json:"loss"`
	Seconds float64   `json:"seconds"`
	Tokens  int       `json:"tokens"`
}

const runName = "collect.json"

// Run tunes a LoRA for every data set and writes OUT/NAME for each: adapter_config.json,
// checkpoints/000001.safetensors and on, prompts.json, collect.json. A data set appears
// whole or not at all; those that are there from a run of the same configuration
// and data are skipped, and one whose first phase takes minutes goes on within it, so a
// collection that was stopped goes on and comes to the same bytes.
//
// models are the same base, loaded once for each device: they share the data sets, and
// what each data set comes to does not depend on it.
func Run(ctx context.Context, c Config, models []*lm.Model, sets []*DataSet, out string, report func(Progress)) error {
	if report == nil {
		report = func(Progress) {}
	}
	if len(models) == 0 {
		return errors.New("collect: no model, expected one a device")
	}
	jobs, err := prepare(&c, models[0], sets, out)
	if err != nil {
		return err
	}
	p := &pace{steps: c.Steps + c.Late, sets: len(sets), devices: len(models), report: report}
	todo := make(chan *job, len(jobs))
	for _, j := range jobs {
		if j.done {
			p.skip(j)
			// Of a run that was killed before it could.
			if err := removeState(statePath(out, j.set.Name)); err != nil {
				return err
			}
			continue
		}
		p.left += p.steps
		if j.stopped != nil {
			p.skipped += len(j.stopped.Loss)
			p.left -= len(j.stopped.Loss)
		}
		todo <- j
	}
	close(todo)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, m := range models {
		group.Go(func() {
			if err := work(ctx, &c, m, todo, out, p); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// work tunes data sets on one device until none is left.
func work(ctx context.Context, c *Config, m *lm.Model, todo <-chan *job, out string, p *pace) error {
	var t *lm.Tuner
	for j := range todo {
		if t == nil {
			var err error
			if t, err = m.NewTuner(c.Rank, c.Alpha, c.TrainA); err != nil {
				return err
			}
			defer t.Close()
		}
		state := statePath(out, j.set.Name)
		err := atomicfile.Dir(filepath.Join(out, j.set.Name), false, func(tmp string) error { return one(ctx, c, m, t, j, tmp, state, p) })
		if err != nil {
			return err
		}
		if err := removeState(state); err != nil {
			return err
		}
	}
	return nil
}

// job is a data set, ready to be tuned.
type job struct {
	set      *DataSet
	number   int // from 1
	examples []lm.Example
	dropped  int
	done     bool // there already
	stopped  *run // where it goes on; nil is from the start
}

// prepare tokenises the data sets and checks everything that can be wrong with them, the
// configuration and what is in the folder; all of it comes back in one error.
func prepare(c *Config, m *lm.Model, sets []*DataSet, out string) ([]*job, error) {
	all := []error{c.Validate()}
	var jobs []*job
	names := map[string]bool{}
	left := 0
	for i, s := range sets {
		if names[s.Name] {
			all = append(all, fmt.Errorf("data set %s is given twice", s.Name))
		}
		names[s.Name] = true
		j := &job{set: s, number: i + 1}
		var err error
		if j.examples, j.dropped, err = Examples(m, s.Records, c.MaxTokens); err != nil {
			return nil, err
		}
		if len(j.examples) < c.Batch {
			all = append(all, fmt.Errorf("data set %s: %d usable examples, a batch takes %d (%d have more than %d tokens)", s.Name, len(j.examples), c.Batch, j.dropped, c.MaxTokens))
		}
		if j.done, err = finished(filepath.Join(out, s.Name), c, m.Config.Model, s); err != nil {
			all = append(all, fmt.Errorf("data set %s: %w", s.Name, err))
		}
		if !j.done {
			left++
			if j.stopped, err = readState(statePath(out, s.Name), c, m.Config.Model, s); err != nil {
				all = append(all, fmt.Errorf("data set %s: %w", s.Name, err))
			}
		}
		jobs = append(jobs, j)
	}
	if a := c.start; a != nil {
		if a.Base.Rank != c.Rank || a.Base.Alpha != c.Alpha {
			all = append(all, fmt.Errorf("the LoRA to start from has rank %d and alpha %v, the configuration %d and %v", a.Base.Rank, a.Base.Alpha, c.Rank, c.Alpha))
		}
		if err := m.Fits(a); err != nil {
			all = append(all, fmt.Errorf("the LoRA to start from: %w", err))
		}
	}
	base := m.Config.Base(c.Rank, c.Alpha)
	if err := base.Validate(); c.Rank > 0 && err != nil {
		all = append(all, err)
	}
	if err := disk.Check(out, int64(left)*int64(max(c.Late, 0))*adapterBytes(&base)); err != nil {
		all = append(all, fmt.Errorf("%d data sets with %d checkpoints: %w", left, c.Late, err))
	}
	return jobs, errors.Join(all...)
}

// adapterBytes is the size of a checkpoint's values.
func adapterBytes(b *lora.Base) int64 {
	n := int64(0)
	for _, t := range b.Targets {
		n += int64(b.Rank) * int64(t.In+t.Out)
	}
	return 4 * n
}

// one tunes one data set into a temporary folder, from the state on if it was stopped.
func one(ctx context.Context, c *Config, m *lm.Model, t *lm.Tuner, j *job, dir, state string, p *pace) error {
	started := time.Now()
	s, examples := j.set, j.examples
	if err := os.MkdirAll(filepath.Join(dir, "checkpoints"), 0o755); err != nil {
		return err
	}
	if c.start == nil {
		t.Reset(c.Seed)
	} else if err := t.Continue(c.start); err != nil {
		return err
	}
	data, err := s.digest()
	if err != nil {
		return err
	}
	r := run{Config: *c, Base: m.Config.Model, Data: data, Used: len(examples), Dropped: j.dropped}
	if j.stopped != nil {
		r = *j.stopped
		if err := restore(state, t, &r); err != nil {
			return err
		}
	}
	r.Architecture, r.Heads, r.KVHeads = m.Config.Architecture, m.Config.Heads, m.Config.KVHeads
	before, kept := r.Seconds, time.Now()
	for step, order := range c.Batches(len(examples)) {
		if step < len(r.Loss) {
			continue
		}
		stop := ctx.Err()
		if n := len(r.Loss); n > 0 && n <= c.Steps && (stop != nil || time.Since(kept) >= stateAfter) {
			r.Seconds, kept = before+time.Since(started).Seconds(), time.Now()
			if err := writeState(state, t, &r); err != nil {
				return errors.Join(stop, err)
			}
		}
		if stop != nil {
			return stop
		}
		items := make([]lm.Example, c.Batch)
		tokens := 0
		for i, k := range order {
			items[i] = examples[k]
			tokens += items[i].Tokens()
		}
		began := time.Now()
		loss, err := t.Step(items, c.LearningRate(step))
		if err != nil {
			return fmt.Errorf("data set %s: %w", s.Name, err)
		}
		r.Loss = append(r.Loss, loss)
		r.Tokens += tokens
		p.step(j, step+1, loss, tokens, time.Since(began))
		if step >= c.Steps {
			if err := save(t, dir, step-c.Steps+1); err != nil {
				return err
			}
		}
	}
	prompts := make([]map[string]string, len(s.Records))
	for i, record := range s.Records {
		prompts[i] = map[string]string{"prompt": record.Prompt}
	}
	r.Seconds = before + time.Since(started).Seconds()
	if err := atomicfile.Write(filepath.Join(dir, "prompts.json"), atomicfile.JSON(prompts)); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, runName), atomicfile.JSON(r))
}

// Batches are the numbers of the examples, of n, of each step: all in random order, then
// all again.
func (c *Config) Batches(n int) [][]int {
	rng := rand.New(rand.NewPCG(uint64(c.Seed), 0xDA7A))
	var order []int
	list := make([][]int, c.Steps+c.Late)
	for i := range list {
		if len(order) < c.Batch {
			order = append(order, rng.Perm(n)...)
		}
		list[i], order = order[:c.Batch:c.Batch], order[c.Batch:]
	}
	return list
}

// LearningRate is a step's, from 0: warm-up and cosine in the first phase, constant in the
// late one.
func (c *Config) LearningRate(step int) float64 {
	if step >= c.Steps {
		return c.LateRate
	}
	warm := math.Min(1, float64(step+1)/math.Max(1, float64(c.WarmUp)))
	return c.Rate * warm * (1 + math.Cos(math.Pi*float64(step)/float64(c.Steps))) / 2
}

// save writes the adapter after a late step; the first one brings the config.
func save(t *lm.Tuner, dir string, n int) error {
	a, err := t.Adapter()
	if err != nil {
		return err
	}
	files, err := lora.Files(a, lora.Options{Format: lora.PEFT, DType: safetensors.F32})
	if err != nil {
		return err
	}
	for _, f := range files {
		path := ""
		switch {
		case f.Name == "adapter_model.safetensors":
			path = filepath.Join(dir, "checkpoints", fmt.Sprintf("%06d.safetensors", n))
		case f.Name == "adapter_config.json" && n == 1:
			path = filepath.Join(dir, f.Name)
		default:
			continue
		}
		if err := atomicfile.Write(path, func(w io.Writer) error { return f.Write(w) }); err != nil {
			return err
		}
	}
	return nil
}

// finished says whether dir holds this data set from a run of the same configuration,
// base and records.
func finished(dir string, c *Config, base string, s *DataSet) (bool, error) {
	raw, err := os.ReadFile(filepath.Join(dir, runName))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(dir); err == nil {
			return false, fmt.Errorf("%s exists, but no finished collection is in it: remove it", dir)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r := run{Config: Config{DType: lm.F32}} // of before there was a choice
	if err := json.Unmarshal(raw, &r); err != nil {
		return false, fmt.Errorf("%s: %w", filepath.Join(dir, runName), err)
	}
	if err := r.same(dir, c, base, s); err != nil {
		return false, err
	}
	return true, nil
}

// same is nil for the record of a run with a configuration, a base and records.
func (r *run) same(path string, c *Config, base string, s *DataSet) error {
	data, err := s.digest()
	if err != nil {
		return err
	}
	there := r.Config
	there.start = c.start
	for _, x := range []struct {
		what string
		same bool
	}{{"configuration", there == *c}, {"base model", r.Base == base}, {"version of the data", r.Data == data}} {
		if !x.same {
			return fmt.Errorf("%s is from another %s: choose another folder, or remove it", path, x.what)
		}
	}
	return nil
}
