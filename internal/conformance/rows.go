package conformance

import (
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
)

// rowsCase is a language model's kernels at one size: rows tokens are looked up and put
// through a linear layer with all that one may have, then positions of attention, whose keys
// and values a cache keeps, and the rest of a block.
type rowsCase struct {
	rows, heads, kv, width int
	dtype                  string
	halves                 bool
	positions              int
	texts                  int // of equal runs of rows at following positions; 0 is rows
	binding                int64
	features               bool
}

func rowsCases() ([]Case, error) {
	var cases []Case
	for _, c := range []rowsCase{
		{rows: 2, heads: 4, kv: 2, width: 16, dtype: "F32", positions: 5},
		{rows: 1, heads: 3, kv: 1, width: 32, dtype: "Q8", halves: true, positions: 70},
		{rows: 8, heads: 2, kv: 2, width: 128, dtype: "Q4_1", positions: 3},
		{rows: 3, heads: 9, kv: 3, width: 64, dtype: "F16", halves: true, positions: 1},
		{rows: 2, heads: 2, kv: 1, width: 16, dtype: "Q4_1", halves: true, positions: 4, binding: 4096},
		{rows: 2, heads: 2, kv: 1, width: 16, dtype: "Q8", positions: 2, binding: 4096},
		{rows: 2, heads: 9, kv: 3, width: 64, dtype: "Q4_1", positions: 2, features: true},
		{rows: 6, texts: 2, heads: 4, kv: 2, width: 16, dtype: "Q8", halves: true, positions: 3},
		{rows: 8, texts: 2, heads: 2, kv: 1, width: 16, dtype: "Q4_1", positions: 2, features: true},
		{rows: 5, heads: 1, kv: 1, width: 4, dtype: "F16", positions: 2, binding: 4096},
	} {
		built, err := c.build()
		if err != nil {
			return nil, err
		}
		cases = append(cases, built)
	}
	return cases, nil
}

const (
	rowsVocabulary = 131
	rowsRank       = 3
	rowsTheta      = 100
)

