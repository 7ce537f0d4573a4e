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

// What runs once runs with the first run, before it, whichever stage that is of, and again
// only where the Program is run whole.
func TestHoldOnce(t *testing.T) {
	const n = 100
	d := open(t, gpu.Options{Device: -1})
	p := program(n, graph.Source{Kind: graph.SourceWeights, Name: "w", DType: "F32", Bytes: 4 * n})
	// The first dispatch makes 2·w, the second adds 3·(2·w) to y.
	p.Buffers = append(p.Buffers, graph.Buffer{Label: "made", Bytes: 4 * n, Source: graph.Source{Kind: graph.SourceZero}})
	p.Dispatches[0].Stage, p.Dispatches[0].Binds[2].Buffer = "once", 3
	p.Dispatches[1].Binds[1].Buffer = 3
	p.Once = "once"
	h, err := d.Hold(p, weights{"w": floats(n)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i, stage := range []string{"once", "test", "test", "once", "test"} {
		result, err := h.Run(t.Context(), stage, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		uploads := result.UploadedBytes
		if i == 0 && uploads != 512+4*n || i == 1 && uploads != 0 || i > 1 && uploads != 0 {
			t.Errorf("run %d, %s: %d bytes were uploaded", i, stage, uploads)
		}
		if stage == "once" {
			continue
		}
		runs := map[int]float32{1: 1, 2: 2, 4: 3}[i]
		for j := range n {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(result.Outputs[0].Data[4*j:])); got != runs*6*float32(j) {
				t.Fatalf("run %d: y[%d] = %v, want %v times %d", i, j, got, runs*6, j)
			}
		}
	}
	whole, err := d.Run(t.Context(), p, weights{"w": floats(n)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := math.Float32frombits(binary.LittleEndian.Uint32(whole.Outputs[0].Data[4:])); got != 6 {
		t.Errorf("run whole: y[1] = %v, want 6", got)
	}
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
		result, err := h.Run(t.Context(), c.stage, []graph.Input{{Name: c.input, Data: floats(n)}}, nil)
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
		if _, err := h.Run(t.Context(), end.stage, inputs, nil); err == nil || !strings.Contains(err.Error(), end.want) {
			t.Errorf("stage %s with input %s: %v, want %q", end.stage, end.input, err, end.want)
		}
		if _, err := h.Run(t.Context(), "first", inputs, nil); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("after an error: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}
