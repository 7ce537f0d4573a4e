package combine_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

func adapter(seed uint64, rank int, alpha float64, targets ...lora.Target) *lora.Adapter {
	rng := rand.New(rand.NewPCG(seed, 1))
	a := &lora.Adapter{Base: lora.Base{Model: "test/m", Architecture: "llama", Heads: 2, KVHeads: 1, Rank: rank, Alpha: alpha, Targets: targets}}
	normal := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	for _, t := range targets {
		a.Pairs = append(a.Pairs, lora.Pair{A: normal(rank * t.In), B: normal(t.Out * rank)})
	}
	return a
}

var (
	q    = lora.Target{Name: "model.layers.0.self_attn.q_proj", In: 12, Out: 8}
	down = lora.Target{Name: "model.layers.1.mlp.down_proj", In: 30, Out: 12}
)

// change is (alpha/rank)·B·A of a module, zeros if the adapter lacks it.
func change(a *lora.Adapter, t lora.Target) []float64 {
	out := make([]float64, t.Out*t.In)
	for k, target := range a.Base.Targets {
		if target != t {
			continue
		}
		r := a.Base.Rank
		for i := range t.Out {
			for j := range t.In {
				for l := range r {
					out[i*t.In+j] += float64(a.Pairs[k].B[i*r+l]) * float64(a.Pairs[k].A[l*t.In+j])
				}
				out[i*t.In+j] *= a.Base.Alpha / float64(r)
			}
		}
	}
	return out
}

func sum(x, y []float64, fx, fy float64) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i] = fx*x[i] + fy*y[i]
	}
	return out
}

func norm(v []float64) float64 {
	s := 0.0
	for _, x := range v {
		s += x * x
	}
	return math.Sqrt(s)
}

func near(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	if e := norm(sum(got, want, 1, -1)); e > tolerance*max(norm(want), 1e-30) {
		t.Errorf("%s: off by %g of %g", what, e, norm(want))
	}
}

func TestConcatIsTheSum(t *testing.T) {
	x, y := adapter(1, 3, 6, q, down), adapter(2, 2, 5, q)
	for _, w := range [][2]float64{{1, 1}, {0.5, -2}, {-1, 0.3}} {
		c, err := combine.Concat(combine.Term{Adapter: x, Weight: w[0]}, combine.Term{Adapter: y, Weight: w[1]})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil || c.Base.Rank != 5 {
			t.Fatalf("rank %d, %v", c.Base.Rank, err)
		}
		for _, target := range []lora.Target{q, down} {
			near(t, target.Name, change(c, target), sum(change(x, target), change(y, target), w[0], w[1]), 3e-7)
		}
	}
	// Equal gains: no value is rounded.
	z := adapter(3, 3, 6, q, down)
	c, err := combine.Concat(combine.Term{Adapter: x, Weight: 1}, combine.Term{Adapter: z, Weight: 1})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "equal gains", change(c, q), sum(change(x, q), change(z, q), 1, 1), 1e-14)
	if c.Base.Alpha != 12 {
		t.Errorf("alpha %v", c.Base.Alpha)
	}
}

func TestScale(t *testing.T) {
	x := adapter(1, 3, 6, q)
	for _, f := range []float64{0.5, -2} {
		s, err := combine.Scale(x, f)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "scaled", change(s, q), sum(change(x, q), change(x, q), f, 0), 1e-14)
	}
}

