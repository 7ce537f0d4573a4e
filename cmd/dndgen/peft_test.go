package main

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/peft"
)

// What the shipped generator makes of an unseen task's prompts, on a WebGPU device, loads
// onto its base model with the real PEFT: no key missing, none unexpected, every value as
// written.
func TestGeneratedAdapterLoads(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	for _, weights := range []string{"f32", "q8"} {
		t.Run(weights, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "adapter")
			clitest.OK(t, "generate", "--quiet", "--backend", "webgpu", "--weights", weights, "--generator", filepath.Join(models, "default"),
				"--prompts", filepath.Join(models, "data", "test", "topic-tag.json"), "--out", out)
			r, err := peft.Load(t.Context(), out)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Problem(); err != nil {
				t.Error(err)
			}
			if r.Tensors != 420 || r.Rank != 8 || r.Alpha != 16 {
				t.Errorf("PEFT sees %+v", r)
			}
		})
	}
}
