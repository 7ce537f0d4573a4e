package science

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Standardised tokens have mean 0 and mean square 1; constant ones are left out.
func TestStandardise(t *testing.T) {
	c := Defaults()
	base := c.lora()
	l, err := lora.NewLayout(base, c.tiling())
	if err != nil {
		t.Fatal(err)
	}
	count, h, w := l.Shape()
	rng := rand.New(rand.NewPCG(4, 4))
	first := make([][]float32, len(base.Targets))
	var list [][]float32
	for range 50 {
		a := &lora.Adapter{Base: base}
		for i, target := range base.Targets {
			if first[i] == nil {
				first[i] = normal(rng, base.Rank*target.In)
			}
			a.Pairs = append(a.Pairs, lora.Pair{A: first[i], B: normal(rng, base.Rank*target.Out)})
		}
		tokens := make([]float32, count*h*w)
		if err := l.Encode(a, lora.Float32, tokens); err != nil {
			t.Fatal(err)
		}
		list = append(list, tokens)
	}
	s := standardise(l, list)
	a, b := l.FirstToken(0)
	if s.Spread[a] != 0 || s.weight[a] != 0 || s.Spread[b] == 0 || s.weight[b] == 0 {
		t.Errorf("scales of A %v and B %v, weights %v and %v", s.Spread[a], s.Spread[b], s.weight[a], s.weight[b])
	}
	square, cells := 0.0, 0
	for _, tokens := range list {
		s.Apply(tokens)
		for _, v := range tokens[b*h*w : (b+1)*h*w] {
			if !math.IsNaN(float64(v)) {
				square += float64(v) * float64(v)
				cells++
			}
		}
	}
	if m := square / float64(cells); math.Abs(m-1) > 1e-3 {
		t.Errorf("mean square %v, want 1", m)
	}
}

func normal(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}
