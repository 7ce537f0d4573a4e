package gpu_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// A decoder that does not fit in memory as it is usually planned runs in smaller pieces,
// and says so; from then on it begins with these. One that does not fit at all says that it
// was tried.
func TestSmallerPieces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "generator")
	if err := generator.MadeUp(t.Context(), dir, generator.MadeUpOptions{Shape: "mini", Seed: 3}); err != nil {
		t.Fatal(err)
	}
	p, err := generator.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	in := p.Manifest.Decoder.Condition()
	random := rand.New(rand.NewPCG(1, 2))
	condition := make([]float32, in[0]*in[1]*in[2])
	for i := range condition {
		condition[i] = float32(random.NormFloat64())
	}
	decode := func(budget int64, times int) (values []float32, notes []string, err error) {
		d := open(t, gpu.Options{Device: -1, MemoryBudget: budget})
		r := generator.NewRunner(d, "webgpu", d.Info().Name, generator.F32, d.Close)
		r.Note(func(text string) { notes = append(notes, text) })
		for range times {
			if values, err = r.Decode(t.Context(), p, condition, 1, nil); err != nil {
				break
			}
		}
		return values, notes, err
	}
	want, notes, err := decode(0, 1)
	if err != nil || len(notes) > 0 {
		t.Fatal(err, notes)
	}
	got, notes, err := decode(900_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "pieces of at most") {
		t.Errorf("notes %q, want one", notes)
	}
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-4*(1+math.Abs(float64(want[i]))) {
			t.Fatalf("value %d is %v in pieces, %v in one", i, got[i], want[i])
		}
	}
	_, _, err = decode(300_000, 1)
	if !errors.As(err, new(*gpu.BudgetError)) || !strings.Contains(err.Error(), "in pieces of at most") {
		t.Errorf("got %v", err)
	}
	if !errors.Is(&gpu.OutOfMemoryError{}, graph.ErrMemory) || errors.Is(&gpu.DeviceLostError{}, graph.ErrMemory) {
		t.Error("which errors are of memory?")
	}
}
