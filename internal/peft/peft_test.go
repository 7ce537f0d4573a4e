package peft_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/peft"
)

// smolLM2 has the sizes of SmolLM2-135M.
func smolLM2(layers int) lora.Base {
	b := lora.Base{Model: "HuggingFaceTB/SmolLM2-135M-Instruct", Architecture: "llama", Heads: 9, KVHeads: 3, Rank: 4, Alpha: 8}
	for i := range layers {
		for _, m := range []struct {
			name    string
			in, out int
		}{
			{"self_attn.q_proj", 576, 576}, {"self_attn.k_proj", 576, 192}, {"self_attn.v_proj", 576, 192},
			{"self_attn.o_proj", 576, 576}, {"mlp.up_proj", 576, 1536}, {"mlp.gate_proj", 576, 1536}, {"mlp.down_proj", 1536, 576},
		} {
			b.Targets = append(b.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", i, m.name), In: m.in, Out: m.out})
		}
	}
	return b
}

func random(b lora.Base) *lora.Adapter {
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(0.02 * r.NormFloat64())
		}
		return v
	}
	a := &lora.Adapter{Base: b}
	for _, t := range b.Targets {
		a.Pairs = append(a.Pairs, lora.Pair{A: normal(b.Rank * t.In), B: normal(t.Out * b.Rank)})
	}
	return a
}

// Adapters that package lora writes load with the real PEFT: all layers under the short
// names of modules, and a part of the layers, where full names are needed.
func TestLoad(t *testing.T) {
	all, one := smolLM2(30), smolLM2(30)
	one.Targets = one.Targets[7:14]
	for _, c := range []struct {
		name  string
		base  lora.Base
		dtype safetensors.DType
	}{
		{"all layers", all, safetensors.F32},
		{"layer 1 in bfloat16", one, safetensors.BF16},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "adapter")
			if err := lora.Write(dir, random(c.base), lora.Options{Format: lora.PEFT, DType: c.dtype}); err != nil {
				t.Fatal(err)
			}
			r, err := peft.Load(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Problem(); err != nil {
				t.Error(err)
			}
			if r.Tensors != 2*len(c.base.Targets) || r.Rank != c.base.Rank || r.Alpha != c.base.Alpha {
				t.Errorf("PEFT sees %+v", r)
			}
		})
	}
}

// Load notices an adapter that does not belong to the base model.
func TestLoadOtherBase(t *testing.T) {
	b := smolLM2(1)
	b.Targets[0].Out = 512
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := lora.Write(dir, random(b), lora.Options{Format: lora.PEFT}); err != nil {
		t.Fatal(err)
	}
	r, err := peft.Load(t.Context(), dir)
	if err == nil && r.Problem() == nil {
		t.Error("an adapter with a matrix of another size was accepted")
	}
	if err != nil && !strings.Contains(err.Error(), "size mismatch") {
		t.Errorf("unexpected reason: %v", err)
	}
}
