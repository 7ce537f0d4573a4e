package infer_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

var smallEncoder = encoder.Config{ModelType: "bert", HiddenAct: "gelu", HiddenSize: 8, NumHiddenLayers: 2, NumAttentionHeads: 2,
	IntermediateSize: 16, MaxPositionEmbeddings: 512, TypeVocabSize: 1, VocabSize: 50, LayerNormEps: 1e-12}

func smallWeights(c encoder.Config) memory {
	rng, w := rand.New(rand.NewPCG(1, 2)), memory{}
	for _, tensor := range c.Tensors() {
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		w[encoder.Prefix+tensor.Name] = v
	}
	return w
}

// texts are the ids and mask of texts of the given lengths. Ids at padding are the
// tokenizer's, so that texts differ by theirs alone.
func texts(c encoder.Config, length int, lengths []int) (ids, mask []uint32) {
	rng := rand.New(rand.NewPCG(3, uint64(length)))
	ids, mask = make([]uint32, len(lengths)*length), make([]uint32, len(lengths)*length)
	for i, n := range lengths {
		for k := range n {
			ids[i*length+k], mask[i*length+k] = rng.Uint32N(uint32(c.VocabSize)), 1
		}
	}
	return ids, mask
}

// wholeSequences computes all sequences at their whole length, padding included, on the Go
// backend and a few at a time.
func wholeSequences(t *testing.T, c encoder.Config, w memory, ids, mask []uint32, chunk int) []float32 {
	t.Helper()
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	const rows = 16
	exec, err := gomlx.NewExec(b.Backend, func(in []*gomlx.Node) *gomlx.Node {
		p := model.Params{}
		for i, tensor := range c.Tensors() {
			p[tensor.Name] = in[i+2]
		}
		x := model.Embed(c, p, in[0], nil)
		for i := range c.NumHiddenLayers {
			x = model.EncoderLayer(c, p, i, x, in[1], nil)
		}
		return x
	})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	args := []any{nil, nil}
	for _, tensor := range c.Tensors() {
		args = append(args, tensors.FromFlatDataAndDimensions(w[encoder.Prefix+tensor.Name], tensor.Shape...))
	}
	var out []float32
	for at := 0; at < len(ids); at += rows * chunk {
		var in [2][]int32
		for i, v := range [][]uint32{ids, mask} {
			in[i] = make([]int32, rows*chunk)
			for k, x := range v[at:min(at+rows*chunk, len(v))] {
				in[i][k] = int32(x)
			}
			args[i] = tensors.FromFlatDataAndDimensions(in[i], rows, chunk)
		}
		results, err := exec.Call(args...)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tensors.MustCopyFlatData[float32](results[0])...)
	}
	return out[:len(ids)*c.HiddenSize]
}

// withoutPads is a condition with zeros for padding.
func withoutPads(condition []float32, mask []uint32) []float32 {
	out := slices.Clone(condition)
	width := len(out) / len(mask)
	for i, m := range mask {
		if m == 0 {
			clear(out[i*width : (i+1)*width])
		}
	}
	return out
}

// However long a text is, and whatever it is encoded with, its condition is that of the whole
// sequence: its text and its padding.
func TestEncodeLengths(t *testing.T) {
	count := func(to, step int) (list []int) {
		for n := 1; n <= to; n += step {
			list = append(list, n)
		}
		return list
	}
	c := smallEncoder
	w := smallWeights(c)
	var runners []backend.Backend
	for _, name := range backend.Names {
		b, err := backend.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Finalize)
		runners = append(runners, b)
	}
	for _, test := range []struct {
		name    string
		length  int
		lengths []int
		flop    int64 // of the limits, if not 0; with it, shapes cost nothing
	}{
		{"every length", 64, count(64, 1), 0},
		{"odd length", 21, []int{3, 21, 0, 9, 3, 20, 1, 21}, 0},
		{"one text", 64, []int{2}, 0},
		{"long", 512, append(count(512, 31), 2, 512), 0},
		{"chunks", 1024, []int{1024, 2, 511, 512, 513, 1, 700, 1023, 40, 520, 0}, 0},
		{"chunks in small groups", 1024, []int{1024, 2, 511, 512, 513, 1, 700, 1023, 40, 520, 0}, 1e8},
	} {
		ids, mask := texts(c, test.length, test.lengths)
		want := wholeSequences(t, c, w, ids, mask, min(test.length, 512))
		for _, b := range runners {
			r := infer.New(b)
			defer r.Close()
			if test.flop != 0 {
				r.SetLimits(1<<30, 1<<30, test.flop, 1, 0)
			}
			for _, pads := range []string{generator.PadsEncoded, generator.PadsZero} {
				t.Run(b.Name+"/"+test.name+"/"+pads, func(t *testing.T) {
					var last graph.Progress
					got, err := r.Encode(t.Context(), c, w, ids, mask, len(test.lengths), test.length, pads, func(p graph.Progress) { last = p })
					if err != nil {
						t.Fatal(err)
					}
					if last.Done != last.Total {
						t.Errorf("progress ended at %+v", last)
					}
					want := want
					if pads == generator.PadsZero {
						want = withoutPads(want, mask)
						for i, v := range got {
							if mask[i/c.HiddenSize] == 0 && v != 0 {
								t.Fatalf("token %d is padding and has the value %v", i/c.HiddenSize, v)
							}
						}
					}
					d := distance(got, want)
					if d > 1e-5 {
						t.Errorf("difference %.1e", d)
					}
					t.Logf("difference %.1e", d)
				})
			}
		}
	}
}

// The mask, not the ids, says what is text, even where it has holes.
func TestEncodeHoles(t *testing.T) {
	c := smallEncoder
	w := smallWeights(c)
	each(t, func(t *testing.T, r *infer.Runner) {
		ids, mask := texts(c, 40, []int{40, 40})
		for _, k := range []int{0, 3, 4, 5, 17, 30} {
			mask[k] = 0
		}
		clear(mask[70:])
		whole := wholeSequences(t, c, w, ids, mask, 40)
		for _, pads := range []string{generator.PadsEncoded, generator.PadsZero} {
			got, err := r.Encode(t.Context(), c, w, ids, mask, 2, 40, pads, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := whole
			if pads == generator.PadsZero {
				want = withoutPads(whole, mask)
			}
			if d := distance(got, want); d > 1e-5 {
				t.Errorf("pads %s: difference %.1e", pads, d)
			}
		}
	})
}

// The work follows the texts, not the longest that a generator takes.
func TestEncodeWork(t *testing.T) {
	c := smallEncoder
	w := smallWeights(c)
	work := func(r *infer.Runner, n int, pads string) int64 {
		ids, mask := texts(c, 512, []int{n, n})
		var total int64
		if _, err := r.Encode(t.Context(), c, w, ids, mask, 2, 512, pads, func(p graph.Progress) { total = p.Total }); err != nil {
			t.Fatal(err)
		}
		return total
	}
	each(t, func(t *testing.T, r *infer.Runner) {
		whole := work(r, 512, generator.PadsZero)
		if v := work(r, 512, generator.PadsEncoded); v != whole {
			t.Errorf("full texts: %d multiply-accumulates, %d with padding encoded", whole, v)
		}
		if v := work(r, 60, generator.PadsZero); 8*v > whole {
			t.Errorf("60 of 512 tokens: %d multiply-accumulates of %d", v, whole)
		}
		if v := work(r, 60, generator.PadsEncoded); 3*v > whole { // most of a narrow encoder's work is attention
			t.Errorf("60 of 512 tokens, padding encoded: %d multiply-accumulates of %d", v, whole)
		}
	})
}
