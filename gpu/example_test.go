package gpu_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// From prompts to an adapter's folder, on the best device of this machine. A program opens
// models/default or another generator where this one makes one up.
func Example() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	if err := madeup.Write(ctx, filepath.Join(dir, "generator")); err != nil {
		log.Fatal(err)
	}

	device, err := gpu.Open(gpu.Options{Device: -1})
	if err != nil {
		log.Fatal(err)
	}
	runner := generator.NewRunner(device, "webgpu", device.Info().Name, generator.F32, device.Close)
	defer runner.Close()
	p, err := generator.Open(filepath.Join(dir, "generator"))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	adapter, _, err := generator.Generate(ctx, p, runner, []string{"Name a colour.", "Name a number."}, 0, 0, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := lora.Write(filepath.Join(dir, "adapter"), adapter, lora.Options{Format: lora.GGUF}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("rank", adapter.Base.Rank, "for", len(adapter.Base.Targets), "modules")
	// Output:
	// rank 8 for 14 modules
}
