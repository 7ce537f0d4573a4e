package infer_test

import (
	"context"
	"math"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// What is traced is all that Work counts, and neither is direct summation's work where
// convolutions are done in the frequency domain.
func TestTrace(t *testing.T) {
	each(t, func(t *testing.T, r *infer.Runner) {
		for _, name := range []string{"fullcond_k9", "superlarge_k11"} {
			var c decoder.Config
			readJSON(t, golden.Path("decoders", name, "config.json"), &c)
			w := fileWeights{open(t, golden.Path("decoders", name, "model.safetensors")), decoder.Prefix}
			io := open(t, golden.Path("decoders", name, "io.safetensors"))
			info, _ := io.Lookup("condition")
			batch := info.Shape[0]
			r.SetLimits(2000, 1<<30, 1<<50, math.MaxInt, 1<<30)
			var parts []graph.PartTime
			r.Trace(func(p graph.PartTime) { parts = append(parts, p) })
			if _, err := r.Decode(context.Background(), c, w, floats(t, io, "condition"), batch, nil); err != nil {
				t.Fatal(err)
			}
			r.Trace(nil)
			var sum int64
			for _, p := range parts {
				sum += p.MACs
				if p.Duration <= 0 || p.Stage != decoder.Stage || p.Label == "" || p.Way == "" {
					t.Errorf("%s: part %+v", name, p)
				}
			}
			count := r.Count(c, batch)
			if work := count.MACs; sum != work || work == c.MACs(batch) {
				t.Errorf("%s: parts of %d multiply-accumulates, counted %d, by direct summation %d", name, sum, work, c.MACs(batch))
			}
			for i, p := range parts {
				p.Duration = 0
				if i >= len(count.Parts) || p != count.Parts[i] {
					t.Errorf("%s: part %+v, not among those counted", name, p)
				}
			}
		}
		peaks, err := r.Probe()
		if err != nil || peaks.FLOPS < 1e6 || peaks.Bytes < 1e6 {
			t.Errorf("probe: %+v, %v", peaks, err)
		}
	})
}
