package infer_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// BenchmarkLayers is how many times as long each layer of the reference's decoder for
// Qwen2.5-0.5B takes with the backend's own convolutions, whole layers by turns. What stays
// one is as fast as it was: there the backend's own is what a Runner chooses.
func BenchmarkLayers(b *testing.B) {
	for _, name := range backend.Names {
		be, err := backend.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		direct, chosen := infer.New(be), infer.New(be)
		direct.OnlyDirect()
		for i := range len(reference05B.Features) - 1 {
			c := decoder.Config{Class: reference05B.Class, Features: reference05B.Features[i : i+2], KernelSize: reference05B.KernelSize}
			b.Run(fmt.Sprintf("%s/%d", name, i), func(b *testing.B) {
				in := c.Condition()
				condition := make([]float32, in[0]*in[1]*in[2])
				for i := range condition {
					condition[i] = float32(i%17) - 8
				}
				walls, processors := [2]time.Duration{math.MaxInt64, math.MaxInt64}, [2]time.Duration{math.MaxInt64, math.MaxInt64}
				for range b.N {
					for k, r := range []*infer.Runner{direct, chosen} {
						begin, used := time.Now(), processor(b)
						if _, err := r.Decode(b.Context(), c, madeUp{}, condition, 1, nil); err != nil {
							b.Fatal(err)
						}
						walls[k], processors[k] = min(walls[k], time.Since(begin)), min(processors[k], processor(b)-used)
					}
				}
				b.ReportMetric(walls[0].Seconds(), "direct-s")
				b.ReportMetric(walls[1].Seconds(), "chosen-s")
				b.ReportMetric(walls[0].Seconds()/walls[1].Seconds(), "gain")
				b.ReportMetric(processors[0].Seconds()/processors[1].Seconds(), "cpu-gain")
				b.ReportMetric(0, "ns/op")
			})
		}
		direct.Close()
		chosen.Close()
		be.Finalize()
	}
}
