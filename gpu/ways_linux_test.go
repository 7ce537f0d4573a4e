package gpu_test

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

// BenchmarkWays is each of the layers by direct summation and in the frequency domain, by
// turns.
func BenchmarkWays(b *testing.B) {
	d := open(b, gpu.Options{Device: -1})
	for _, c := range conformance.Layers {
		b.Run(c.Name, func(b *testing.B) {
			direct, fourier, err := c.Compare(b.Context(), d, b.N, processor)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(direct.Wall.Seconds(), "direct-s")
			b.ReportMetric(fourier.Wall.Seconds(), "fourier-s")
			b.ReportMetric(direct.Wall.Seconds()/fourier.Wall.Seconds(), "gain")
			b.ReportMetric(direct.Processor.Seconds(), "direct-cpu-s")
			b.ReportMetric(fourier.Processor.Seconds(), "fourier-cpu-s")
			b.ReportMetric(direct.Processor.Seconds()/fourier.Processor.Seconds(), "cpu-gain")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkTiles is what direct summation gains by another tile than the planner's, at an
// eighth of a decoder's convolutions: the run of each with the least processor time, by turns.
func BenchmarkTiles(b *testing.B) {
	d := open(b, gpu.Options{Device: -1})
	for _, c := range []conformance.ConvBench{
		{Name: "k9_128to64_16x64", Shape: [4]int{1, 128, 16, 64}, Out: 64, K: 9},
		{Name: "k3_256to64_16x130", Shape: [4]int{1, 256, 16, 130}, Out: 64, K: 3},
	} {
		b.Run(c.Name, func(b *testing.B) {
			tiles := append([]graph.Tile{{}}, graph.Tiles()...)
			runs, least := make([]func(context.Context) error, len(tiles)), make([]time.Duration, len(tiles))
			for i, tile := range tiles {
				var err error
				if runs[i], _, err = c.Prepare(d, graph.ConvWay{Method: graph.Direct, Tile: tile}); err != nil {
					b.Fatal(err)
				}
				least[i] = math.MaxInt64
			}
			for b.Loop() {
				for i, run := range runs {
					used := processor()
					if err := run(b.Context()); err != nil {
						b.Fatal(err)
					}
					least[i] = min(least[i], processor()-used)
				}
			}
			for i, tile := range tiles[1:] {
				b.ReportMetric(least[0].Seconds()/least[i+1].Seconds(), fmt.Sprintf("x-%dx%d", tile.Outputs, tile.Positions))
			}
		})
	}
}

// processor is the time that this process's threads have computed for.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
