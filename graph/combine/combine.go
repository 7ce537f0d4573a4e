// Package combine does arithmetic with LoRA adapters: it scales them, adds several, cuts
// them to another rank, and tells how far two are apart. What an adapter adds to a weight,
// (alpha/rank)·B·A, is never formed: everything happens in its thin factors. Adapters come
// from package lora's readers and go back to its writers.
//
// The decompositions are gonum's. They give the same bits on the same machine, not on all.
package combine

import (
	"fmt"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Term is an adapter of a weighted sum.
type Term struct {
	Adapter *lora.Adapter
	Weight  float64
}

// Scale makes an adapter that adds factor times as much. The factor is finite and not
// zero: no adapter does nothing (llama.cpp takes an alpha of 0 for 1).
func Scale(a *lora.Adapter, factor float64) (*lora.Adapter, error) {
	if factor == 0 || math.IsNaN(factor) || math.IsInf(factor, 0) {
		return nil, fmt.Errorf("combine: a scale of %v, expected a number other than 0", factor)
	}
	out := *a
	out.Base.Alpha *= math.Abs(factor)
	if factor < 0 {
		out.Pairs = slices.Clone(a.Pairs)
		for i, p := range a.Pairs {
			out.Pairs[i].B = times(p.B, -1)
		}
	}
	return &out, nil
}

func times(v []float32, f float64) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(float64(x) * f)
	}
	return out
}

// Concat is the weighted sum of adapters as one whose rank is the sum of theirs: exact but
// for the rounding of B where weights times alpha/rank differ. A module that an adapter
// lacks takes zeros of its rank. The base is the first adapter's.
func Concat(terms ...Term) (*lora.Adapter, error) {
	base, err := union(terms)
	if err != nil {
		return nil, err
	}
	out := &lora.Adapter{Base: base, Pairs: make([]lora.Pair, len(base.Targets))}
	first := terms[0]
	// The gain of all: the first adapter's, whose B then stays as it is.
	gain := math.Abs(first.Weight) * first.Adapter.Base.Alpha / float64(first.Adapter.Base.Rank)
	out.Base.Alpha = gain * float64(base.Rank)
	rank := base.Rank
	for i, t := range base.Targets {
		out.Pairs[i] = lora.Pair{A: make([]float32, rank*t.In), B: make([]float32, t.Out*rank)}
	}
	at := 0
	for _, term := range terms {
		a := term.Adapter
		r := a.Base.Rank
		factor := term.Weight * a.Base.Alpha / float64(r) / gain
		for i, t := range base.Targets {
			k := slices.Index(a.Base.Targets, t)
			if k < 0 {
				continue
			}
			copy(out.Pairs[i].A[at*t.In:], a.Pairs[k].A)
			scaled := times(a.Pairs[k].B, factor)
			for row := range t.Out {
				copy(out.Pairs[i].B[row*rank+at:], scaled[row*r:(row+1)*r])
			}
		}
		at += r
	}
	if math.IsInf(out.Base.Alpha, 0) {
		return nil, fmt.Errorf("combine: weights of %v are too large", first.Weight)
	}
	return out, nil
}

// union is the base of a sum: all targets of all terms, and the sum of the ranks.
func union(terms []Term) (lora.Base, error) {
	if len(terms) == 0 {
		return lora.Base{}, fmt.Errorf("combine: no adapters")
	}
	base := terms[0].Adapter.Base
	base.Rank, base.Targets = 0, nil
	sizes := map[string]lora.Target{}
	for i, term := range terms {
		b := term.Adapter.Base
		if term.Weight == 0 || math.IsNaN(term.Weight) || math.IsInf(term.Weight, 0) {
			return base, fmt.Errorf("combine: adapter %d has weight %v, expected a number other than 0", i+1, term.Weight)
		}
		if b.Architecture != "" && base.Architecture != "" && b.Architecture != base.Architecture {
			return base, fmt.Errorf("combine: adapter %d is for architecture %s, the first for %s", i+1, b.Architecture, base.Architecture)
		}
		base.Rank += b.Rank
		for _, t := range b.Targets {
			if known, ok := sizes[t.Name]; ok && known != t {
				return base, fmt.Errorf("combine: module %s is (out %d, in %d) in adapter %d, (out %d, in %d) before: they are for different base models",
					t.Name, t.Out, t.In, i+1, known.Out, known.In)
			} else if !ok {
				sizes[t.Name] = t
				base.Targets = append(base.Targets, t)
			}
		}
	}
	if err := lora.SortTargets(base.Targets); err != nil {
		return base, err
	}
	return base, base.Validate()
}
