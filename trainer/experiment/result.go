package experiment

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// Result is what a plan came to.
type Result struct {
	Splits []SplitResult `json:"splits"`
	// Pooled is over the held-out tasks of all splits that leave no content out; nil of less
	// than two.
	Pooled *Pooled `json:"pooled,omitempty"`
}

// Pooled is what methods come to over several splits' tasks, generated with each split's
// first seed.
type Pooled struct {
	Tasks   int                    `json:"tasks"`
	Methods []string               `json:"methods"`
	Scores  map[string]PooledScore `json:"scores"`
}

// PooledScore is a method's, with intervals over tasks.
type PooledScore struct {
	Exact stats.Interval `json:"exact"`
	NLL   stats.Interval `json:"nll"` // nats an answer
	// Leads are by how much generated adapters are above it: in exact match, and in nats
	// fewer. nil where nothing was generated.
	LeadExact *stats.Interval `json:"lead_exact,omitempty"`
	LeadNLL   *stats.Interval `json:"lead_nll,omitempty"`
}

// pool scores the methods that all of the splits have.
func pool(splits []SplitResult) *Pooled {
	p := &Pooled{Scores: map[string]PooledScore{}}
	var tasks []eval.TaskResult
	n := 0
	for _, s := range splits {
		if len(s.Without) > 0 {
			continue
		}
		r := s.Seeds[0].Result
		if n++; n == 1 {
			p.Methods = slices.Clone(r.Methods)
		}
		p.Methods = slices.DeleteFunc(p.Methods, func(m string) bool { return !slices.Contains(r.Methods, m) })
		tasks = append(tasks, r.Tasks...)
	}
	if n < 2 {
		return nil
	}
	p.Tasks = len(tasks)
	mean := func(value func(t eval.TaskResult) float64) stats.Interval {
		var values []float64
		for _, t := range tasks {
			values = append(values, value(t))
		}
		return stats.Mean(values)
	}
	for _, m := range p.Methods {
		exact := func(t eval.TaskResult) float64 { return t.Scores[m].Exact.Value }
		nll := func(t eval.TaskResult) float64 { return t.Scores[m].NLL.Value }
		s := PooledScore{Exact: mean(exact), NLL: mean(nll)}
		if m != eval.Generated && slices.Contains(p.Methods, eval.Generated) {
			above := mean(func(t eval.TaskResult) float64 { return t.Scores[eval.Generated].Exact.Value - exact(t) })
			fewer := mean(func(t eval.TaskResult) float64 { return nll(t) - t.Scores[eval.Generated].NLL.Value })
			s.LeadExact, s.LeadNLL = &above, &fewer
		}
		p.Scores[m] = s
	}
	return p
}

// markdown writes the pooled table.
func (p *Pooled) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## Over all splits\n\nThe %d held-out tasks of the splits that leave no content out, each split's first seed.\n\n", p.Tasks)
	b.WriteString("| method | exact match | nats an answer | lead of generated | in nats fewer |\n|---|---|---|---|---|\n")
	for _, m := range p.Methods {
		s := p.Scores[m]
		exact, nll := "–", "–"
		if s.LeadExact != nil {
			exact, nll = s.LeadExact.Text(3), s.LeadNLL.Text(2)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", m, s.Exact.Text(3), s.NLL.Text(2), exact, nll)
	}
	b.WriteString("\nIn brackets: 95 % intervals, over tasks.\n\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// SplitResult is one split's: its first seed has the rivals' scores, too.
type SplitResult struct {
	Split
	Train []string     `json:"train"`
	Seeds []SeedResult `json:"seeds"`
}

// SeedResult is one generator's.
type SeedResult struct {
	Seed   int64        `json:"seed"`
	Result *eval.Result `json:"result"`
	// Scaled are at the split's Scales, of its first seed.
	Scaled []*eval.Result `json:"scaled,omitempty"`
}

// write writes result.json and result.md.
func (r *Result) write(dir string) error {
	return atomicfile.Files(dir, map[string]func(io.Writer) error{"result.json": atomicfile.JSON(r), "result.md": r.Markdown})
}

// Markdown writes the table over all splits, each split's tables, and exact match and
// likelihood by seed.
func (r *Result) Markdown(w io.Writer) error {
	if r.Pooled != nil {
		if err := r.Pooled.markdown(w); err != nil {
			return err
		}
	}
	for _, s := range r.Splits {
		if _, err := fmt.Fprintf(w, "## %s\n\nHeld out: %s. For choices: %s. Trained: %d tasks.\n\n", s.Name, strings.Join(s.HeldOut, ", "), strings.Join(s.Validation, ", "), len(s.Train)); err != nil {
			return err
		}
		if err := s.Seeds[0].Result.Markdown(w); err != nil {
			return err
		}
		for _, x := range s.Seeds[0].Scaled {
			fmt.Fprintf(w, "\n### %s, adapters at %g of their strength\n\n", s.Name, x.Config.Scale)
			if err := x.Markdown(w); err != nil {
				return err
			}
		}
		fmt.Fprintf(w, "\n| seed | generated, exact match | nats an answer | foreign prompts, exact match | nats |\n|---|---|---|---|---|\n")
		var exact []float64
		for _, x := range s.Seeds {
			g, f := x.Result.Average[eval.Generated], x.Result.Average[eval.Foreign]
			exact = append(exact, g.Exact.Value)
			fmt.Fprintf(w, "| %d | %.3f | %.2f | %.3f | %.2f |\n", x.Seed, g.Exact.Value, g.NLL.Value, f.Exact.Value, f.NLL.Value)
		}
		if _, err := fmt.Fprintf(w, "\nDeviation of exact match over seeds: %.3f.\n\n", stats.Deviation(exact)); err != nil {
			return err
		}
	}
	return nil
}
