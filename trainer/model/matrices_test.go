package model_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

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
			b, err := backend.Open(backend.CPU)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Finalize()
			count, h, w := layout.Shape()
			const items = 2
			rng := rand.New(rand.NewPCG(3, 3))
			tokens := make([]float32, items*count*h*w)
			for i := range tokens {
				tokens[i] = float32(rng.NormFloat64()) * 0.3
			}
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

// same compares item k of a batch.
func same(t *testing.T, batch []float32, k int, want []float32) {
	t.Helper()
	for i, v := range batch[k*len(want) : (k+1)*len(want)] {
		if math.Abs(float64(v-want[i])) > 1e-5 {
			t.Fatalf("item %d, value %d: %v, want %v", k, i, v, want[i])
		}
	}
}
