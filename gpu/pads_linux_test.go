package gpu_test

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// BenchmarkPads is what hidden tokens cost: the processor time of texts in a Program for
// longer ones and in one for their own length, by turns.
func BenchmarkPads(b *testing.B) {
	d := open(b, gpu.Options{Device: -1})
	p, err := generator.OpenEncoder("../build/deps/minilm", 1, 512)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for _, c := range []struct {
		name                 string
		texts, text, own, of int
	}{{"16 of 9 in 64, or 16", 16, 9, 16, 64}, {"4 of 64 in 512, or 64", 4, 64, 64, 512}} {
		b.Run(c.name, func(b *testing.B) {
			least := [2]time.Duration{math.MaxInt64, math.MaxInt64}
			for b.Loop() {
				for i, length := range []int{c.of, c.own} {
					ids, mask := make([]byte, 4*c.texts*length), make([]byte, 4*c.texts*length)
					for t := range c.texts {
						for k := range c.text {
							at := 4 * (t*length + k)
							binary.LittleEndian.PutUint32(ids[at:], uint32(1000+at))
							mask[at] = 1
						}
					}
					build := graph.NewBuilder(d.Limits())
					build.Read("condition", encoder.Build(build, p.Manifest.Encoder.Config, 1, c.texts, length, encoder.Options{ZeroPads: true}))
					program, err := build.Program()
					if err != nil {
						b.Fatal(err)
					}
					used := processor()
					if _, err := d.Run(b.Context(), program, p.Weights(), []graph.Input{{Name: encoder.InputIDs, Data: ids}, {Name: encoder.InputMask, Data: mask}}, nil); err != nil {
						b.Fatal(err)
					}
					least[i] = min(least[i], processor()-used)
				}
			}
			b.ReportMetric(least[0].Seconds(), "cpu-s")
			b.ReportMetric(least[0].Seconds()/least[1].Seconds(), "own-length-gain")
			b.ReportMetric(0, "ns/op")
		})
	}
}
