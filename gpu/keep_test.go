package gpu_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// What a prepared Program is counted to take is what the device allocates: it runs in that and
// a piece on its way, and takes no less. A second run brings the input alone.
func TestPreparedMemory(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{{32, 12, 16}, {256, 8, 24}, {96, 8, 8}}}
	p := generator.MadeUpDecoder("prepared", c, 1)
	input := []graph.Input{{Name: generator.InputCondition, Data: make([]byte, 4*32*12*16)}}
	for _, way := range []graph.Method{graph.Direct, graph.Fourier, ""} {
		limits := graph.DefaultLimits()
		limits.Tuning = &graph.Tuning{All: graph.ConvWay{Method: way}}
		program, err := generator.PrepareDecode(&p.Manifest, limits, 1, generator.F16, &graph.Preparation{})
		if err != nil {
			t.Fatal(err)
		}
		want := program.Memory().Held
		if want < program.Memory().Peak {
			t.Errorf("%s: held it takes %d bytes, else %d", way, want, program.Memory().Peak)
		}
		const piece = 8 << 20
		d := open(t, gpu.Options{Device: -1, MemoryBudget: want + piece})
		h, err := d.Hold(program, p.Weights())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		for i := range 2 {
			r, err := h.Run(t.Context(), decoder.Stage, input, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.PeakBytes < want || r.PeakBytes > want+piece {
				t.Errorf("%s: %d bytes at a time, counted were %d", way, r.PeakBytes, want)
			}
			if i == 1 && r.UploadedBytes != int64(len(input[0].Data)) {
				t.Errorf("%s: %d bytes were brought for another run", way, r.UploadedBytes)
			}
		}
	}
}

// failing is a device whose held Programs fail when they are told to.
type failing struct {
	*gpu.Device
	err *error
}

type failingHeld struct {
	graph.Held
	err *error
}

func (f failing) Hold(p *graph.Program, w graph.Weights) (graph.Held, error) {
	h, err := f.Device.Hold(p, w)
	return failingHeld{h, f.err}, err
}

func (f failingHeld) Run(ctx context.Context, stage string, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	if *f.err != nil {
		return nil, *f.err
	}
	return f.Held.Run(ctx, stage, in, report)
}

// Keep takes the most that fits: all prepared, weights, nothing. Adapters are the same with
// each, and after a kept Program has failed.
func TestKeep(t *testing.T) {
	p := madeup.Open(t)
	tokenizer, err := p.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := text.Draw([]string{"what is the capital of france?", "name a colour"}, p.Manifest.Condition.Texts, 0, 0)
	batch, err := tokenizer.Encode(texts, p.Manifest.Condition.Length)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, gpu.Options{Device: -1})
	var failure error
	r := generator.NewRunner(failing{d, &failure}, "webgpu", "", generator.Q8, func() error { return nil })
	var notes []string
	r.Note(func(s string) { notes = append(notes, s) })
	defer r.Close()
	generate := func() []float32 {
		t.Helper()
		condition, err := r.Encode(t.Context(), p, batch, nil)
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := r.Decode(t.Context(), p, condition, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	want := generate()
	same := func(what string, got []float32) {
		t.Helper()
		for i := range want {
			if d := math.Abs(float64(got[i] - want[i])); !(d <= 1e-5) {
				t.Fatalf("%s: value %d is %v, want %v", what, i, got[i], want[i])
			}
		}
	}
	keep := func(bytes int64) generator.Kept {
		t.Helper()
		k, err := r.Keep(p, 1, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	all := keep(1 << 30)
	if all.Resident != generator.ResidentPrepared || all.Bytes == 0 || all.Bytes > 1<<30 {
		t.Fatalf("a gibibyte: %+v", all)
	}
	first := generate()
	same("prepared", first)
	before, _ := r.Uploads()
	again := generate()
	after, _ := r.Uploads()
	// Ids, mask and condition.
	if c := p.Manifest.Condition; after-before != int64(4*c.Texts*c.Length*(2+c.Width)) {
		t.Errorf("the second adapter brought %d bytes", after-before)
	}
	for i := range first {
		if first[i] != again[i] {
			t.Fatalf("the second adapter differs from the first in value %d", i)
		}
	}
	if k := keep(1 << 30); k != all {
		t.Errorf("the same again: %+v, before %+v", k, all)
	}
	seen := map[generator.Resident]bool{}
	for bytes := all.Bytes; bytes > 1<<16; bytes = bytes * 3 / 4 {
		k := keep(bytes)
		if k.Bytes > bytes || (k.Bytes == 0) != (k.Resident == generator.ResidentNothing) {
			t.Errorf("%d bytes: %+v", bytes, k)
		}
		if !seen[k.Resident] {
			seen[k.Resident] = true
			same(fmt.Sprintf("%d bytes, %q", bytes, k.Resident), generate())
		}
	}
	t.Logf("%d bytes prepared; tried: %v", all.Bytes, seen)
	if !seen[generator.ResidentPrepared] || !seen[generator.ResidentNothing] {
		t.Errorf("tried: %v", seen)
	}
	if len(notes) > 0 {
		t.Errorf("notes: %q", notes)
	}

	// A lost device is tried again with the next adapter, too little memory is not.
	for _, c := range []struct {
		err  error
		next generator.Resident
	}{{errors.New("gone"), generator.ResidentPrepared}, {fmt.Errorf("full: %w", graph.ErrMemory), generator.ResidentNothing}} {
		keep(1 << 30)
		failure, notes = c.err, nil
		same(c.err.Error(), generate())
		if len(notes) != 1 || !strings.Contains(notes[0], c.err.Error()) {
			t.Errorf("%v: notes %q", c.err, notes)
		}
		failure = nil
		if k := keep(1 << 30); k.Resident != c.next {
			t.Errorf("after %v: %+v", c.err, k)
		}
		same("after "+c.err.Error(), generate())
	}
	// Who cancels gets no other run.
	keep(1<<30 - 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Encode(ctx, p, batch, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	same("after a cancelled run", generate())
}

// Where memory takes the weights but not the transforms of kernels that make a run short, the
// weights stay as they are.
func TestKeepWeights(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{{4, 16, 384}, {64, 64, 64}, {64, 64, 64}, {64, 64, 64}, {64, 64, 64}, {64, 64, 64}}}
	p := generator.MadeUpDecoder("kernels of nine", c, 1)
	d := open(t, gpu.Options{Device: -1})
	r := generator.NewRunner(d, "webgpu", "", generator.F32, func() error { return nil })
	defer r.Close()
	condition := make([]float32, 4*16*384)
	for i := range condition {
		condition[i] = float32(math.Sin(float64(i)))
	}
	decode := func() []float32 {
		t.Helper()
		tokens, err := r.Decode(t.Context(), p, condition, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	want := decode()
	var kept generator.Kept
	for bytes := int64(1 << 30); kept.Resident != generator.ResidentWeights; bytes = bytes * 15 / 16 {
		var err error
		if kept, err = r.Keep(p, 1, bytes); err != nil {
			t.Fatal(err)
		}
		if kept.Resident == generator.ResidentNothing {
			t.Fatalf("nothing stays in %d bytes, and weights alone did in no more", bytes)
		}
	}
	for i, v := range decode() {
		if math.Abs(float64(v-want[i])) > 1e-5*(1+math.Abs(float64(want[i]))) {
			t.Fatalf("value %d is %v, want %v", i, v, want[i])
		}
	}
	before, _ := r.Uploads()
	decode()
	if after, _ := r.Uploads(); after-before != int64(4*len(condition)) {
		t.Errorf("another adapter brought %d bytes, expected the condition alone", after-before)
	}
}
