// Package experiment is a whole training of generators as one plan that can be stopped at
// any moment: LoRA checkpoints of all tasks, a joint LoRA for each split of the tasks,
// generators of several seeds fitted on it, and their evaluation on the tasks that the
// split keeps from them. The stages are packages collect, fit, export and eval; this one
// only puts their folders in order.
package experiment

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/grid"
)

// Plan is a plan file.
type Plan struct {
	Model string `json:"base_model"` // Hugging Face id
	// Data is a folder with train/TASK.json, test/TASK.json and grid.json, Layout a layout
	// file; both relative to the plan.
	Data   string `json:"data"`
	Layout string `json:"layout"`
	// Tasks are those of the grid that take part; none is all.
	Tasks []string `json:"tasks,omitempty"`

	Collect collect.Config  `json:"collect"`
	Joint   collect.Config  `json:"joint"` // of the rival that all training tasks share
	Fit     json.RawMessage `json:"fit"`   // what differs from fit.Defaults
	// BasisShare is export.Options'; none is 1.
	BasisShare float64     `json:"basis_share,omitempty"`
	Eval       eval.Config `json:"eval"`
	Seeds      []int64     `json:"seeds"` // of the fits, for splits that say no others
	Splits     []Split     `json:"splits"`

	grid *grid.Grid
	fit  fit.Config
}

// Split says what generators are fitted on and measured on.
type Split struct {
	Name string `json:"name"`
	// Validation and HeldOut are kept from training; of the grid's other tasks those that
	// share a content in Without are, too.
	Validation []string `json:"validation"`
	HeldOut    []string `json:"held_out"`
	Without    []string `json:"without_contents,omitempty"`
	// Seeds are those of the split's fits; none are the plan's.
	Seeds []int64 `json:"seeds,omitempty"`
	// Scales are strengths of all adapters, beside the one that they have, that they are scored
	// at with the first seed (eval.Config.Scale).
	Scales []float64 `json:"scales,omitempty"`
}

// Read reads and checks a plan file and what it names.
func Read(path string) (*Plan, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &Plan{Collect: collect.Defaults(), Joint: collect.Defaults(), Eval: eval.Defaults()}
	if err := strict(raw, p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dir := filepath.Dir(path)
	p.Data, p.Layout = filepath.Join(dir, p.Data), filepath.Join(dir, p.Layout)
	layout, err := generator.ReadLayout(p.Layout)
	if err != nil {
		return nil, err
	}
	if p.grid, err = grid.Read(filepath.Join(p.Data, "grid.json")); err != nil {
		return nil, err
	}
	p.fit = fit.Defaults()
	if len(p.Fit) > 0 {
		if err := strict(p.Fit, &p.fit); err != nil {
			return nil, fmt.Errorf("%s: fit: %w", path, err)
		}
	}
	p.fit.SetDecoder(layout.Decoder)
	p.fit.Tiling = layout.Tiling
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// strict reads JSON in which every key is known: one that is misspelt would leave a default in a
// run of hours.
func strict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value, expected nothing")
	}
	return nil
}

// OpenEncoder opens the text encoder of the plan's generators, in Hugging Face layout. Of a
// nil plan's it does not know how long their texts are.
func (p *Plan) OpenEncoder(dir string) (*generator.Package, error) {
	if p == nil {
		return generator.OpenEncoder(dir, 1, 2)
	}
	return generator.OpenEncoder(dir, p.fit.Texts, p.fit.Length)
}

// check returns all that is wrong, joined.
func (p *Plan) check() error {
	all := []error{p.Collect.Validate(), p.Joint.Validate(), p.fit.Validate(), p.fit.CheckBasisShare(cmp.Or(p.BasisShare, 1)), p.Eval.Validate()}
	add := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if len(p.Splits) == 0 {
		add("no split, expected at least one")
	}
	if p.Joint.Rank != p.Collect.Rank || p.Joint.Alpha != p.Collect.Alpha || p.Joint.DType != p.Collect.DType || p.Joint.MaxTokens != p.Collect.MaxTokens {
		add("joint: rank, alpha, dtype or max_tokens are not those of collect")
	}
	if base := p.fit.Task.BaseDType; p.fit.Loss != fit.LossWeights && base != p.Collect.DType {
		add("fit: task.base_dtype is %q, collect's dtype %s: expected the same, they share a base", base, p.Collect.DType)
	}
	names := map[string]bool{}
	tasks := p.tasks()
	for _, s := range p.Splits {
		if names[s.Name] || s.Name == "" || strings.ContainsAny(s.Name, `/\`) || s.Name == collectedName {
			add("split %q: expected a name of its own that can be a folder's", s.Name)
		}
		names[s.Name] = true
		if len(p.seeds(&s)) == 0 {
			add("split %s: 0 seeds, expected at least one of its own or of the plan's", s.Name)
		}
		for _, scale := range s.Scales {
			if !(scale > 0) || math.IsInf(scale, 1) {
				add("split %s: scale %v, expected a number above 0", s.Name, scale)
			}
		}
		for _, t := range slices.Concat(s.Validation, s.HeldOut) {
			if !slices.Contains(tasks, t) {
				add("split %s: task %s is not in the grid", s.Name, t)
			}
		}
		for _, t := range s.Validation {
			if slices.Contains(s.HeldOut, t) {
				add("split %s: task %s is held out and for validation", s.Name, t)
			}
		}
		if err := p.fit.CheckBasis(len(p.train(&s))); err != nil {
			add("split %s: %w", s.Name, err)
		}
		if len(s.HeldOut) == 0 || len(p.train(&s)) < 2 {
			add("split %s: %d held-out and %d training tasks, expected at least one and two", s.Name, len(s.HeldOut), len(p.train(&s)))
		}
	}
	return errors.Join(all...)
}

// tasks are all of the grid's.
func (p *Plan) tasks() []string {
	all := slices.Concat(p.grid.Train, p.grid.Validation, p.grid.HeldOut)
	if len(p.Tasks) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(t string) bool { return !slices.Contains(p.Tasks, t) })
}

// train are a split's training tasks.
func (p *Plan) train(s *Split) []string {
	var list []string
	for _, t := range p.tasks() {
		kept := slices.ContainsFunc(s.Without, func(content string) bool { return slices.Contains(p.grid.Attributes(t), content) })
		if !kept && !slices.Contains(s.Validation, t) && !slices.Contains(s.HeldOut, t) {
			list = append(list, t)
		}
	}
	return list
}

// of is the grid as a split sees it.
func (p *Plan) of(s *Split) *grid.Grid {
	g := *p.grid
	g.Train, g.Validation, g.HeldOut = p.train(s), s.Validation, s.HeldOut
	return &g
}
