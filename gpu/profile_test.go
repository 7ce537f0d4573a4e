package gpu_test

import (
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
)

// Parts are the labels of the dispatches, with their costs and times that are there only
// when asked for; the result is the same. Both software devices have timestamps.
func TestProfile(t *testing.T) {
	const n = 10000
	p := program(n, graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: 4 * n})
	in := []graph.Input{{Name: "x", Data: floats(n)}}
	for _, profile := range []bool{false, true} {
		d := open(t, gpu.Options{Device: -1, Profile: profile})
		began := time.Now()
		result, err := d.Run(t.Context(), p, nil, in, nil)
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		checkY(t, result, n)
		if !profile {
			if len(result.Parts) != 0 {
				t.Errorf("parts without Profile: %+v", result.Parts)
			}
			continue
		}
		if !result.Timestamps {
			t.Error("timed by waiting, on a device with timestamps")
		}
		if len(result.Parts) != len(p.Dispatches) {
			t.Fatalf("parts %+v, expected one for each of %d dispatches", result.Parts, len(p.Dispatches))
		}
		var all time.Duration
		for _, part := range result.Parts {
			all += part.Duration
		}
		if all > took {
			t.Errorf("the parts took %s, the whole run %s", all, took)
		}
		for i, part := range result.Parts {
			if d := p.Dispatches[i]; part.Label != d.Label || part.Stage != d.Stage || part.Way != "add" || part.MACs != d.Cost || part.Duration <= 0 || part.Bytes != 2*4*n {
				t.Errorf("part %d is %+v, expected %s of %s", i, part, d.Label, d.Stage)
			}
		}
	}
}
