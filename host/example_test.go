package host_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/host"
	"github.com/drag-and-drop-lora/dnd/internal/guestwasm"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// An adapter from two prompts. A program has dnd.wasm as a file or embeds it, opens
// models/default or another generator, and has a GPU as its executor: gpu.Open.
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
	wasm, err := guestwasm.Build()
	if err != nil {
		log.Fatal(err)
	}

	h, err := host.New(ctx, host.Options{Guest: wasm, Executor: &pretender{}, CacheDir: cacheDir})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	p, err := generator.Open(filepath.Join(dir, "generator"))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	result, err := h.Generate(ctx, p, host.Request{Prompts: []byte("Name a colour.\nName a number.\n"), Name: "prompts.txt"})
	if err != nil {
		log.Fatal(err)
	}
	if err := lora.WriteFiles(filepath.Join(dir, "adapter"), result.Files); err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Info.Prompts, "prompts for", result.Info.Texts, "places")
	for _, f := range result.Files {
		fmt.Println(f.Name)
	}
	// Output:
	// 2 prompts for 4 places
	// adapter_config.json
	// adapter_model.safetensors
	// dnd.json
}