func (c rowsCase) build() (Case, error) {
	if c.texts == 0 {
		c.texts = c.rows
	}
	run := c.rows / c.texts
	name := fmt.Sprintf("%d rows of %d heads%d/%dx%d %s halves%v %d positions binding%d", c.rows, c.texts, c.heads, c.kv, c.width, c.dtype, c.halves, c.positions, c.binding)
	in, kv := c.heads*c.width, c.kv*c.width
	const length = 2 // more positions than there are
	inputs := []graph.Input{}
	limits := bound(c.binding)
	if c.features {
		limits, name = featured(limits), name+" features"
	}
	p, err := build(name, limits, func(b *graph.Builder) {
		ids := b.InputWords("ids", c.rows)
		factor := b.Input("factor", [4]int{1, 1, c.texts, 1})
		x := b.Lookup("lookup", ids, "table", c.dtype, rowsVocabulary, in)
		b.Read("lookup", x)
		norm := b.RMSNorm("norm", x, "norm", 1e-5)
		b.Read("norm", norm)
		low := b.Product(norm, graph.Product{Label: "low", Weight: "a", DType: "F32", Out: rowsRank, Factor: factor})
		b.Read("low", low)
		q := b.Product(norm, graph.Product{Label: "q", Weight: "wq", DType: c.dtype, Out: in, Bias: "bias", Low: low, Up: "b", Residual: x})
		b.Read("q", q)
		gate := b.SwiGLU("gate", q, x)
		b.Read("gate", gate)
		b.ReadWords("best", b.ArgMax("best", gate))

		positions := c.positions*run + length
		cache := b.NewCache("cache", c.texts, graph.Cache{Heads: c.heads, KVHeads: c.kv, HeadDim: c.width, Length: positions})
		table := b.Table("rotary", graph.RotaryTable(positions, (&llama.Config{HeadDim: c.width, RopeTheta: rowsTheta}).Frequencies()))
		for at := range c.positions {
			position := b.InputWords(fmt.Sprint("position", at), 1)
			k := b.Input(fmt.Sprint("k", at), [4]int{1, 1, c.rows, kv})
			v := b.Input(fmt.Sprint("v", at), [4]int{1, 1, c.rows, kv})
			turned := b.Rotate("rotate", q, k, v, position, table, cache, c.halves)
			if at == c.positions-1 {
				b.Read("turned", turned)
				b.Read("attention", b.Causal("attention", turned, position, cache))
			}
			b.Release(turned)
		}
	})
	ids := make([]uint32, c.rows)
	for i := range ids {
		ids[i] = uint32(i*37+rowsVocabulary-1) % rowsVocabulary
	}
	factor := uniform(1, c.texts)
	inputs = append(inputs, graph.Input{Name: "ids", Data: Words(ids)}, graph.Input{Name: "factor", Data: Floats(factor)})
	keys, values := make([][]float32, c.positions), make([][]float32, c.positions)
	for at := range c.positions {
		keys[at], values[at] = uniform(uint64(100+at), c.rows*kv), uniform(uint64(300+at), c.rows*kv)
		inputs = append(inputs, graph.Input{Name: fmt.Sprint("position", at), Data: Words([]uint32{uint32(at * run)})},
			graph.Input{Name: fmt.Sprint("k", at), Data: Floats(keys[at])}, graph.Input{Name: fmt.Sprint("v", at), Data: Floats(values[at])})
	}
	w := Tensors{
		"table": uniform(2, rowsVocabulary*in), "norm": uniform(3, in), "a": uniform(4, rowsRank*in),
		"wq": scaled(uniform(5, in*in), float32(1/math.Sqrt(float64(in)))), "bias": uniform(6, in), "b": uniform(7, in*rowsRank),
	}

	table, wq := rounded(w["table"], c.dtype), rounded(w["wq"], c.dtype)
	x, norm, low, q, gate := make([]float32, c.rows*in), make([]float64, c.rows*in), make([]float64, c.rows*rowsRank), make([]float64, c.rows*in), make([]float64, c.rows*in)
	best := make([]float32, c.rows)
	for r := range c.rows {
		copy(x[r*in:(r+1)*in], table[int(ids[r])*in:])
		square := 0.0
		for _, v := range x[r*in : (r+1)*in] {
			square += float64(v) * float64(v) / float64(in)
		}
		for i := range in {
			norm[r*in+i] = float64(x[r*in+i]) / math.Sqrt(square+1e-5) * float64(w["norm"][i])
		}
		for o := range rowsRank {
			for i := range in {
				low[r*rowsRank+o] += float64(w["a"][o*in+i]) * norm[r*in+i] * float64(factor[r/run])
			}
		}
		top := math.Inf(-1)
		for o := range in {
			v := float64(w["bias"][o]) + float64(x[r*in+o])
			for i := range in {
				v += float64(wq[o*in+i]) * norm[r*in+i]
			}
			for k := range rowsRank {
				v += float64(w["b"][o*rowsRank+k]) * low[r*rowsRank+k]
			}
			q[r*in+o] = v
			gate[r*in+o] = v / (1 + math.Exp(-v)) * float64(x[r*in+o])
			if gate[r*in+o] > top {
				top = gate[r*in+o]
				best[r] = math.Float32frombits(uint32(o))
			}
		}
	}
	turned := c.turn(q, c.heads, (c.positions-1)*run)
	cached := make([][]float64, c.positions)
	for at := range cached {
		cached[at] = c.turn(wide(keys[at]), c.kv, at*run)
	}
	seen := make([]float64, c.rows*in)
	for r := range c.rows {
		for h := range c.heads {
			// Where the key or value of this row's text at a position is, of those of its run.
			from := func(at int) int { return (r/run*run+at%run)*kv + h/(c.heads/c.kv)*c.width }
			to := r*in + h*c.width
			weights, top, sum := make([]float64, (c.positions-1)*run+r%run+1), math.Inf(-1), 0.0
			for at := range weights {
				for d := range c.width {
					weights[at] += turned[to+d] * cached[at/run][from(at)+d] / math.Sqrt(float64(c.width))
				}
				top = math.Max(top, weights[at])
			}
			for at := range weights {
				e := math.Exp(weights[at] - top)
				sum += e
				for d := range c.width {
					seen[to+d] += e * float64(values[at/run][from(at)+d])
				}
			}
			for d := range c.width {
				seen[to+d] /= sum
			}
		}
	}
	return Case{
		Name: name, Program: p, Weights: w, Inputs: inputs,
		Want: []Want{
			{Name: "lookup", Values: x, Tolerance: 5e-7}, {Name: "norm", Values: narrow(norm), Tolerance: 2e-6}, {Name: "low", Values: narrow(low), Tolerance: 1e-5},
			{Name: "q", Values: narrow(q), Tolerance: 1e-5}, {Name: "gate", Values: narrow(gate), Tolerance: 1e-5},
			{Name: "best", Values: best, Tolerance: 0}, {Name: "turned", Values: narrow(turned), Tolerance: 1e-5}, {Name: "attention", Values: narrow(seen), Tolerance: 1e-5},
		},
	}, err
}

// turn gives every head of (rows, heads·width) its row's rotary position; at is that of the
// texts' first rows.
func (c rowsCase) turn(x []float64, heads, at int) []float64 {
	y := make([]float64, len(x))
	for head := range c.rows * heads {
		for i := range c.width / 2 {
			first, second := head*c.width+2*i, head*c.width+2*i+1
			if c.halves {
				first, second = head*c.width+i, head*c.width+i+c.width/2
			}
			sin, cos := math.Sincos(float64(at+head/heads%(c.rows/c.texts)) * math.Pow(rowsTheta, -2*float64(i)/float64(c.width)))
			y[first], y[second] = x[first]*cos-x[second]*sin, x[second]*cos+x[first]*sin
		}
	}
	return y
}

func wide(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

func narrow(v []float64) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x)
	}
	return out
}
