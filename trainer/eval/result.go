package eval

import (
	"fmt"
	"io"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// Score is a method's on a task, or over tasks, with intervals over records and tasks.
type Score struct {
	Exact stats.Interval `json:"exact"`
	NLL   stats.Interval `json:"nll"` // nats an answer
	// Option is the share of records whose right answer is likelier than the task's other
	// answers; nil where answers are free.
	Option *stats.Interval `json:"option,omitempty"`
	// Deviation is that of exact match over draws of prompts; 0 without draws.
	Deviation float64 `json:"deviation,omitempty"`
	// Gap is how much of the way from the mean training LoRA's exact match to the own-task
	// LoRA's is gone; nil where there is no such way.
	Gap *float64 `json:"gap_closed,omitempty"`
}

// TaskResult is one task's.
type TaskResult struct {
	Task    string           `json:"task"`
	Records int              `json:"records"`
	Scores  map[string]Score `json:"scores"`
}

// Result is what Run measured.
type Result struct {
	Config   Config            `json:"config"`
	Methods  []string          `json:"methods"`
	Tasks    []TaskResult      `json:"tasks"`
	Average  map[string]Score  `json:"average"`
	Left     map[string]string `json:"left_out,omitempty"` // methods, with the reason
	Strength float64           `json:"ridge_strength,omitempty"`
	// Leads are by how much the generated adapters' exact match exceeds a method's on the
	// same records.
	Leads map[string]stats.Interval `json:"leads"`
	Cost  *Cost                     `json:"cost,omitempty"`
}

// column is a method's cells of one task.
type column []cell

// means are each record's exact match and likelihood over the cells, and whether the first
// of them prefers the right option.
func (k column) means() (exact, nll, option []float64) {
	n := len(k[0].NLL)
	exact, nll = make([]float64, n), make([]float64, n)
	for _, yes := range k[0].Option {
		option = append(option, float64(yes-'0'))
	}
	for _, x := range k {
		part := 1 / float64(len(k))
		for i := range n {
			nll[i] += part * x.NLL[i]
			exact[i] += part * float64(x.Exact[i]-'0')
		}
	}
	return exact, nll, option
}

func mean(v []float64) float64 {
	s := 0.0
	for _, x := range v {
		s += x / float64(len(v))
	}
	return s
}

// columns are a task's cells by method. The best training LoRA is the one of most exact
// matches, then likelihood, on these very records.
func (e *evaluation) columns(s *cells, task string, left map[string]string) map[string]column {
	all := map[string]column{}
	for _, method := range Methods {
		if _, ok := left[method]; ok || method == TrainBest {
			continue
		}
		var k column
		for _, of := range e.variants(method) {
			one := cell{Method: method, Task: task, Of: of}
			k = append(k, s.list[one.key()])
		}
		all[method] = k
		if method != TrainMean {
			continue
		}
		best := k[0]
		for _, x := range k[1:] {
			if a, b := x.score(), best.score(); a.Exact > b.Exact || a.Exact == b.Exact && a.NLL < b.NLL {
				best = x
			}
		}
		all[TrainBest] = column{best}
	}
	return all
}

func (e *evaluation) result(s *cells, left map[string]string) *Result {
	r := &Result{Config: *e.c, Left: left, Strength: s.strength, Average: map[string]Score{}, Leads: map[string]stats.Interval{}}
	for _, m := range Methods {
		if _, ok := left[m]; !ok {
			r.Methods = append(r.Methods, m)
		}
	}
	var tasks []map[string]column
	for _, t := range e.in.Tasks {
		k := e.columns(s, t.Name, left)
		tasks = append(tasks, k)
		one := TaskResult{Task: t.Name, Scores: map[string]Score{}}
		for m, c := range k {
			one.Scores[m] = over([]column{c})
			one.Records = max(one.Records, len(c[0].NLL))
		}
		gaps(one.Scores)
		r.Tasks = append(r.Tasks, one)
	}
	pick := func(method string) []column {
		var list []column
		for _, k := range tasks {
			list = append(list, k[method])
		}
		return list
	}
	for _, m := range r.Methods {
		r.Average[m] = over(pick(m))
		if _, ok := left[Generated]; !ok && m != Generated {
			r.Leads[m] = lead(pick(Generated), pick(m))
		}
	}
	gaps(r.Average)
	return r
}

// over is a method's score over tasks; of one task, over its records.
func over(list []column) Score {
	var exact, nll, option [][]float64
	draws := make([]float64, len(list[0]))
	for _, c := range list {
		x, y, z := c.means()
		exact, nll = append(exact, x), append(nll, y)
		if z != nil {
			option = append(option, z)
		}
		for d := range min(len(draws), len(c)) {
			draws[d] += share(c[d].Exact) / float64(len(list))
		}
	}
	s := Score{Exact: across(exact), NLL: across(nll)}
	if len(option) > 0 {
		o := across(option)
		s.Option = &o
	}
	if drawn(list[0][0].Method) {
		s.Deviation = stats.Deviation(draws)
	}
	return s
}

// across is the mean of tasks' means, with an interval over tasks or, of one task, records.
func across(tasks [][]float64) stats.Interval {
	if len(tasks) == 1 {
		return stats.Mean(tasks[0])
	}
	var means []float64
	for _, v := range tasks {
		means = append(means, mean(v))
	}
	return stats.Mean(means)
}

// lead is by how much a's exact match exceeds b's, on the records that both were scored on.
func lead(a, b []column) stats.Interval {
	var tasks [][]float64
	for i := range a {
		x, _, _ := a[i].means()
		y, _, _ := b[i].means()
		var d []float64
		for j := range min(len(x), len(y)) {
			d = append(d, x[j]-y[j])
		}
		tasks = append(tasks, d)
	}
	return across(tasks)
}

func gaps(scores map[string]Score) {
	from, ok := scores[TrainMean]
	to, has := scores[Own]
	if !ok || !has || to.Exact.Value <= from.Exact.Value {
		return
	}
	for m, s := range scores {
		gap := (s.Exact.Value - from.Exact.Value) / (to.Exact.Value - from.Exact.Value)
		s.Gap = &gap
		scores[m] = s
	}
}

// Markdown writes the tables: methods over all tasks, then exact match and likelihood of
// each task.
func (r *Result) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "| method | exact match | right option | nats an answer | way from mean training to own-task LoRA | lead of generated |\n|---|---|---|---|---|---|\n")
	for _, m := range r.Methods {
		s := r.Average[m]
		exact, option, gap, lead := s.Exact.Text(3), "–", "–", "–"
		if s.Deviation > 0 {
			exact += fmt.Sprintf(" ± %.3f", s.Deviation)
		}
		if s.Option != nil {
			option = s.Option.Text(3)
		}
		if s.Gap != nil {
			gap = fmt.Sprintf("%.0f %%", 100**s.Gap)
		}
		if l, ok := r.Leads[m]; ok {
			lead = l.Text(3)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", m, exact, option, s.NLL.Text(2), gap, lead)
	}
	fmt.Fprintf(&b, "\nIn brackets: 95 %% intervals, over tasks (of one task, over records). ±: deviation over %d draws of prompts.", r.Config.Draws)
	if s := r.Config.Scale; s != 0 && s != 1 {
		fmt.Fprintf(&b, " All adapters but the own-task LoRA: alpha times %g.", s)
	}
	b.WriteString("\n\nExact match / nats an answer of each task:\n\n| method |")
	for _, t := range r.Tasks {
		fmt.Fprintf(&b, " %s (%d) |", t.Task, t.Records)
	}
	fmt.Fprintf(&b, "\n|---%s|\n", strings.Repeat("|---", len(r.Tasks)))
	for _, m := range r.Methods {
		fmt.Fprintf(&b, "| %s |", m)
		for _, t := range r.Tasks {
			s := t.Scores[m]
			fmt.Fprintf(&b, " %.3f / %.2f |", s.Exact.Value, s.NLL.Value)
		}
		b.WriteString("\n")
	}
	for _, m := range Methods {
		if why, ok := r.Left[m]; ok {
			fmt.Fprintf(&b, "\nLeft out: %s: %s.\n", m, why)
		}
	}
	if r.Cost != nil {
		b.WriteString("\n" + r.Cost.String() + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Write writes result.json, result.md and result.png to a folder.
func (r *Result) Write(dir string) error {
	return atomicfile.Files(dir, map[string]func(io.Writer) error{"result.json": atomicfile.JSON(r), "result.md": r.Markdown, "result.png": r.Plot})
}
