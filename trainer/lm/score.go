package lm

import (
	"context"
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Scorer scores groups of examples with an adapter for each group. It is compiled once,
// for batches of one size.
type Scorer struct {
	m    *Model
	rank int
	size Size
	exec *graph.Exec
}

// A batch of a Scorer is so many pieces of groups, and a piece so many rows.
const (
	scorePieces = 8
	scoreRows   = 16
)

// NewScorer prepares scoring of rows of one size with adapters of one rank.
func (m *Model) NewScorer(rank int, size Size) (*Scorer, error) {
	exec, err := graph.NewExec(m.b.Backend, func(in []*graph.Node) []*graph.Node {
		w, a, b := m.split(in, 4)
		nll, logits := m.Losses(w, a, scaled(b, in[3]), 1, in[0], in[1], in[2])
		return []*graph.Node{nll, graph.ArgMax(logits, -1, in[2].DType())}
	})
	if err != nil {
		return nil, fmt.Errorf("lm: build the score: %w", err)
	}
	return &Scorer{m, rank, size, exec}, nil
}

// Close frees what was compiled.
func (s *Scorer) Close() { s.exec.Finalize() }

// Outcome is one example's: whether every token of the answer was the most likely one,
// and the negative log-likelihood of the answer in nats.
type Outcome struct {
	Exact bool
	NLL   float64
}

// piece are rows of one group.
type piece struct{ group, from, to int }

// Score scores groups of examples, group i with adapters[i]; nil adapters are the base
// alone.
func (s *Scorer) Score(ctx context.Context, groups [][]Example, adapters []*lora.Adapter) ([][]Outcome, error) {
	if adapters != nil && len(adapters) != len(groups) {
		return nil, fmt.Errorf("lm: %d adapters for %d groups", len(adapters), len(groups))
	}
	var pieces []piece
	outcomes := make([][]Outcome, len(groups))
	for g, list := range groups {
		for from := 0; from < len(list); from += scoreRows {
			pieces = append(pieces, piece{g, from, min(from+scoreRows, len(list))})
		}
		outcomes[g] = make([]Outcome, len(list))
	}
	for from := 0; from < len(pieces); from += scorePieces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.batch(pieces[from:min(from+scorePieces, len(pieces))], groups, adapters, outcomes); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// batch scores at most scorePieces pieces. Rows and pieces that are lacking repeat the first.
func (s *Scorer) batch(pieces []piece, groups [][]Example, adapters []*lora.Adapter, outcomes [][]Outcome) error {
	examples := make([]Example, 0, scorePieces*scoreRows)
	for i := range scorePieces {
		p := pieces[0]
		if i < len(pieces) {
			p = pieces[i]
		}
		for row := range scoreRows {
			at := p.from + row
			if at >= p.to {
				at = p.from
			}
			examples = append(examples, groups[p.group][at])
		}
	}
	in, err := paddedBatch(examples, s.size.Length, s.size.Answers)
	if err != nil {
		return err
	}
	a, b, scale, err := s.matrices(pieces, adapters)
	if err != nil {
		return err
	}
	defer backend.Free(a, b)
	batch := in.args()[:3]
	args := s.m.withWeights(append(batch[:3:3], float32(scale)), append(append([]*tensors.Tensor{}, a...), b...))
	out, err := s.m.call(s.exec, args)
	if err != nil {
		return fmt.Errorf("lm: score: %w", err)
	}
	defer backend.Free(out)
	for _, x := range batch {
		x.(*tensors.Tensor).MustFinalizeAll()
	}
	nll, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		return err
	}
	best, err := tensors.CopyFlatData[int32](out[1])
	if err != nil {
		return err
	}
	for i, p := range pieces {
		for at := p.from; at < p.to; at++ {
			outcomes[p.group][at] = in.outcome((i*scoreRows+at-p.from)*in.answers, in.answers, nll, best)
		}
	}
	return nil
}

// matrices are the pieces' A (pieces,rank,in) and B (pieces,out,rank) of every target, with
// zeros where there is no adapter.
func (s *Scorer) matrices(pieces []piece, adapters []*lora.Adapter) (a, b []*tensors.Tensor, scale float64, err error) {
	base := s.m.Config.Base(s.rank, 1)
	for i, t := range base.Targets {
		n, k := s.rank*t.In, s.rank*t.Out
		x, y := make([]float32, scorePieces*n), make([]float32, scorePieces*k)
		for j, p := range pieces {
			if adapters == nil {
				break
			}
			adapter := adapters[p.group]
			if len(adapter.Pairs) != len(base.Targets) || len(adapter.Pairs[i].A) != n || len(adapter.Pairs[i].B) != k {
				backend.Free(a, b)
				return nil, nil, 0, fmt.Errorf("lm: adapter %d has another shape than rank %d of module %s", p.group+1, s.rank, t.Name)
			}
			scale = adapter.Base.Alpha / float64(s.rank)
			copy(x[j*n:], adapter.Pairs[i].A)
			copy(y[j*k:], adapter.Pairs[i].B)
		}
		a = append(a, tensors.FromFlatDataAndDimensions(x, scorePieces, s.rank, t.In))
		b = append(b, tensors.FromFlatDataAndDimensions(y, scorePieces, t.Out, s.rank))
	}
	return a, b, scale, nil
}
