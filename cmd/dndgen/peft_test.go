package main

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/peft"
)

// An adapter from prompts, made on a WebGPU device, loads onto its base model with the
// real PEFT: no key missing, none unexpected, every value as written.
func TestGeneratedAdapterLoads(t *testing.T) {
	base, tiling := peft.Base(4, 8), lora.Tiling{Kind: lora.CustomCut, Height: 6, Width: 194, Chunk: 192}
	layout, err := lora.NewLayout(base, tiling)
	if err != nil {
		t.Fatal(err)
	}
	count, height, width := layout.Shape()
	config := decoder.Config{Class: decoder.FullCond, KernelSize: 3, Features: [][3]int{{4, 16, 384}, {16, 12, 32}, {count, height, width}}}
	dir, out := filepath.Join(t.TempDir(), "generator"), filepath.Join(t.TempDir(), "adapter")
	m := generator.Manifest{
		Name: "made-up", Base: &base, Tiling: tiling, Decoder: config,
		Condition:  generator.Condition{Texts: 4, Length: 16, Width: 384, Pads: generator.PadsEncoded},
		Provenance: generator.Provenance{Source: "made-up weights, not trained"},
	}
	if err := generator.Write(t.Context(), dir, m, generator.MadeUpTensors(config, 1), minilm, generator.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	clitest.OK(t, "generate", "--quiet", "--backend", "webgpu", "--generator", dir, "--prompts", write(t, "p.txt", "one\ntwo\nthree\nfour\n"), "--out", out)
	r, err := peft.Load(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Problem(); err != nil {
		t.Error(err)
	}
	if r.Tensors != 420 || r.Rank != 4 || r.Alpha != 8 {
		t.Errorf("PEFT sees %+v", r)
	}
}
