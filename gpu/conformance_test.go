package gpu_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

func TestConformance(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	conformance.RunAll(t, d, d.Info().Name)
}

func TestHeldConformance(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	conformance.RunHeld(t, d, d.Info().Name)
}

func TestGeneration(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	conformance.RunGeneration(t, d, d.Info().Name)
}

// BenchmarkConv is one convolution of a decoder's middle layers and one linear layer of
// the text encoder, weights loaded and repacked each time.
func BenchmarkConv(b *testing.B) {
	d := open(b, gpu.Options{Device: -1})
	for _, c := range []conformance.ConvBench{
		{Name: "k9_256x256_16x64", Shape: [4]int{1, 256, 16, 64}, Out: 256, K: 9},
		{Name: "linear_384x1536_3072", Shape: [4]int{1, 384, 1, 3072}, Out: 1536, K: 1},
	} {
		b.Run(c.Name, func(b *testing.B) {
			run, macs, err := c.Prepare(d, graph.ConvWay{})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := run(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(2*float64(macs)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
		})
	}
}
