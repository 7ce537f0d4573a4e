// Package eval measures what generated adapters do to their base model on tasks that the
// generator was not fitted on, beside the rivals that they have to beat: the base alone,
// instructed and with examples; the training tasks' LoRAs, alone and added up; a joint
// LoRA; one tuned on the task itself. Exact match, likelihood of the right option and
// likelihood of the answer stand side by side, since format alone moves the first.
//
// Every score is a cell: a method, a task, and of what the method was made. Cells are
// written as they come, so that a run that was killed goes on.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// The methods, in the order of the tables.
const (
	Base       = "base"
	Instructed = "base, format spelled out"
	FewShot    = "base, examples in the prompt"
	TrainMean  = "mean training LoRA"
	TrainBest  = "best training LoRA (picked on the test)"
	Average    = "weight average"
	Nearest    = "nearest training task"
	Additive   = "additive (true attributes)"
	Ridge      = "ridge"
	Joint      = "joint LoRA"
	RidgeJoint = "ridge, averaged with the joint LoRA"
	Foreign    = "generated, foreign prompts"
	Shuffled   = "generated, shuffled prompts"
	Generated  = "generated"
	Own        = "own-task LoRA"
)

// Methods are all of them.
var Methods = []string{Base, Instructed, FewShot, TrainMean, TrainBest, Average, Nearest, Additive, Ridge, Joint, RidgeJoint, Foreign, Shuffled, Generated, Own}

// Adapters are those that add one to the base.
var Adapters = Methods[slices.Index(Methods, TrainMean):]

// Task is what methods are scored on.
type Task struct {
	Name    string
	Records []collect.Record
	// Prompts are those that conditions are drawn from; nil for the records'.
	Prompts []string
	// Examples are records of the task that are not scored, for few-shot prompts.
	Examples []collect.Record
	System   string // spells the format of answers out
	// Attributes are what the task is composed of.
	Attributes []string
}

// Trained is a task whose LoRA package collect has tuned.
type Trained struct {
	Name       string
	Dir        string // as package collect writes it
	Prompts    []string
	Attributes []string
}

// Inputs are what is compared. Methods whose inputs are missing are left out, with the
// reason in Result.Left.
type Inputs struct {
	Model   *lm.Model
	Package *generator.Package
	Runner  generator.Runner

	Tasks      []Task
	Validation []Task    // the ridge's strength is chosen on them
	Training   []Trained // what the generator was fitted on
	Own        []Trained // of Tasks, by name
	Joint      *Trained
}

// Config is how much is scored.
type Config struct {
	Records int `json:"records"` // of each task; 0 is all
	// Cross is how many of them each training LoRA is scored on.
	Cross int   `json:"cross_records"`
	Draws int   `json:"draws"` // of prompts
	Shots int   `json:"shots"` // examples in few-shot prompts
	Seed  int64 `json:"seed"`
	// Methods are those that are scored; none is all whose inputs are there.
	Methods []string `json:"methods,omitempty"`
	// Scale multiplies the alpha of every adapter but the own-task LoRA; 0 is 1.
	Scale float64 `json:"scale,omitempty"`
}

// Defaults is the reference's number of draws, and all records.
func Defaults() Config { return Config{Cross: 64, Draws: 10, Shots: 4} }

// maxTokens is the longest example that is scored, in the base model's tokens.
const maxTokens = 1024

// Validate returns all that is wrong, joined.
func (c *Config) Validate() error {
	var all []error
	for _, v := range []struct {
		name     string
		n, least int
	}{{"records", c.Records, 0}, {"cross records", c.Cross, 1}, {"draws", c.Draws, 1}, {"shots", c.Shots, 1}} {
		if v.n < v.least {
			all = append(all, fmt.Errorf("%s: %d, expected at least %d", v.name, v.n, v.least))
		}
	}
	if !(c.Scale >= 0) || math.IsInf(c.Scale, 1) {
		all = append(all, fmt.Errorf("scale: %v, expected a number above 0", c.Scale))
	}
	for _, m := range c.Methods {
		if !slices.Contains(Methods, m) {
			all = append(all, fmt.Errorf("method %q (--method), expected one of %q", m, Methods))
		}
	}
	return errors.Join(all...)
}

// Progress is how far a run is, in cells.
type Progress struct {
	Task, Method string
	Done, Total  int
}

// Run scores every method on every task. dir keeps the cells; a run of the same inputs and
// configuration goes on there, one of others is refused. With dir "" nothing is kept.
func Run(ctx context.Context, c Config, in Inputs, dir string, report func(Progress)) (*Result, error) {
	if report == nil {
		report = func(Progress) {}
	}
	e := &evaluation{c: &c, in: &in}
	if err := errors.Join(c.Validate(), e.check()); err != nil {
		return nil, err
	}
	store, err := openCells(dir, e.record())
	if err != nil {
		return nil, err
	}
	defer store.close()
	left := e.left()
	var plan []cell
	for i := range in.Tasks {
		for _, method := range Methods {
			if _, ok := left[method]; ok || method == TrainBest {
				continue // the best training LoRA is one of those of the mean
			}
			for _, of := range e.variants(method) {
				plan = append(plan, cell{Method: method, Task: in.Tasks[i].Name, Of: of})
			}
		}
	}
	if left[Ridge] == "" || left[RidgeJoint] == "" {
		if err := e.chooseRidge(ctx, store, report, len(plan)); err != nil {
			return nil, err
		}
	}
	for i, k := range plan {
		report(Progress{k.Task, k.Method, i, len(plan)})
		if _, err := e.cell(ctx, store, k, e.task(k.Task)); err != nil {
			return nil, err
		}
	}
	report(Progress{Done: len(plan), Total: len(plan)})
	return e.result(store, left), nil
}

