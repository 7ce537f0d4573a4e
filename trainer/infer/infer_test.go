package infer_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

var update = flag.Bool("update", false, "rewrite the expected weight tokens")

// each runs a test on both backends. A backend that is missing is a failure.
func each(t *testing.T, f func(t *testing.T, r *infer.Runner)) {
	for _, name := range backend.Names {
		t.Run(name, func(t *testing.T) {
			b, err := backend.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Finalize()
			r := infer.New(b)
			defer r.Close()
			f(t, r)
		})
	}
}

// backendOf is the name of the backend that each has given the test.
func backendOf(t *testing.T) string { return strings.Split(t.Name(), "/")[1] }

// fileWeights are the tensors of a safetensors file, under a prefix.
type fileWeights struct {
	*safetensors.File
	prefix string
}

func (w fileWeights) ReadWeights(name, dtype string, off int64, p []byte) error {
	key, ok := strings.CutPrefix(name, w.prefix)
	if !ok || dtype != "F32" {
		return fmt.Errorf("unexpected tensor %s as %s", name, dtype)
	}
	return w.ReadRange(key, off, p)
}

func open(t testing.TB, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func floats(t testing.TB, f *safetensors.File, name string) []float32 {
	t.Helper()
	v, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// distance is the largest difference; NaN counts as infinite.
func distance(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	worst := 0.0
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= worst) {
			worst = d
		}
		if math.IsNaN(d) {
			return math.Inf(1)
		}
	}
	return worst
}

func TestDecode(t *testing.T) {
	sizes := []struct {
		name                  string
		weights, gather, flop int64
		manyChannels          int
		spectra               int64
	}{
		{"one graph", 1 << 30, 1 << 30, 1 << 50, math.MaxInt, 0},
		{"chunks of channels", 3000, 1 << 30, 1 << 50, math.MaxInt, 0},
		{"tiles", 1 << 30, 1 << 30, 30000, math.MaxInt, 0},
		{"both", 2000, 4000, 50000, math.MaxInt, 0},
		{"products", 1 << 30, 200000, 50000, 1, 0},
		{"frequency domain", 2000, 4000, 50000, math.MaxInt, 1 << 30},
		{"frequency domain, item by item", 2000, 4000, 50000, math.MaxInt, 120000},
	}
	each(t, func(t *testing.T, r *infer.Runner) {
		for _, name := range []string{"fullcond_k5", "superlarge_k11", "fullcond_k9", "fullcond_k4_even", "mini_qwen_k3"} {
			var c decoder.Config
			readJSON(t, golden.Path("decoders", name, "config.json"), &c)
			w := fileWeights{open(t, golden.Path("decoders", name, "model.safetensors")), decoder.Prefix}
			io := open(t, golden.Path("decoders", name, "io.safetensors"))
			condition, want := floats(t, io, "condition"), floats(t, io, "output")
			info, _ := io.Lookup("condition")
			for _, s := range sizes {
				t.Run(name+"/"+s.name, func(t *testing.T) {
					if s.name != "both" && s.name != "products" && s.name != "frequency domain" && testing.Short() {
						t.Skip("short")
					}
					r.SetLimits(s.weights, s.gather, s.flop, s.manyChannels, s.spectra)
					var last graph.Progress
					got, err := r.Decode(context.Background(), c, w, condition, info.Shape[0], func(p graph.Progress) {
						if p.Done < last.Done {
							t.Errorf("progress went back from %v to %v", last, p)
						}
						last = p
					})
					if err != nil {
						t.Fatal(err)
					}
					d := distance(got, want)
					if d > 2e-5 {
						t.Errorf("difference %.1e", d)
					}
					conformance.Save(t, conformance.Record{Backend: backendOf(t), Case: "decoder/" + name, Error: d, Allowed: 2e-5})
					if last.Done > last.Total || float64(last.Done) < 0.9*float64(last.Total) {
						t.Errorf("progress ended at %+v", last)
					}
				})
			}
		}
	})
}

