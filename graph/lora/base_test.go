package lora_test

import (
	"math"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

func wantError(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, expected an error with %q", what, err, want)
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: the error has more than one line: %v", what, err)
	}
}

// Reference c.2: tokens, and first token of A and B of the modules in layer 1.
func TestReferenceBases(t *testing.T) {
	for _, c := range []struct {
		alias, kind    string
		count, h, w, n int
		first          [7][2]int
	}{
		{"0.5B", lora.Qwen05B, 4296, 10, 130, 179, [7][2]int{{0, 7}, {14, 21}, {22, 29}, {30, 37}, {44, 51}, {89, 96}, {134, 172}}},
		{"1.5B", lora.Qwen15B, 4508, 18, 258, 161, [7][2]int{{0, 6}, {12, 18}, {19, 25}, {26, 32}, {38, 44}, {79, 85}, {120, 155}}},
		{"3b-vl", lora.Qwen3BVL, 7308, 18, 258, 203, [7][2]int{{0, 8}, {16, 24}, {25, 33}, {34, 42}, {50, 58}, {101, 109}, {152, 195}}},
		{"7B", lora.Qwen7B, 4928, 18, 514, 176, [7][2]int{{0, 7}, {14, 21}, {22, 29}, {30, 37}, {44, 51}, {88, 95}, {132, 169}}},
	} {
		kind, err := lora.Kind(c.alias)
		if err != nil || kind != c.kind {
			t.Errorf("%s: kind %s, %v", c.alias, kind, err)
		}
		base, tiling, err := lora.ReferenceBase(c.alias)
		if err != nil {
			t.Fatal(err)
		}
		l, err := lora.NewLayout(base, tiling)
		if err != nil {
			t.Fatal(err)
		}
		if count, h, w := l.Shape(); count != c.count || h != c.h || w != c.w {
			t.Errorf("%s: tokens (%d,%d,%d)", c.alias, count, h, w)
		}
		for i, want := range c.first {
			if a, b := l.FirstToken(7 + i); a != c.n+want[0] || b != c.n+want[1] {
				t.Errorf("%s: %s begins at %d and %d", c.alias, base.Targets[7+i].Name, a, b)
			}
		}
	}
}

func TestSortTargets(t *testing.T) {
	names := func(text string) []lora.Target {
		var out []lora.Target
		for _, n := range strings.Fields(text) {
			out = append(out, lora.Target{Name: n, In: 4, Out: 4})
		}
		return out
	}
	got := names("m.layers.10.mlp.down_proj m.layers.2.mlp.gate_proj m.layers.2.mlp.up_proj m.layers.2.self_attn.o_proj " +
		"m.layers.2.self_attn.v_proj m.layers.10.self_attn.k_proj m.layers.10.self_attn.q_proj")
	if err := lora.SortTargets(got); err != nil {
		t.Fatal(err)
	}
	want := names("m.layers.2.self_attn.v_proj m.layers.2.self_attn.o_proj m.layers.2.mlp.up_proj m.layers.2.mlp.gate_proj " +
		"m.layers.10.self_attn.q_proj m.layers.10.self_attn.k_proj m.layers.10.mlp.down_proj")
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("place %d: %s, expected %s", i, got[i].Name, want[i].Name)
		}
	}
	for _, name := range []string{"", "model.layers.0.mlp.fc1", "model.layers.x.self_attn.q_proj", "model.layers.-1.self_attn.q_proj",
		"model.layers.01.self_attn.q_proj", "model.layers.0.self_attn.q_proj.q_proj", "visual.blocks.0.attn.qkv", "model.mylayers.0.self_attn.q_proj",
		"model.layers.99999999999999999999.self_attn.q_proj", "lm_head"} {
		wantError(t, name, lora.SortTargets([]lora.Target{{Name: name}}), "expected the name of a layer's")
	}
}

// tiny is a base of rank 2 with q and k in one layer.
func tiny() lora.Base {
	return lora.Base{Model: "test/tiny", Architecture: "llama", Heads: 2, KVHeads: 1, Rank: 2, Alpha: 4, Targets: []lora.Target{
		{Name: "model.layers.0.self_attn.q_proj", In: 8, Out: 8},
		{Name: "model.layers.0.self_attn.k_proj", In: 8, Out: 4},
	}}
}

var tinyTiling = lora.Tiling{Kind: lora.CustomCut, Height: 4, Width: 6, Chunk: 4}

