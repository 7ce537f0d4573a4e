package lora_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Weight tokens become an adapter that PEFT loads.
func ExampleWrite() {
	base := lora.Base{
		Model: "example/base", Architecture: "qwen2", Rank: 2, Alpha: 4,
		Targets: []lora.Target{{Name: "model.layers.0.self_attn.q_proj", In: 8, Out: 8}},
	}
	tiling := lora.Tiling{Kind: lora.CustomCut, Height: 4, Width: 6, Chunk: 4}
	layout, err := lora.NewLayout(base, tiling)
	if err != nil {
		fmt.Println(err)
		return
	}
	count, height, width := layout.Shape()
	tokens := make([]float32, count*height*width) // what a decoder made
	for i := range tokens {
		tokens[i] = float32(i%5) - 2
	}
	adapter, err := layout.Decode(tokens, lora.Float32)
	if err != nil {
		fmt.Println(err)
		return
	}
	parent, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "adapter")
	err = lora.Write(dir, adapter, lora.Options{
		Format: lora.PEFT, DType: safetensors.BF16,
		Provenance: lora.Provenance{Generator: "example", Seed: 1},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	info, err := lora.Verify(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(count, "tokens of", height, "by", width)
	for _, f := range info.Files {
		fmt.Println(f.Name)
	}
	// Output:
	// 4 tokens of 4 by 6
	// adapter_config.json
	// adapter_model.safetensors
}