// evaluation is a run.
type evaluation struct {
	c        *Config
	in       *Inputs
	features [][]float64 // of the training tasks
	strength float64     // of the ridge
}

func (e *evaluation) task(name string) *Task {
	for i := range e.in.Tasks {
		if e.in.Tasks[i].Name == name {
			return &e.in.Tasks[i]
		}
	}
	return nil
}

// check is all that is wrong with the inputs, joined.
func (e *evaluation) check() error {
	in := e.in
	var all []error
	if len(in.Tasks) == 0 {
		all = append(all, errors.New("eval: no task"))
	}
	seen := map[string]bool{}
	for _, t := range in.Tasks {
		if seen[t.Name] {
			all = append(all, fmt.Errorf("eval: task %s is given twice", t.Name))
		}
		seen[t.Name] = true
		if len(t.Records) == 0 {
			all = append(all, fmt.Errorf("eval: task %s: no record", t.Name))
		}
	}
	for _, t := range in.Training {
		if seen[t.Name] {
			all = append(all, fmt.Errorf("eval: task %s is scored, but the generator was fitted on it", t.Name))
		}
	}
	made := in.Package.Manifest.Base
	fits := func(what string, rank int, alpha float64) {
		want := in.Model.Config.Base(rank, alpha)
		if err := sameTargets(made.Targets, want.Targets); err != nil {
			all = append(all, fmt.Errorf("eval: %s: %w", what, err))
		}
	}
	fits("the generator is for another base", made.Rank, made.Alpha)
	for _, t := range e.trained() {
		a, err := lastOf(t.Dir)
		if err != nil {
			all = append(all, fmt.Errorf("eval: LoRA of %s: %w", t.Name, err))
			continue
		}
		if err := sameTargets(a.Base.Targets, made.Targets); err != nil || a.Base.Rank != made.Rank || a.Base.Alpha != made.Alpha {
			all = append(all, fmt.Errorf("eval: LoRA of %s has rank %d and alpha %v, the generator's %d and %v (%w)", t.Name, a.Base.Rank, a.Base.Alpha, made.Rank, made.Alpha, err))
		}
	}
	return errors.Join(all...)
}

// trained are all LoRAs that are read.
func (e *evaluation) trained() []Trained {
	list := append(append([]Trained{}, e.in.Training...), e.in.Own...)
	if e.in.Joint != nil {
		list = append(list, *e.in.Joint)
	}
	return list
}

// left are the methods that lack their inputs, with the reason.
func (e *evaluation) left() map[string]string {
	in, left := e.in, map[string]string{}
	if len(in.Training) < 2 {
		for _, m := range []string{TrainMean, TrainBest, Average, Nearest, Additive, Ridge, RidgeJoint} {
			left[m] = "it needs the LoRAs of at least two training tasks"
		}
		left[Shuffled] = "it needs the prompts of training tasks"
	}
	if len(in.Validation) == 0 {
		left[Ridge] = "its strength is chosen on validation tasks, and there are none"
	}
	if in.Joint == nil {
		left[Joint] = "no joint LoRA was given"
	}
	if len(in.Tasks) < 2 {
		left[Foreign] = "it needs a second task"
	}
	for _, t := range in.Tasks {
		if t.System == "" {
			left[Instructed] = "task " + t.Name + " has no text that spells its format out"
		}
		if len(t.Examples) < e.c.Shots {
			left[FewShot] = "task " + t.Name + " has no records to take examples of"
		}
		if find(in.Own, t.Name) == nil {
			left[Own] = "no LoRA was tuned on task " + t.Name
		}
		if len(t.Attributes) == 0 {
			left[Additive] = "task " + t.Name + " has no attributes"
		}
	}
	for _, t := range in.Training {
		if len(t.Attributes) == 0 {
			left[Additive] = "training task " + t.Name + " has no attributes"
		}
		if len(t.Prompts) == 0 {
			left[Shuffled] = "training task " + t.Name + " has no prompts"
		}
	}
	for _, m := range []string{Ridge, Joint} {
		if why, ok := left[m]; ok {
			left[RidgeJoint] = why
		}
	}
	for _, m := range Methods {
		if len(e.c.Methods) > 0 && !slices.Contains(e.c.Methods, m) {
			left[m] = "it was not asked for"
		}
	}
	return left
}

func find(list []Trained, name string) *Trained {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// rivalDraws is the most draws of prompts that rivals are scored with.
const rivalDraws = 3

// variants are what a method's cells of one task are made of.
func (e *evaluation) variants(method string) []string {
	if method == TrainMean {
		var names []string
		for _, t := range e.in.Training {
			names = append(names, t.Name)
		}
		return names
	}
	if !drawn(method) {
		return []string{""}
	}
	n := e.c.Draws
	if method != Generated {
		n = min(n, rivalDraws)
	}
	var draws []string
	for d := range n {
		draws = append(draws, strconv.Itoa(d))
	}
	return draws
}

// drawn are the methods whose cells are draws of the task's prompts.
func drawn(method string) bool {
	return slices.Contains([]string{Generated, Ridge, RidgeJoint, Nearest}, method)
}
