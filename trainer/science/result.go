package science

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// Result is what an experiment found.
type Result struct {
	Device  string             `json:"device"`
	Config  Config             `json:"config"`
	Labels  map[string]string  `json:"labels"`  // of the names of methods and conditions
	Seconds map[string]float64 `json:"seconds"` // by stage; of those kept from an earlier run, what they took then
	// Summary has a contest for each condition, over the tasks of all splits.
	Summary  []Contest `json:"summary"`
	Contests []Contest `json:"contests"` // by split

	Calibration *Calibration `json:"calibration,omitempty"`
	Cost        *Cost        `json:"cost,omitempty"`
}

// Contest is all methods on the test tasks under one condition.
type Contest struct {
	Condition string             `json:"condition"`
	Splits    []int64            `json:"splits"`
	Average   map[string]Average `json:"average"` // by method
	// Leads are by how much the generated adapters lead each rival.
	Leads   map[string]Lead `json:"leads"`
	Choices []Choices       `json:"choices"` // of each split
	Tasks   []TaskResult    `json:"tasks"`

	scores map[string][]TaskScore
}

// Choices are what the validation tasks of a split decided, and the check before it.
type Choices struct {
	Check          Check   `json:"additive_check"`
	RidgeStrength  float64 `json:"ridge_strength"`
	GeneratorSteps int     `json:"generator_steps"`
}

// TaskResult is all methods on one task.
type TaskResult struct {
	Task    string               `json:"task"`
	Split   int64                `json:"split"`
	Methods map[string]TaskScore `json:"methods"` // by name
}

// Find is the contest under a condition over all splits, nil if there was none.
func (r *Result) Find(condition string) *Contest {
	for i := range r.Summary {
		if r.Summary[i].Condition == condition {
			return &r.Summary[i]
		}
	}
	return nil
}

// add files a contest.
func (r *Result) add(split int64, condition string, list []Task, scores map[string][]TaskScore, choices Choices) {
	k := Contest{Condition: condition, Splits: []int64{split}, Choices: []Choices{choices}, scores: scores}
	for i, t := range list {
		methods := map[string]TaskScore{}
		for method, s := range scores {
			methods[method] = s[i]
		}
		k.Tasks = append(k.Tasks, TaskResult{t.String(), split, methods})
	}
	k.summarise()
	r.Contests = append(r.Contests, k)
}

func (k *Contest) summarise() {
	k.Average = averages(k.scores)
	k.Leads = map[string]Lead{}
	for method, s := range k.scores {
		if method != MethodGenerated {
			k.Leads[method] = lead(k.scores[MethodGenerated], s)
		}
	}
}

// summarise joins the contests of all splits.
func (r *Result) summarise() {
	r.Summary = nil
	for _, condition := range Conditions {
		all := Contest{Condition: condition, scores: map[string][]TaskScore{}}
		for _, k := range r.Contests {
			if k.Condition != condition {
				continue
			}
			all.Splits = append(all.Splits, k.Splits...)
			all.Choices = append(all.Choices, k.Choices...)
			all.Tasks = append(all.Tasks, k.Tasks...)
			for method, s := range k.scores {
				all.scores[method] = slices.Concat(all.scores[method], s)
			}
		}
		if len(all.Splits) > 0 {
			all.summarise()
			r.Summary = append(r.Summary, all)
		}
	}
}

func stagesDir(out string) string { return filepath.Join(out, "stages") }

// write writes result.json, result.md and result.png.
func (r *Result) write(out string) error {
	return atomicfile.Files(out, map[string]func(io.Writer) error{"result.json": atomicfile.JSON(r), "result.md": r.Markdown, "result.png": r.plot})
}

// Markdown writes a table a condition.
func (r *Result) Markdown(w io.Writer) error {
	p := &printer{w: w}
	for _, k := range r.Summary {
		p.print("### %s\n\n| method | exact match | %% of the gap |", Labels[k.Condition])
		for _, s := range k.Splits {
			p.print(" split %d |", s)
		}
		p.print(" right among %d | NLL |\n|---|---|---|---|", r.Config.options())
		for range k.Splits {
			p.print("---|")
		}
		p.print("---|\n")
		for _, method := range Methods {
			a := k.Average[method]
			deviation := ""
			if a.Deviation > 0 {
				deviation = fmt.Sprintf(" ± %.3f", a.Deviation)
			}
			p.print("| %s | %.3f%s (%.3f to %.3f) | %.0f (%.0f to %.0f) |", Labels[method], a.Exact.Value, deviation, a.Exact.Low, a.Exact.High, 100*a.Gap.Value, 100*a.Gap.Low, 100*a.Gap.High)
			for _, split := range r.Contests {
				if split.Condition == k.Condition {
					p.print(" %.3f |", split.Average[method].Exact.Value)
				}
			}
			p.print(" %.3f (%.3f to %.3f) | %.2f (%.2f to %.2f) |\n", a.Option.Value, a.Option.Low, a.Option.High, a.NLL.Value, a.NLL.Low, a.NLL.High)
		}
		p.print("\nGenerated leads")
		for i, method := range []string{MethodRidge, MethodJoint, MethodNearest, MethodAdditive} {
			if i > 0 {
				p.print(",")
			}
			l := k.Leads[method]
			p.print(" %s by %+.3f (%+.3f to %+.3f) and %.2f nats", Labels[method], l.Exact.Value, l.Exact.Low, l.Exact.High, l.NLL.Value)
		}
		p.print(".\n\n")
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) print(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}