// A whole generation, prompts to weight tokens, is the same on every backend.
func TestGeneration(t *testing.T) {
	each(t, func(t *testing.T, r *infer.Runner) {
		p, batch := conformance.Generation(t)
		m := &p.Manifest
		condition, err := r.Encode(t.Context(), m.Encoder.Config, p.Weights(), batch.IDs, batch.Mask, batch.Texts, batch.Length, m.Condition.Pads, nil)
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := r.Decode(t.Context(), m.Decoder, p.Weights(), condition, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if *update && backendOf(t) == backend.CPU {
			if err := os.WriteFile(filepath.Join("..", "..", "internal", "conformance", "testdata", "generation.f32"), conformance.Floats(tokens), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		conformance.CheckGeneration(t, backendOf(t), tokens)
	})
}

// What ends a decoder, in one graph and in pieces: a basis of weight tokens, and Affine.
func TestDecodeEndings(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, Features: [][3]int{{2, 3, 4}, {3, 4, 4}}, KernelSize: 3, Tokens: [3]int{5, 4, 6}, Affine: true}
	w := memory{}
	for _, tensor := range c.Tensors() {
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(i%5) * 0.1
		}
		w[decoder.Prefix+tensor.Name] = values
	}
	affine, basis := c, c
	affine.Tokens, basis.Affine = [3]int{}, false
	wide := memory{} // affine's own
	for name, v := range w {
		wide[name] = v
	}
	wide[decoder.Prefix+"output.scale"], wide[decoder.Prefix+"output.offset"] = []float32{1, 2, 3}, make([]float32, 3*4*4)
	wide[decoder.Prefix+"output.offset"][7] = 5
	const batch = 2
	condition := make([]float32, batch*2*3*4)
	for i := range condition {
		condition[i] = float32(i%7) - 3
	}
	scaled := func(y []float32, w memory, tokens int) []float32 {
		scale, offset := w[decoder.Prefix+"output.scale"], w[decoder.Prefix+"output.offset"]
		plane := len(offset) / tokens
		for i := range y {
			y[i] = y[i]*scale[i/plane%tokens] + offset[i%len(offset)]
		}
		return y
	}
	expanded := func(y []float32) (out []float32) {
		table, rank := w[decoder.Prefix+"output.basis.weight"], c.Rank()
		for ; len(y) > 0; y = y[rank:] {
			for i := range len(table) / rank {
				sum := 0.0
				for j, x := range y[:rank] {
					sum += float64(x) * float64(table[i*rank+j])
				}
				out = append(out, float32(sum))
			}
		}
		return out
	}
	each(t, func(t *testing.T, r *infer.Runner) {
		for name, limit := range map[string]int64{"one graph": 1 << 30, "in pieces": 200} {
			r.SetLimits(limit, 1<<30, 1<<50, math.MaxInt, 0)
			decode := func(c decoder.Config, w memory) []float32 {
				y, err := r.Decode(t.Context(), c, w, condition, batch, nil)
				if err != nil {
					t.Fatal(err)
				}
				return y
			}
			plain := affine
			plain.Affine = false
			for _, v := range []struct {
				what      string
				got, want []float32
				allowed   float64
			}{
				{"affine", decode(affine, wide), scaled(decode(plain, w), wide, 3), 1e-6},
				{"basis", decode(basis, w), expanded(decode(plain, w)), 1e-5},
				{"both", decode(c, w), scaled(expanded(decode(plain, w)), w, 5), 1e-5},
			} {
				if d := distance(v.got, v.want); d > v.allowed {
					t.Errorf("%s, %s: difference %.1e", name, v.what, d)
				}
			}
		}
	})
}

type memory map[string][]float32

func (m memory) ReadWeights(name, _ string, off int64, p []byte) error {
	values, ok := m[name]
	if !ok || off+int64(len(p)) > 4*int64(len(values)) {
		return fmt.Errorf("%s: no bytes %d+%d", name, off, len(p))
	}
	return safetensors.EncodeFloats(safetensors.F32, values[off/4:off/4+int64(len(p))/4], p)
}

func TestErrors(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, Features: [][3]int{{2, 3, 4}, {3, 4, 4}}, KernelSize: 3}
	each(t, func(t *testing.T, r *infer.Runner) {
		if _, err := r.Decode(context.Background(), c, memory{}, make([]float32, 24), 1, nil); err == nil || !strings.Contains(err.Error(), "module_list.0.linear1.") {
			t.Errorf("missing weights: %v", err)
		}
		if _, err := r.Decode(context.Background(), c, memory{}, make([]float32, 23), 1, nil); err == nil {
			t.Error("a condition of another shape was taken")
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := r.Decode(ctx, c, memory{}, make([]float32, 24), 1, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		e := encoder.Config{ModelType: "bert", HiddenAct: "gelu", HiddenSize: 8, NumHiddenLayers: 1, NumAttentionHeads: 2,
			IntermediateSize: 8, MaxPositionEmbeddings: 16, TypeVocabSize: 1, VocabSize: 10, LayerNormEps: 1e-12}
		for name, f := range map[string]func() error{
			"id":     func() error { return encode(r, e, []uint32{10}, 1, 1, generator.PadsEncoded) },
			"length": func() error { return encode(r, e, make([]uint32, 17), 1, 17, generator.PadsEncoded) },
			"count":  func() error { return encode(r, e, make([]uint32, 5), 2, 3, generator.PadsEncoded) },
			"pads":   func() error { return encode(r, e, make([]uint32, 6), 2, 3, "none") },
		} {
			if f() == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
}

func encode(r *infer.Runner, c encoder.Config, ids []uint32, texts, length int, pads string) error {
	_, err := r.Encode(context.Background(), c, memory{}, ids, make([]uint32, len(ids)), texts, length, pads, nil)
	return err
}

func TestEncode(t *testing.T) {
	dir := golden.Path("..", "..", "..", "build", "deps", "minilm")
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatalf("%v: fetch the text encoder first (make deps)", err)
	}
	c, err := encoder.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	w := fileWeights{open(t, filepath.Join(dir, "model.safetensors")), encoder.Prefix}
	hidden := open(t, golden.Path("minilm", "hidden.safetensors"))
	type row struct {
		Text      int
		IDs       []uint32
		Positions []int
	}
	var info struct {
		Cases []struct {
			Name      string
			MaxLength int `json:"max_length"`
			Rows      []row
		}
	}
	readJSON(t, golden.Path("minilm", "info.json"), &info)
	each(t, func(t *testing.T, r *infer.Runner) {
		for _, test := range info.Cases {
			rows, length := test.Rows, test.MaxLength
			if testing.Short() || length > text.ChunkLength {
				rows = rows[:min(3, len(rows))]
			}
			ids, mask := make([]uint32, len(rows)*length), make([]uint32, len(rows)*length)
			for i, row := range rows {
				copy(ids[i*length:], row.IDs)
				for k := range row.IDs {
					mask[i*length+k] = 1
				}
			}
			for _, pads := range []string{generator.PadsEncoded, generator.PadsZero} {
				got, err := r.Encode(context.Background(), c, w, ids, mask, len(rows), length, pads, nil)
				if err != nil {
					t.Fatal(err)
				}
				worst := 0.0
				for i, row := range rows {
					want := floats(t, hidden, fmt.Sprintf("L%d.%d", length, row.Text))
					for k, position := range row.Positions {
						expected := want[k*c.HiddenSize : (k+1)*c.HiddenSize]
						if pads == generator.PadsZero && position >= len(row.IDs) {
							expected = make([]float32, c.HiddenSize)
						}
						at := (i*length + position) * c.HiddenSize
						worst = max(worst, distance(got[at:at+c.HiddenSize], expected))
					}
				}
				if worst > 2e-4 {
					t.Errorf("%s, pads %s: difference %.1e", test.Name, pads, worst)
				}
				t.Logf("%s, pads %s: difference %.1e", test.Name, pads, worst)
				conformance.Save(t, conformance.Record{Backend: backendOf(t), Case: "encoder/" + test.Name, Error: worst, Allowed: 2e-4})
			}
		}
	})
}
