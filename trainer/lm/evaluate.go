package lm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Score is how well a model answers examples.
type Score struct {
	// Exact is the share of answers whose every token, end of turn included, is the most
	// likely one: what greedy decoding would give.
	Exact float64 `json:"exact"`
	// NLL is the mean negative log-likelihood of an answer, in nats.
	NLL float64 `json:"nll"`
}

// evaluateRows is how many examples are scored at a time.
const evaluateRows = 8

// Evaluate scores examples with an adapter or, for nil, without.
func (m *Model) Evaluate(ctx context.Context, examples []Example, a *lora.Adapter) (Score, error) {
	list, err := m.Outcomes(ctx, examples, a)
	if err != nil {
		return Score{}, err
	}
	var s Score
	for _, o := range list {
		s.NLL += o.NLL / float64(len(list))
		if o.Exact {
			s.Exact += 1 / float64(len(list))
		}
	}
	return s, nil
}

// Outcomes are the outcome of each example with an adapter or, for nil, without.
func (m *Model) Outcomes(ctx context.Context, examples []Example, a *lora.Adapter) ([]Outcome, error) {
	each, err := m.Choices(ctx, alone(examples), a)
	if err != nil {
		return nil, err
	}
	list := make([]Outcome, len(each))
	for i := range each {
		list[i] = each[i][0]
	}
	return list, nil
}

// Choice is a tokenised prompt with several answers, each of which is scored as if it were
// the only one. The prompt is computed once for all of them.
type Choice struct {
	Prompt  []int32
	Answers [][]int32
}

// alone are examples as choices of one answer each.
func alone(examples []Example) []Choice {
	list := make([]Choice, len(examples))
	for i, e := range examples {
		list[i] = Choice{e.Prompt, [][]int32{e.Answer}}
	}
	return list
}

// sizeOf is the size that a batch of choices is padded to.
func sizeOf(list []Choice) Size {
	var s Size
	for _, c := range list {
		own := c.size()
		s.Length, s.Answers = max(s.Length, own.Length), max(s.Answers, own.Answers)
	}
	return Size{bucket(s.Length), bucket(s.Answers)}
}

func (c Choice) size() Size {
	s := Size{Length: len(c.Prompt)}
	for _, answer := range c.Answers {
		s.Length += len(answer) - 1
		s.Answers += len(answer)
	}
	return s
}

// Choices are the outcomes of each choice's answers with an adapter or, for nil, without.
func (m *Model) Choices(ctx context.Context, list []Choice, a *lora.Adapter) ([][]Outcome, error) {
	if len(list) == 0 {
		return nil, errors.New("lm: no examples to evaluate, expected at least one")
	}
	adapter, scale, err := m.adapterArgs(a)
	if err != nil {
		return nil, err
	}
	defer backend.Free(adapter)
	if m.score == nil {
		if m.score, err = m.exec(func(in []*graph.Node) []*graph.Node {
			w, a, b := m.split(in, 6)
			n := m.network(w, a, scaled(b, in[5]), 1)
			nll, logits := n.losses(in[0], in[1], in[2], &packed{in[3], in[4]})
			best := graph.ArgMax(logits, -1, in[2].DType())
			return []*graph.Node{nll, best}
		}); err != nil {
			return nil, fmt.Errorf("lm: build the score: %w", err)
		}
	}
	size := sizeOf(list)
	var outcomes [][]Outcome
	for at := 0; at < len(list); at += evaluateRows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		group := list[at:min(at+evaluateRows, len(list))]
		full := append([]Choice{}, group...)
		for len(full) < evaluateRows {
			full = append(full, group[0])
		}
		in, err := packedBatch(full, size.Length, size.Answers)
		if err != nil {
			return nil, err
		}
		args := append(append(in.args()[:3], in.packing()...), float32(scale))
		out, err := m.call(m.score, m.withWeights(args, adapter))
		if err != nil {
			return nil, fmt.Errorf("lm: score: %w", err)
		}
		nll, err := tensors.CopyFlatData[float32](out[0])
		if err != nil {
			return nil, err
		}
		best, err := tensors.CopyFlatData[int32](out[1])
		if err != nil {
			return nil, err
		}
		backend.Free(out)
		for i, c := range group {
			var each []Outcome
			label := i * in.answers
			for _, answer := range c.Answers {
				each = append(each, in.outcome(label, len(answer), nll, best))
				label += len(answer)
			}
			outcomes = append(outcomes, each)
		}
	}
	return outcomes, nil
}

// outcome is that of the n labels from one on, of all labels' likelihoods and likeliest
// tokens.
func (b *batch) outcome(from, n int, nll []float32, best []int32) Outcome {
	o := Outcome{Exact: true}
	for k := from; k < from+n; k++ {
		if b.valid[k] > 0 {
			o.NLL += float64(nll[k])
			o.Exact = o.Exact && best[k] == b.labels[k]
		}
	}
	return o
}
