package host_test

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/host"
)

// BenchmarkGenerate is all but the GPU's part of an adapter of the shipped generator: with
// this process's own packages, with a guest that is trusted, and with one that can be
// stopped anywhere.
func BenchmarkGenerate(b *testing.B) {
	p, err := generator.Open(filepath.Join("..", "models", "default"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	r := host.Request{Prompts: []byte("What is the capital of France?\nName a colour.\n"), Name: "p.txt", Format: lora.PEFT}
	e := &pretender{}
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			direct(b, p, e, r)
		}
	})
	for _, trusted := range []bool{true, false} {
		h := start(b, host.Options{Executor: e, Trusted: trusted})
		b.Run(map[bool]string{true: "trusted", false: "stoppable"}[trusted], func(b *testing.B) {
			stages := map[string]float64{}
			for b.Loop() {
				result, err := h.Generate(b.Context(), p, r)
				if err != nil {
					b.Fatal(err)
				}
				for _, s := range result.Stages {
					stages[s.Stage] += s.Duration.Seconds()
				}
			}
			for _, s := range []string{"feed", "finish"} {
				b.ReportMetric(stages[s]/float64(b.N), s+"-s/op")
			}
		})
	}
}