func TestRerank(t *testing.T) {
	x := adapter(1, 6, 12, q, down)
	for _, rank := range []int{1, 3, 6, 8, 20} {
		y, loss, err := combine.Rerank(t.Context(), x, rank)
		if err != nil {
			t.Fatal(err)
		}
		if err := y.Check(); err != nil || y.Base.Rank != rank {
			t.Fatalf("rank %d: %v", y.Base.Rank, err)
		}
		whole, gaps := 0.0, 0.0
		for i, target := range x.Base.Targets {
			gap, size := norm(sum(change(x, target), change(y, target), 1, -1)), norm(change(x, target))
			whole, gaps = math.Hypot(whole, size), math.Hypot(gaps, gap)
			if math.Abs(gap/size-loss.Modules[i]) > 1e-6 {
				t.Errorf("rank %d, %s: loses %g, said %g", rank, target.Name, gap/size, loss.Modules[i])
			}
		}
		if math.Abs(gaps/whole-loss.Total) > 1e-6 || rank >= 6 && loss.Total > 1e-12 || rank < 6 && loss.Total < 0.01 {
			t.Errorf("rank %d: loses %g, said %g", rank, gaps/whole, loss.Total)
		}
	}
	// A sum of two is recovered from twice the rank; more rank than axis is no obstacle.
	c, err := combine.Concat(combine.Term{Adapter: x, Weight: 1}, combine.Term{Adapter: x, Weight: 1})
	if err != nil {
		t.Fatal(err)
	}
	back, loss, err := combine.Rerank(t.Context(), c, 6)
	if err != nil || loss.Total > 1e-12 {
		t.Fatalf("%g, %v", loss.Total, err)
	}
	near(t, "twice", change(back, q), sum(change(x, q), change(x, q), 2, 0), 1e-6)
	// Zeros stay zeros.
	for i := range x.Pairs {
		clear(x.Pairs[i].B)
	}
	if _, loss, err := combine.Rerank(t.Context(), x, 2); err != nil || loss.Total != 0 {
		t.Errorf("zeros: %g, %v", loss.Total, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := combine.Rerank(ctx, x, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDiff(t *testing.T) {
	x, y := adapter(1, 3, 6, q, down), adapter(2, 2, 5, q)
	modules, total, err := combine.Diff(t.Context(), x, y)
	if err != nil || len(modules) != 2 {
		t.Fatal(modules, err)
	}
	cx, cy := change(x, q), change(y, q)
	inner := 0.0
	for i := range cx {
		inner += cx[i] * cy[i]
	}
	m := modules[0]
	if math.Abs(m.Relative-norm(sum(cx, cy, 1, -1))/norm(cx)) > 1e-12 || math.Abs(m.Cosine-inner/norm(cx)/norm(cy)) > 1e-12 || math.Abs(m.Y-norm(cy)) > 1e-12 {
		t.Errorf("%+v", m)
	}
	if modules[1].Y != 0 || math.Abs(modules[1].Relative-1) > 1e-12 || modules[1].Cosine != 0 {
		t.Errorf("a module that one lacks: %+v", modules[1])
	}
	if want := math.Hypot(norm(change(x, q)), norm(change(x, down))); math.Abs(total.X-want) > 1e-10 {
		t.Errorf("total %+v, want norm %g", total, want)
	}
	// Far below what a difference of squares could tell.
	near := adapter(1, 3, 6*(1+1e-12), q, down)
	if _, total, err = combine.Diff(t.Context(), x, near); err != nil || total.Relative > 2e-12 || total.Relative < 5e-13 {
		t.Errorf("%+v, %v", total, err)
	}
	other := adapter(1, 3, 6, q, down)
	if _, total, err = combine.Diff(t.Context(), x, other); err != nil || total.Relative > 1e-14 || total.Cosine < 1-1e-14 {
		t.Errorf("the same: %+v, %v", total, err)
	}
}

func TestRefuses(t *testing.T) {
	x := adapter(1, 3, 6, q)
	wide := adapter(1, 3, 6, lora.Target{Name: q.Name, In: 16, Out: 8})
	qwen := adapter(1, 3, 6, q)
	qwen.Base.Architecture = "qwen2"
	concat := func(y *lora.Adapter, w float64) error {
		_, err := combine.Concat(combine.Term{Adapter: x, Weight: 1}, combine.Term{Adapter: y, Weight: w})
		return err
	}
	_, none := combine.Concat()
	_, zero := combine.Scale(x, 0)
	_, _, rank := combine.Rerank(t.Context(), x, 0)
	_, _, diff := combine.Diff(t.Context(), x, wide)
	for _, c := range []struct {
		err  error
		want string
	}{
		{concat(wide, 1), "(out 8, in 16) in adapter 2, (out 8, in 12) before"},
		{concat(qwen, 1), "architecture qwen2"},
		{concat(x, 0), "weight 0"},
		{concat(x, math.NaN()), "weight NaN"},
		{none, "no adapters"},
		{zero, "scale of 0"},
		{rank, "rank 0"},
		{diff, "different base models"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got %v, expected an error with %q", c.err, c.want)
		}
	}
}

func BenchmarkRerank(b *testing.B) {
	// One layer of a model of 7 billion parameters.
	x := adapter(1, 32, 64, lora.Target{Name: "model.layers.0.self_attn.q_proj", In: 3584, Out: 3584}, lora.Target{Name: "model.layers.0.mlp.up_proj", In: 3584, Out: 18944})
	for b.Loop() {
		if _, _, err := combine.Rerank(context.Background(), x, 16); err != nil {
			b.Fatal(err)
		}
	}
}
