package gpu_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunAll(t, open(t, gpu.Options{Device: -1}))
}