func tinyAdapter() *lora.Adapter {
	a := &lora.Adapter{Base: tiny()}
	v := float32(0)
	fill := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			v += 0.25
			out[i] = v - 3*float32(i%3)
		}
		return out
	}
	for _, t := range a.Base.Targets {
		a.Pairs = append(a.Pairs, lora.Pair{A: fill(2 * t.In), B: fill(2 * t.Out)})
	}
	return a
}

func TestNewLayoutRefuses(t *testing.T) {
	change := func(f func(*lora.Base, *lora.Tiling)) error {
		b, tiling := tiny(), tinyTiling
		f(&b, &tiling)
		_, err := lora.NewLayout(b, tiling)
		return err
	}
	for _, c := range []struct {
		what string
		f    func(*lora.Base, *lora.Tiling)
		want string
	}{
		{"rank", func(b *lora.Base, _ *lora.Tiling) { b.Rank = 0 }, "rank 0"},
		{"tall rank", func(b *lora.Base, _ *lora.Tiling) { b.Rank = 5 }, "rank 5 does not fit"},
		{"alpha", func(b *lora.Base, _ *lora.Tiling) { b.Alpha = math.NaN() }, "alpha"},
		{"alpha beyond float32", func(b *lora.Base, _ *lora.Tiling) { b.Alpha = 1e39 }, "alpha 1e+39"},
		{"alpha below float32", func(b *lora.Base, _ *lora.Tiling) { b.Alpha = 1e-46 }, "alpha 1e-46"},
		{"no targets", func(b *lora.Base, _ *lora.Tiling) { b.Targets = nil }, "no LoRA targets"},
		{"order", func(b *lora.Base, _ *lora.Tiling) { b.Targets[0], b.Targets[1] = b.Targets[1], b.Targets[0] }, "out of order"},
		{"twice", func(b *lora.Base, _ *lora.Tiling) { b.Targets[1] = b.Targets[0] }, "twice"},
		{"prefix", func(b *lora.Base, _ *lora.Tiling) { b.Targets[1].Name = "visual.layers.1.self_attn.q_proj" }, "expected it under"},
		{"negative axis", func(b *lora.Base, _ *lora.Tiling) { b.Targets[1].In = -8 }, "out of range"},
		{"huge axis", func(b *lora.Base, _ *lora.Tiling) { b.Targets[1].Out = 1 << 40 }, "out of range"},
		{"in", func(b *lora.Base, _ *lora.Tiling) { b.Targets[1].In = 10 }, "module model.layers.0.self_attn.k_proj: axis in of size 10 does not divide into chunks of 4"},
		{"out", func(b *lora.Base, _ *lora.Tiling) { b.Targets[0].Out = 9 }, "axis out of size 9 does not divide into chunks of 4"},
		{"chunk", func(_ *lora.Base, t *lora.Tiling) { t.Chunk = 0 }, "chunk"},
		{"wide chunk", func(_ *lora.Base, t *lora.Tiling) { t.Width = 2 }, "does not fit into tokens of width 2"},
		{"odd height", func(_ *lora.Base, t *lora.Tiling) { t.Height = 5 }, "even"},
		{"huge tokens", func(_ *lora.Base, t *lora.Tiling) { t.Height, t.Width = 1<<20, 1<<20 }, "more than"},
		{"kind", func(_ *lora.Base, t *lora.Tiling) { t.Kind = "other" }, "unknown tiling"},
		{"fixed with chunk", func(_ *lora.Base, t *lora.Tiling) { t.Kind = lora.Qwen05B }, "leave chunk out"},
		{"fixed", func(_ *lora.Base, t *lora.Tiling) { t.Kind, t.Chunk = lora.Qwen05B, 0 }, "module model.layers.0.self_attn.q_proj: axis in of size 8 does not divide into 7 chunks"},
	} {
		wantError(t, c.what, change(c.f), c.want)
	}
}

func TestTokensRefuse(t *testing.T) {
	a := tinyAdapter()
	other := tiny()
	other.Targets[1].Out = 8
	_, err := lora.Tokens(other, tinyTiling, a, lora.Float32)
	wantError(t, "shape", err, "where model.layers.0.self_attn.k_proj (out 8, in 8) is expected")
	less := tiny()
	less.Targets = less.Targets[:1]
	_, err = lora.Tokens(less, tinyTiling, a, lora.Float32)
	wantError(t, "too many", err, "is not expected")
	more := tiny()
	more.Targets = append(more.Targets, lora.Target{Name: "model.layers.1.self_attn.q_proj", In: 4, Out: 4})
	_, err = lora.Tokens(more, tinyTiling, a, lora.Float32)
	wantError(t, "too few", err, "lacks module model.layers.1.self_attn.q_proj")
	_, err = lora.FromTokens(tiny(), tinyTiling, make([]float32, 5), lora.Float32)
	wantError(t, "length", err, "expected (7,4,6)")
	cramped := tinyTiling.WithoutFrame()
	tokens, err := lora.Tokens(tiny(), cramped, a, lora.Float32)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lora.FromTokens(tiny(), cramped, tokens, lora.Float32)
	wantError(t, "no frame", err, "no room for the frame")
}

