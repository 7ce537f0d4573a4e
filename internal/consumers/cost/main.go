// Command cost measures what merging an adapter into a quantised GGUF base costs: for each
// type of the merged tensors, how much of the adapter the rounding eats, and how far
// llama.cpp's logits are from those of the base with the adapter beside it. It prints the
// table of docs/consumers.md.
//
//	go run ./internal/consumers/cost BASE.gguf ADAPTER
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/merge"
	"github.com/drag-and-drop-lora/dnd/internal/consumers"
	"github.com/drag-and-drop-lora/dnd/trainer/dequant"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// questions are what the models are asked.
var questions = []string{
	"What is the capital of France?", "Write a short poem about the sea.", "How do I sort a list in Python?",
	"Explain photosynthesis in one sentence.", "Who wrote Hamlet?", "Give me a recipe for pancakes.",
	"Which topic is this about: the central bank raised interest rates?", "Translate 'good morning' into German.",
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: cost BASE.gguf ADAPTER")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, base, adapter string) error {
	spec, err := lora.ReadSpec(base)
	if err != nil {
		return err
	}
	a, err := lora.Read(adapter, spec)
	if err != nil {
		return err
	}
	prompts, err := tokens(base)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cost-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	beside := filepath.Join(dir, "adapter")
	if err := lora.Write(beside, a, lora.Options{Format: lora.GGUF}); err != nil {
		return err
	}
	jobs := []consumers.Job{
		{Program: consumers.LlamaCPP, Model: base, Adapter: filepath.Join(beside, lora.GGUFName), Prompts: prompts},
		{Program: consumers.LlamaCPP, Model: base, Prompts: prompts},
	}
	names, lost, sizes := []string{"base + adapter", "base alone"}, []float64{0, 1}, []int64{size(base), size(base)}
	for _, kind := range []string{"f32", "f16", "bf16", "q8_0", "q5_1", merge.Same} {
		out := filepath.Join(dir, kind)
		r, err := mergeInto(ctx, base, a, kind, out)
		if err != nil {
			return err
		}
		path := filepath.Join(out, merge.GGUFName)
		jobs = append(jobs, consumers.Job{Program: consumers.LlamaCPP, Model: path, Prompts: prompts})
		names, lost, sizes = append(names, "merged, "+kind), append(lost, r.Lost), append(sizes, size(path))
	}
	results, err := consumers.Logits(ctx, jobs...)
	if err != nil {
		return err
	}
	own, err := consumers.Own(base, a, prompts)
	if err != nil {
		return err
	}
	results, names = append(results, own), append(names, "dnd: base + adapter, in float32")
	lost, sizes = append(lost, 0), append(sizes, size(base))
	fmt.Println("| model | MB | lost of the adapter | largest difference of a logit | KL divergence, nats |")
	fmt.Println("|---|---|---|---|---|")
	for i, r := range results {
		fmt.Printf("| %s | %.0f | %.3g | %.2g | %.2g |\n", names[i], float64(sizes[i])/1e6, lost[i], consumers.Farthest(results[0], r), consumers.Divergence(results[0], r))
	}
	return nil
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func mergeInto(ctx context.Context, base string, a *lora.Adapter, kind, out string) (*merge.Report, error) {
	f, err := gguf.Open(base)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	values, err := dequant.Open(f)
	if err != nil {
		return nil, err
	}
	defer values.Close()
	return merge.GGUF(ctx, f, values, a, kind, out, nil)
}

// tokens are the questions in the base's chat template.
func tokens(base string) ([][]int32, error) {
	b, err := backend.Open(backend.CPU)
	if err != nil {
		return nil, err
	}
	defer b.Finalize()
	m, err := lm.Load(base, b)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var list [][]int32
	for _, q := range questions {
		ids, err := m.Prompt("", q)
		if err != nil {
			return nil, err
		}
		list = append(list, ids)
	}
	return list, nil
}
