package lm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
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
	if len(examples) == 0 {
		return nil, errors.New("lm: no examples to evaluate, expected at least one")
	}
	adapter, scale, err := m.adapterArgs(a)
	if err != nil {
		return nil, err
	}
	defer free(adapter)
	if m.score == nil {
		if m.score, err = m.exec(func(in []*graph.Node) []*graph.Node {
			w, a, b := m.split(in, 4)
			n := m.network(w, a, scaled(b, in[3]), 1)
			nll, logits := n.losses(in[0], in[1], in[2])
			best := graph.ArgMax(logits, -1, in[2].DType())
			return []*graph.Node{nll, best}
		}); err != nil {
			return nil, fmt.Errorf("lm: build the score: %w", err)
		}
	}
	size := SizeOf(examples)
	var list []Outcome
	for at := 0; at < len(examples); at += evaluateRows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		group := examples[at:min(at+evaluateRows, len(examples))]
		full := append([]Example{}, group...)
		for len(full) < evaluateRows {
			full = append(full, group[0])
		}
		in, err := paddedBatch(full, size.Length, size.Answers)
		if err != nil {
			return nil, err
		}
		out, err := m.call(m.score, m.withWeights(append(in.args()[:3], float32(scale)), adapter))
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
		free(out)
		for i := range group {
			list = append(list, in.outcome(i, nll, best))
		}
	}
	return list, nil
}

// outcome is a row's, of all rows' likelihoods and likeliest tokens.
func (b *batch) outcome(row int, nll []float32, best []int32) Outcome {
	o := Outcome{Exact: true}
	for j := range b.answers {
		if k := row*b.answers + j; b.valid[k] > 0 {
			o.NLL += float64(nll[k])
			o.Exact = o.Exact && best[k] == b.labels[k]
		}
	}
	return o
}
