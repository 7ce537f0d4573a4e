package peft_test

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/peft"
)

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

// An adapter of a part of the layers needs full names of modules; all layers under the
// short names are tested with dndgen.
func TestLoad(t *testing.T) {
	base := peft.Base(4, 8)
	base.Targets = base.Targets[7:14]
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := lora.Write(dir, random(base), lora.Options{Format: lora.PEFT, DType: safetensors.BF16}); err != nil {
		t.Fatal(err)
	}
	r, err := peft.Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Problem(); err != nil {
		t.Error(err)
	}
	if r.Tensors != 14 || r.Rank != 4 || r.Alpha != 8 {
		t.Errorf("PEFT sees %+v", r)
	}
}

// Load notices an adapter that does not belong to the base model.
func TestLoadOtherBase(t *testing.T) {
	b := peft.Base(4, 8)
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