// A chunk of one element has deviation 1; a constant chunk has NaN data beside a valid
// frame (reference c.3, f.12).
func TestDegenerateChunks(t *testing.T) {
	one := lora.Base{Rank: 1, Alpha: 1, Targets: []lora.Target{{Name: "layers.0.self_attn.q_proj", In: 1, Out: 2}}}
	a := &lora.Adapter{Base: one, Pairs: []lora.Pair{{A: []float32{0.5}, B: []float32{0, 0}}}}
	for _, mode := range []lora.Mode{lora.Float32, lora.BFloat16} {
		tiling := lora.Tiling{Kind: lora.CustomCut, Height: 4, Width: 4, Chunk: 1}
		got, err := lora.Tokens(one, tiling, a, mode)
		if err != nil {
			t.Fatal(err)
		}
		if got[0] != 0 || !math.IsNaN(float64(got[1])) || got[2] != 4 || math.Abs(float64(got[3])-1.6) > 2e-3 {
			t.Errorf("mode %d: one element gives %v", mode, got[:16])
		}
		back, err := lora.FromTokens(one, tiling, got, mode)
		if err != nil || math.Abs(float64(back.Pairs[0].A[0])-0.5) > 1e-6 {
			t.Errorf("mode %d: back %v, %v", mode, back, err)
		}
	}
	one.Targets[0].In = 2
	a = &lora.Adapter{Base: one, Pairs: []lora.Pair{{A: []float32{1, 2}, B: []float32{0, 0}}}}
	tiling := lora.Tiling{Kind: lora.CustomCut, Height: 4, Width: 4, Chunk: 2}
	got, err := lora.Tokens(one, tiling, a, lora.Float32)
	if err != nil {
		t.Fatal(err)
	}
	b := got[16:]
	if !math.IsNaN(float64(b[0])) || !math.IsNaN(float64(b[1])) || b[2] != 0 || math.Abs(float64(b[3])+0.7026) > 1e-4 {
		t.Errorf("a constant chunk gives %v", b)
	}
	back, err := lora.FromTokens(one, tiling, got, lora.Float32)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "NaN", back.Check(), "layers.0.self_attn.q_proj.lora_B: value 0 is NaN")
}

func TestImportanceRefuses(t *testing.T) {
	list := func(n int) func(func(*lora.Adapter, error) bool) {
		return func(yield func(*lora.Adapter, error) bool) {
			for range n {
				if !yield(tinyAdapter(), nil) {
					return
				}
			}
		}
	}
	_, err := lora.ImportanceWeights(tiny(), tinyTiling, list(0))
	wantError(t, "none", err, "at least one")
	_, err = lora.ImportanceWeights(tiny(), tinyTiling, list(3))
	wantError(t, "all equal", err, "do not differ")
	_, err = lora.MeanImportance([]float32{1}, []float32{1, 2})
	wantError(t, "lengths", err, "expected 1")
}

func TestNorms(t *testing.T) {
	a := tinyAdapter()
	modules, layers, err := a.Norms()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for i, target := range a.Base.Targets {
		square := 0.0
		for o := range target.Out {
			for in := range target.In {
				w := 0.0
				for r := range 2 {
					w += float64(a.Pairs[i].B[o*2+r]) * float64(a.Pairs[i].A[r*target.In+in])
				}
				square += 4 * w * w
			}
		}
		if want := math.Sqrt(square); math.Abs(modules[i].Value-want) > 1e-9*want || modules[i].Name != target.Name {
			t.Errorf("%+v, expected %v", modules[i], want)
		}
		total += square
	}
	if len(layers) != 1 || layers[0].Layer != 0 || math.Abs(layers[0].Value-math.Sqrt(total)) > 1e-9*layers[0].Value {
		t.Errorf("layers %+v, expected %v", layers, math.Sqrt(total))
	}
}
