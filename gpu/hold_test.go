package gpu_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
)

// staged adds 2·x to y in a stage and 3·w to z in another.
func staged(n int) *graph.Program {
	p := program(n, graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: int64(4 * n)})
	x, y := p.Buffers[1], p.Buffers[2]
	x.Label, y.Label, x.Source.Name = "w", "z", "w"
	p.Buffers = append(p.Buffers, x, y)
	p.Reads = append(p.Reads, graph.Read{Name: "z", Buffer: 4, Bytes: int64(4 * n)})
	p.Dispatches[0].Stage, p.Dispatches[1].Stage = "first", "second"
	p.Dispatches[1].Binds[1].Buffer, p.Dispatches[1].Binds[2].Buffer = 3, 4
	return p
}

// A held Program keeps its buffers from run to run, and a run is one stage: its inputs, its
// dispatches, its reads.
func TestHold(t *testing.T) {
	const n = 100
	d := open(t, gpu.Options{Device: -1})
	h, err := d.Hold(staged(n), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, c := range []struct {
		stage, input, output string
		factor               float32
	}{{"first", "x", "y", 2}, {"second", "w", "z", 3}, {"first", "x", "y", 4}, {"first", "x", "y", 6}, {"second", "w", "z", 6}} {
		result, err := h.Run(t.Context(), c.stage, []graph.Input{{Name: c.input, Data: floats(n)}})
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Outputs) != 1 || result.Outputs[0].Name != c.output || len(result.Stages) != 1 || result.Stages[0].Stage != c.stage {
			t.Fatalf("%s gave %d outputs of stages %v", c.stage, len(result.Outputs), result.Stages)
		}
		for i := range n {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(result.Outputs[0].Data[4*i:])); got != c.factor*float32(i) {
				t.Fatalf("%s[%d] = %v, want %v times %d", c.output, i, got, c.factor, i)
			}
		}
	}
	for _, end := range []struct{ stage, input, want string }{
		{"third", "x", `no stage "third"`},
		{"second", "x", "w"}, // the other stage's input
	} {
		h, err := d.Hold(staged(n), nil)
		if err != nil {
			t.Fatal(err)
		}
		inputs := []graph.Input{{Name: end.input, Data: floats(n)}}
		if _, err := h.Run(t.Context(), end.stage, inputs); err == nil || !strings.Contains(err.Error(), end.want) {
			t.Errorf("stage %s with input %s: %v, want %q", end.stage, end.input, err, end.want)
		}
		if _, err := h.Run(t.Context(), "first", inputs); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("after an error: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}
