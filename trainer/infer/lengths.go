package infer

import (
	"cmp"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// pass is the sequences that are computed at one length.
type pass struct {
	rows   []int
	keys   int // tokens that others may attend to; those after them are padding in all rows
	tokens int // that are computed: keys, or all of a sequence where padding is encoded
	macs   int64
}

// passes groups sequences of at most e.chunk tokens, of which length gives those up to the
// last that is no padding, by length: in the few lengths for which the work and what each
// costs to compile come to the least. They depend on the lengths alone, so that a run's result
// does not depend on those before it. Where padding is zero, sequences of nothing else are in
// no pass.
func (e *encoding) passes(rows []int, length func(row int) int) []pass {
	sorted := slices.Clone(rows)
	slices.SortStableFunc(sorted, func(a, b int) int { return cmp.Compare(length(a), length(b)) })
	var all []pass // one a length
	for _, row := range sorted {
		n := length(row)
		if n == 0 && e.pads == generator.PadsZero {
			continue
		}
		if keys := min(8*e.few((max(n, 1)+7)/8), e.chunk); len(all) == 0 || all[len(all)-1].keys != keys {
			all = append(all, e.pass(keys))
		}
		last := &all[len(all)-1]
		last.rows = append(last.rows, row)
	}

	// least[i] is the least cost of the first i lengths, and from[i] where the last pass of
	// it begins: all its sequences are computed at the longest of their lengths.
	least, from := make([]float64, len(all)+1), make([]int, len(all)+1)
	for i := 1; i <= len(all); i++ {
		least[i] = math.Inf(1)
		count := 0
		for first := i - 1; first >= 0; first-- {
			count += len(all[first].rows)
			if cost := least[first] + float64(e.limits.shape) + float64(count)*float64(all[i-1].macs); cost < least[i] {
				least[i], from[i] = cost, first
			}
		}
	}
	var chosen []pass
	for i := len(all); i > 0; i = from[i] {
		p := e.pass(all[i-1].keys)
		for _, part := range all[from[i]:i] {
			p.rows = append(p.rows, part.rows...)
		}
		chosen = append(chosen, p)
	}
	slices.Reverse(chosen)
	return chosen
}

// pass is an empty one.
func (e *encoding) pass(keys int) pass {
	p := pass{keys: keys, tokens: e.chunk}
	if e.pads == generator.PadsZero {
		p.tokens = keys
	}
	c := e.config
	width, tokens := int64(c.HiddenSize), int64(p.tokens)
	p.macs = int64(c.NumHiddenLayers) * width *
		(tokens*(2*width+2*int64(c.IntermediateSize)+2*int64(keys)) + 2*width*int64(keys))
	return p
}

// groupSize is how many of the pass's sequences are computed at a time: equal groups within
// the limits, and one of few sizes where each is compiled.
func (e *encoding) groupSize(p pass) int {
	most := min(e.limits.flop/(2*p.macs), maxScores/(4*int64(e.config.NumAttentionHeads)*int64(p.tokens)*int64(p.keys)))
	n := len(p.rows)
	groups := (n + int(max(most, 1)) - 1) / int(max(most, 1))
	return e.few((n + groups - 1) / groups)
}

// few rounds a dimension up to one of few where each is compiled.
func (e *encoding) few(n int) int {
	if e.limits.shape == 0 {
		return n
	}
	return backend.RoundUp(n)
}
