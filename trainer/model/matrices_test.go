package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

func goBackend(t *testing.T) backend.Backend {
	t.Helper()
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

// weightTokens are n values of such a size as a decoder's.
func weightTokens(n int) []float32 {
	rng := rand.New(rand.NewPCG(3, 3))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64()) * 0.3
	}
	return v
}

// The graph that a loss goes back through decodes weight tokens as package lora does.
func TestMatrices(t *testing.T) {
	_, base, tiling, err := generator.Shape("mini")
	if err != nil {
		t.Fatal(err)
	}
	target := lora.Target{Name: "model.layers.0.self_attn.q_proj", In: 24, Out: 36}
	custom := lora.Base{Model: "example/one", Rank: 3, Alpha: 6, Targets: []lora.Target{target}}
	for name, l := range map[string]struct {
		base   lora.Base
		tiling lora.Tiling
	}{
		"the reference's cut":    {base, tiling},
		"a cut of 12, with room": {custom, lora.Tiling{Kind: lora.CustomCut, Height: 6, Width: 16, Chunk: 12}},
	} {
		t.Run(name, func(t *testing.T) {
			layout, err := lora.NewLayout(l.base, l.tiling)
			if err != nil {
				t.Fatal(err)
			}
			b := goBackend(t)
			count, h, w := layout.Shape()
			const items = 2
			tokens := weightTokens(items * count * h * w)
			exec, err := graph.NewExec(b.Backend, func(x *graph.Node) []*graph.Node {
				a, b := model.Matrices(layout, x)
				return append(a, b...)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer exec.Finalize()
			out, err := exec.Call(tensors.FromFlatDataAndDimensions(tokens, items, count, h, w))
			if err != nil {
				t.Fatal(err)
			}
			n := count * h * w
			for k := range items {
				want, err := layout.Decode(tokens[k*n:(k+1)*n], lora.Float32)
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range want.Pairs {
					same(t, tensors.MustCopyFlatData[float32](out[i]), k, p.A)
					same(t, tensors.MustCopyFlatData[float32](out[len(want.Pairs)+i]), k, p.B)
				}
			}
		})
	}
}

// The gradient of matrices is that of what they were made of, and its work grows with the
// tokens, not with tokens times matrices.
func TestMatricesGradient(t *testing.T) {
	var targets []lora.Target
	for i := range 40 {
		targets = append(targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.self_attn.q_proj", i), In: 24, Out: 36})
	}
	layout, err := lora.NewLayout(lora.Base{Model: "example/deep", Rank: 3, Alpha: 6, Targets: targets}, lora.Tiling{Kind: lora.CustomCut, Height: 6, Width: 16, Chunk: 12})
	if err != nil {
		t.Fatal(err)
	}
	b := goBackend(t)
	count, h, w := layout.Shape()
	tokens := weightTokens(count * h * w)
	padded := 0
	exec, err := graph.NewExec(b.Backend, func(x *graph.Node) []*graph.Node {
		a, b := model.Matrices(layout, x)
		var loss *graph.Node
		for i, m := range append(a, b...) {
			sum := graph.MulScalar(graph.ReduceAllSum(graph.Square(m)), 1/float64(i+1))
			if loss == nil {
				loss = sum
			} else {
				loss = graph.Add(loss, sum)
			}
		}
		gradient := graph.Gradient(loss, x)[0]
		padded = 0
		for _, n := range x.Graph().Nodes() {
			if n.Type() == graph.NodeTypePad {
				padded += n.Shape().Size()
			}
		}
		return []*graph.Node{loss, gradient}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	run := func(tokens []float32) (float64, []float32) {
		out, err := exec.Call(tensors.FromFlatDataAndDimensions(tokens, 1, count, h, w))
		if err != nil {
			t.Fatal(err)
		}
		return float64(tensors.ToScalar[float32](out[0])), tensors.MustCopyFlatData[float32](out[1])
	}
	_, gradient := run(tokens)
	if most := 16 * len(tokens); padded > most {
		t.Errorf("slices' gradients have %d values together, expected at most %d", padded, most)
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20 {
		// Along a token's gradient, the longest way up.
		token := rng.IntN(count)
		g := gradient[token*h*w : (token+1)*h*w]
		want := 0.0
		for _, v := range g {
			want += float64(v) * float64(v)
		}
		step := 1e-2 / math.Sqrt(want)
		moved := func(by float64) float64 {
			x := slices.Clone(tokens)
			for i, v := range g {
				x[token*h*w+i] += float32(by * float64(v))
			}
			loss, _ := run(x)
			return loss
		}
		if got := (moved(step) - moved(-step)) / (2 * step); math.Abs(got-want) > 0.05*want+1e-4 {
			t.Errorf("token %d: the loss rises by %v, its gradient says %v", token, got, want)
		}
	}
}

// same compares item k of a batch.
func same(t *testing.T, batch []float32, k int, want []float32) {
	t.Helper()
	for i, v := range batch[k*len(want) : (k+1)*len(want)] {
		if math.Abs(float64(v-want[i])) > 1e-5 {
			t.Fatalf("item %d, value %d: %v, want %v", k, i, v, want[i])
		}
	}
}
