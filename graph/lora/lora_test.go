package lora_test

import (
	"math"
	"os"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func read(t testing.TB, elem ...string) *lora.Adapter {
	t.Helper()
	a, err := lora.ReadPEFT(golden.Path(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func values(t testing.TB, name string, elem ...string) []float32 {
	t.Helper()
	f, err := safetensors.Open(golden.Path(elem...))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// compare demands the same NaNs and reports the largest distance, and how many values
// differ in any bit.
func compare(t *testing.T, what string, got, want []float32) (worst float64, differ int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	for i := range got {
		g, w := float64(got[i]), float64(want[i])
		if math.IsNaN(g) != math.IsNaN(w) {
			t.Fatalf("%s: value %d is %v, expected %v", what, i, g, w)
		}
		if !math.IsNaN(w) && math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			differ++
			worst = max(worst, math.Abs(g-w))
		}
	}
	return worst, differ
}

func compareAdapters(t *testing.T, what string, got, want *lora.Adapter) (worst float64, differ int) {
	t.Helper()
	for i := range want.Pairs {
		for _, p := range [][2][]float32{{got.Pairs[i].A, want.Pairs[i].A}, {got.Pairs[i].B, want.Pairs[i].B}} {
			w, d := compare(t, what+" "+want.Base.Targets[i].Name, p[0], p[1])
			worst, differ = max(worst, w), differ+d
		}
	}
	return worst, differ
}

var minis = []struct {
	folder, kind string
	tiling       lora.Tiling
}{
	{"mini_0.5B", "0.5B", lora.Tiling{Kind: lora.Qwen05B, Height: 10, Width: 10}},
	{"mini_1.5B", "1.5B", lora.Tiling{Kind: lora.Qwen15B, Height: 18, Width: 6}},
	{"mini_3B-VL", "3B-VL", lora.Tiling{Kind: lora.Qwen3BVL, Height: 18, Width: 6}},
	{"mini_7B", "7B", lora.Tiling{Kind: lora.Qwen7B, Height: 18, Width: 6}},
}

func mini(t testing.TB, folder string) *lora.Adapter {
	t.Helper()
	if _, err := os.Stat(golden.Path("tokens", folder, "adapter_config.json")); err == nil {
		return read(t, "tokens", folder)
	}
	return read(t, "tokens", folder, "adapter_model.safetensors")
}

func TestTokensFloat32(t *testing.T) {
	for _, m := range minis {
		a := mini(t, m.folder)
		got, err := lora.Tokens(a.Base, m.tiling, a, lora.Float32)
		if err != nil {
			t.Fatal(err)
		}
		want := values(t, "tokens", "tokens", m.folder, "tokens_f32.safetensors")
		worst, differ := compare(t, m.folder, got, want)
		t.Logf("%s: %d of %d values differ, by up to %.2g", m.folder, differ, len(want), worst)
		if worst > 1e-6 {
			t.Errorf("%s: off by %g", m.folder, worst)
		}
		back, err := lora.FromTokens(a.Base, m.tiling, want, lora.Float32)
		if err != nil {
			t.Fatal(err)
		}
		if worst, _ := compareAdapters(t, m.folder, back, a); worst > 2e-7 {
			t.Errorf("%s: there and back is off by %g", m.folder, worst)
		}
	}
}

func TestTokensBFloat16(t *testing.T) {
	a, m := mini(t, minis[0].folder), minis[0]
	got, err := lora.Tokens(a.Base, m.tiling, a, lora.BFloat16)
	if err != nil {
		t.Fatal(err)
	}
	want := values(t, "tokens", "tokens", m.folder, "tokens_bf16.safetensors")
	if worst, differ := compare(t, m.folder, got, want); differ != 0 {
		t.Errorf("%d values differ, by up to %g", differ, worst)
	}
}

func TestRestored(t *testing.T) {
	m := minis[0]
	base := mini(t, m.folder).Base
	for _, c := range []struct {
		name   string
		mode   lora.Mode
		tokens []float32
		want   *lora.Adapter
		limit  float64
	}{
		{"restored f32", lora.Float32, values(t, "tokens", "tokens", m.folder, "tokens_f32.safetensors"), read(t, "tokens", m.folder, "restored_f32.safetensors"), 1e-7},
		{"restored bf16", lora.BFloat16, values(t, "tokens", "tokens", m.folder, "tokens_bf16.safetensors"), read(t, "tokens", m.folder, "restored_bf16.safetensors"), 0},
		{"chain f32", lora.Float32, values(t, "output", "decoders", "mini_qwen_k3", "io.safetensors"), read(t, "tokens", "chain", "generated_f32.safetensors"), 1e-6},
		{"chain bf16", lora.BFloat16, values(t, "output", "decoders", "mini_qwen_k3", "io.safetensors"), read(t, "tokens", "chain", "generated_bf16.safetensors"), 0},
	} {
		b := base
		b.Targets = c.want.Base.Targets
		l, err := lora.NewLayout(b, m.tiling)
		if err != nil {
			t.Fatal(err)
		}
		count, h, w := l.Shape()
		got, err := l.Decode(c.tokens[:count*h*w], c.mode)
		if err != nil {
			t.Fatal(err)
		}
		worst, differ := compareAdapters(t, c.name, got, c.want)
		t.Logf("%s: %d values differ, by up to %.2g", c.name, differ, worst)
		if worst > c.limit {
			t.Errorf("%s: off by %g, expected at most %g", c.name, worst, c.limit)
		}
	}
}

func TestImportance(t *testing.T) {
	load := func(folder string, tiling lora.Tiling, order ...string) []float32 {
		base := read(t, "criterion", folder, "0.safetensors").Base
		w, err := lora.ImportanceWeights(base, tiling, func(yield func(*lora.Adapter, error) bool) {
			for _, name := range order {
				if !yield(lora.ReadPEFT(golden.Path("criterion", folder, name+".safetensors"))) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	small := load("mini_0.5B", minis[0].tiling, "0", "1", "2")
	reverse := append([]float32(nil), small...)
	for i, j := 0, len(reverse)-1; i < j; i, j = i+1, j-1 {
		reverse[i], reverse[j] = reverse[j], reverse[i]
	}
	mean, err := lora.MeanImportance(small, reverse)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]float32{
		"mini_0.5B":                         small,
		"mini_1.5B":                         load("mini_1.5B", minis[1].tiling.WithoutFrame(), "0", "1", "2"),
		"mean_of_mini_0.5B_and_its_reverse": mean,
	} {
		want := values(t, name, "criterion", "weight.safetensors")
		worst, differ := compare(t, name, got, want)
		t.Logf("%s: %d of %d values differ, by up to %.2g", name, differ, len(want), worst)
		if worst > 1e-6 {
			t.Errorf("%s: off by %g", name, worst)
		}
	}
}

// The 0.5B set's adapter: 4.4 million weights, 4296 tokens.
func benchmark(b *testing.B, mode lora.Mode, run func(l *lora.Layout, a *lora.Adapter, tokens []float32) error) {
	base, tiling, err := lora.ReferenceBase("0.5B")
	if err != nil {
		b.Fatal(err)
	}
	l, err := lora.NewLayout(base, tiling)
	if err != nil {
		b.Fatal(err)
	}
	count, h, w := l.Shape()
	tokens := make([]float32, count*h*w)
	for i := range tokens {
		tokens[i] = float32(i%7) - 3
	}
	a, err := l.Decode(tokens, mode)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := run(l, a, tokens); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(tokens))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
}

func BenchmarkEncode(b *testing.B) {
	for name, mode := range map[string]lora.Mode{"f32": lora.Float32, "bf16": lora.BFloat16} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, mode, func(l *lora.Layout, a *lora.Adapter, tokens []float32) error { return l.Encode(a, mode, tokens) })
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, mode := range map[string]lora.Mode{"f32": lora.Float32, "bf16": lora.BFloat16} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, mode, func(l *lora.Layout, _ *lora.Adapter, tokens []float32) error {
				_, err := l.Decode(tokens, mode)
				return err
			})
		})
	}
}

func BenchmarkNorms(b *testing.B) {
	benchmark(b, lora.Float32, func(_ *lora.Layout, a *lora.Adapter, _ []float32) error {
		_, _, err := a.Norms()
		return err
	})
}
