package science

import (
	"context"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// TaskScore is how a method does on one task, over records and, where prompts are drawn,
// over draws.
type TaskScore struct {
	Exact float64 `json:"exact"` // share of exact matches
	// Option is the share of records whose right answer is likelier than that of every task
	// which differs in one attribute: what remains of exact match where the answer is given.
	Option float64 `json:"option"`
	NLL    float64 `json:"nll"` // nats an answer
	draws  []float64
}

// over is the mean over draws. Options may stand in the first ones alone.
func over(draws []TaskScore, options int) TaskScore {
	var s TaskScore
	n := float64(len(draws))
	for i, d := range draws {
		s.Exact += d.Exact / n
		s.NLL += d.NLL / n
		if i < options {
			s.Option += d.Option / float64(min(options, len(draws)))
		}
		s.draws = append(s.draws, d.Exact)
	}
	return s
}

// meanScore is the mean over tasks.
func meanScore(scores []TaskScore) TaskScore {
	m := over(scores, len(scores))
	m.draws = nil
	return m
}

// exam is what a task is scored on.
type exam struct {
	records []lm.Example
	// options are those of the first records, the right answer first, then the distractors.
	options []lm.Example
	choices int // options of a record
}

// optionRecords is of how many records of an exam there are options.
const optionRecords = 8

// newExam makes an exam of records, whose prompts the base gets as prompt says.
func newExam(v *vocabulary, t Task, values [3]int, records []Record, prompt func(i int) ([]int32, error)) (exam, error) {
	var e exam
	others := t.neighbours(values)
	e.choices = 1 + len(others)
	for i, r := range records {
		ids, err := prompt(i)
		if err != nil {
			return exam{}, err
		}
		answers := []string{r.Answer}
		if i < optionRecords {
			for _, other := range others {
				answers = append(answers, other.answer(r.words))
			}
		}
		for k, text := range answers {
			answer, err := v.encode(text)
			if err != nil {
				return exam{}, err
			}
			x := lm.Example{Prompt: ids, Answer: append(answer, endID)}
			if k == 0 {
				e.records = append(e.records, x)
			}
			if i < optionRecords {
				e.options = append(e.options, x)
			}
		}
	}
	return e, nil
}

// first is an exam of fewer records, and options of fewer.
func (e exam) first(records, options int) exam {
	e.records = e.records[:min(records, len(e.records))]
	e.options = e.options[:min(options*e.choices, len(e.options))]
	return e
}

// plain are the prompts as they are.
func plain(v *vocabulary, records []Record) func(int) ([]int32, error) {
	return func(i int) ([]int32, error) {
		ids, err := v.encode(records[i].Prompt)
		return append(ids, answerID), err
	}
}

// formatted puts the form of the answer before the instruction, as a system prompt would:
// "write [ word word ] : …".
func formatted(v *vocabulary, t Task, records []Record) func(int) ([]int32, error) {
	return func(i int) ([]int32, error) {
		ids, err := v.encode("write " + t.form() + " : " + records[i].Prompt)
		return append(ids, answerID), err
	}
}

// shots is how many examples a few-shot prompt has.
const shots = 3

// fewShot puts other records with their answers before the prompt.
func fewShot(v *vocabulary, records []Record) func(int) ([]int32, error) {
	return func(i int) ([]int32, error) {
		var ids []int32
		for k := 1; k <= shots; k++ {
			x, err := v.example(records[(i+k)%len(records)])
			if err != nil {
				return nil, err
			}
			ids = append(append(ids, x.Prompt...), x.Answer...)
		}
		last, err := v.encode(records[i].Prompt)
		return append(append(ids, last...), answerID), err
	}
}

// form is a task's answer with a word for each noun.
func (t Task) form() string {
	style := styles[t[2]]
	between := " "
	if style.between != "" {
		between = " " + style.between + " "
	}
	list := append(append([]string{}, style.before...), strings.TrimSuffix(strings.Repeat("word"+between, len(operation(t[0]).order)), between))
	return strings.Join(append(list, style.after...), " ")
}

// neighbours are the tasks that differ in one attribute.
func (t Task) neighbours(values [3]int) []Task {
	var list []Task
	for i := range t {
		for v := range values[i] {
			if other := t; v != t[i] {
				other[i] = v
				list = append(list, other)
			}
		}
	}
	return list
}

// grade scores one adapter a task on exams; nil is the base.
func grade(ctx context.Context, scorer *lm.Scorer, exams []exam, adapters []*lora.Adapter, options bool) ([]TaskScore, error) {
	records, choices := make([][]lm.Example, len(exams)), make([][]lm.Example, len(exams))
	for i, e := range exams {
		records[i], choices[i] = e.records, e.options
	}
	outcomes, err := scorer.Score(ctx, records, adapters)
	if err != nil {
		return nil, err
	}
	scores := make([]TaskScore, len(exams))
	for i, list := range outcomes {
		for _, o := range list {
			if o.Exact {
				scores[i].Exact += 1 / float64(len(list))
			}
			scores[i].NLL += o.NLL / float64(len(list))
		}
	}
	if !options {
		return scores, nil
	}
	if outcomes, err = scorer.Score(ctx, choices, adapters); err != nil {
		return nil, err
	}
	for i, list := range outcomes {
		n := exams[i].choices
		for at := 0; at < len(list); at += n {
			right := true
			for _, o := range list[at+1 : at+n] {
				right = right && o.NLL > list[at].NLL
			}
			if right {
				scores[i].Option += float64(n) / float64(len(list))
			}
		}
	}
	return scores, nil
}
