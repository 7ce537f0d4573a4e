// Package eval measures what a generated adapter does to its base model: exact match and
// likelihood on records of a task, beside the base alone and beside an adapter that was
// generated from another task's prompts, the control that shows whether prompts matter.
package eval

import (
	"context"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Row is one task's result.
type Row struct {
	Task      string   `json:"task"`
	Records   int      `json:"records"`
	Base      lm.Score `json:"base"`
	Generated lm.Score `json:"generated"`
	// Foreign is the score with the adapter of the task before, in the order given (for
	// the first, of the last); nil where there is one task only.
	Foreign *lm.Score `json:"foreign,omitempty"`
}

// maxTokens is the longest example that is scored, in the base model's tokens.
const maxTokens = 512

// Run generates one adapter a task, from the prompts of its records, and scores it on at
// most count of the records (0: all). report is told each task that is done; it may be nil.
func Run(ctx context.Context, m *lm.Model, p *generator.Package, r generator.Runner, sets []*collect.DataSet, seed int64, count int, report func(done int)) ([]Row, error) {
	rows := make([]Row, len(sets))
	adapters := make([]*lora.Adapter, len(sets))
	examples := make([][]lm.Example, len(sets))
	for i, s := range sets {
		prompts := make([]string, len(s.Records))
		for j, record := range s.Records {
			prompts[j] = record.Prompt
		}
		var err error
		if adapters[i], err = Generate(ctx, p, r, prompts, seed); err != nil {
			return nil, fmt.Errorf("eval: %s: %w", s.Name, err)
		}
		records := s.Records
		if count > 0 {
			records = records[:min(count, len(records))]
		}
		if examples[i], _, err = collect.Examples(m, records, maxTokens); err != nil {
			return nil, fmt.Errorf("eval: %s: %w", s.Name, err)
		}
		if len(examples[i]) == 0 {
			return nil, fmt.Errorf("eval: %s: every record has more than %d tokens", s.Name, maxTokens)
		}
	}
	for i, s := range sets {
		row := &rows[i]
		row.Task, row.Records = s.Name, len(examples[i])
		var err error
		if row.Base, err = m.Evaluate(ctx, examples[i], nil); err != nil {
			return nil, err
		}
		if row.Generated, err = m.Evaluate(ctx, examples[i], adapters[i]); err != nil {
			return nil, err
		}
		if len(sets) > 1 {
			foreign, err := m.Evaluate(ctx, examples[i], adapters[(i+len(sets)-1)%len(sets)])
			if err != nil {
				return nil, err
			}
			row.Foreign = &foreign
		}
		if report != nil {
			report(i + 1)
		}
	}
	return rows, nil
}

// Generate makes the adapter of a task from its prompts, as `dndgen generate` does.
func Generate(ctx context.Context, p *generator.Package, r generator.Runner, prompts []string, seed int64) (*lora.Adapter, error) {
	tokenizer, err := p.Tokenizer()
	if err != nil {
		return nil, err
	}
	c := p.Manifest.Condition
	drawn, _ := text.Draw(prompts, c.Texts, seed, 0)
	batch, err := tokenizer.Encode(drawn, c.Length)
	if err != nil {
		return nil, err
	}
	condition, err := r.Encode(ctx, p, batch, nil)
	if err != nil {
		return nil, err
	}
	tokens, err := r.Decode(ctx, p, condition, 1, nil)
	if err != nil {
		return nil, err
	}
	return generator.Finish(&p.Manifest, tokens)
}
