package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// write makes a file in a folder of the test's.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// equal compares all tensors of two files; NaNs are equal.
func equal(t *testing.T, got, want string, tolerance float64) {
	t.Helper()
	g, err := safetensors.Open(got)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	w, err := safetensors.Open(want)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if len(g.Tensors) != len(w.Tensors) {
		t.Errorf("%s has %d tensors, want %d", got, len(g.Tensors), len(w.Tensors))
	}
	for _, info := range w.Tensors {
		x, err := g.Float32s(info.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		y, err := w.Float32s(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range y {
			a, b := float64(x[i]), float64(y[i])
			if !(math.Abs(a-b) <= tolerance) && !(math.IsNaN(a) && math.IsNaN(b)) {
				t.Errorf("%s: value %d is %v, want %v", info.Name, i, x[i], y[i])
				break
			}
		}
	}
}

const layout05B = `{"class": "HyperConvDecoderModel_FullCond", "features": [[4,16,384], [358,10,10]], "kernel_size": 3, "tokenizer": "Qwen2505LoRA_Tokenizer2D"}`

func TestTokens(t *testing.T) {
	layout := write(t, "layout.json", layout05B)
	donor := golden.Path("tokens", "mini_0.5B")
	for _, c := range []struct {
		mode      string
		flags     []string
		tolerance float64 // sums in float32 depend on their order, those in bfloat16 do not
	}{{"f32", nil, 2e-6}, {"bf16", []string{"--bf16"}, 0}} {
		t.Run(c.mode, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "tokens.safetensors")
			var r tokensResult
			clitest.JSON(t, &r, append([]string{"tokens", "--json", "--adapter", donor, "--layout", layout, "--out", out}, c.flags...)...)
			if r.Tokens != [3]int{358, 10, 10} || r.Rank != 8 || r.Modules != 14 {
				t.Errorf("%+v", r)
			}
			equal(t, out, golden.Path("tokens", "mini_0.5B", "tokens_"+c.mode+".safetensors"), c.tolerance)
			back := filepath.Join(dir, "back")
			clitest.OK(t, append([]string{"tokens", "--reverse", "--adapter", donor, "--layout", layout, "--tokens", out, "--out", back}, c.flags...)...)
			equal(t, filepath.Join(back, "adapter_model.safetensors"), golden.Path("tokens", "mini_0.5B", "restored_"+c.mode+".safetensors"), c.tolerance)
		})
	}
}

func TestTokensBadInput(t *testing.T) {
	layout := write(t, "layout.json", layout05B)
	donor := golden.Path("tokens", "mini_0.5B")
	good := golden.Path("tokens", "mini_0.5B", "tokens_f32.safetensors")
	other := golden.Path("decoders", "fullcond_k5", "io.safetensors")
	for _, c := range []struct {
		name  string
		code  int
		words []string
		args  []string
	}{
		{"no layout", 2, []string{"--layout"}, []string{"--adapter", donor}},
		{"reverse without tokens", 2, []string{"--tokens"}, []string{"--adapter", donor, "--layout", layout, "--reverse"}},
		{"tokens without reverse", 2, []string{"--reverse"}, []string{"--adapter", donor, "--layout", layout, "--tokens", good}},
		{"missing adapter", 1, []string{"nowhere"}, []string{"--adapter", "nowhere", "--layout", layout}},
		{"missing layout", 1, []string{"nowhere.json"}, []string{"--adapter", donor, "--layout", "nowhere.json"}},
		{"layout without tokenizer", 1, []string{"tokenizer"}, []string{"--adapter", donor, "--layout", golden.Path("decoders", "mini_qwen_k3", "config.json")}},
		{"adapter of another size", 1, []string{"mini_1.5B"}, []string{"--adapter", golden.Path("tokens", "mini_1.5B", "adapter_model.safetensors"), "--layout", layout}},
		{"other tensors", 1, []string{other, "output"}, []string{"--adapter", donor, "--layout", layout, "--reverse", "--tokens", other}},
		{"no tensors", 1, []string{"empty.safetensors"}, []string{"--adapter", donor, "--layout", layout, "--reverse", "--tokens", write(t, "empty.safetensors", "")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			clitest.Fails(t, c.code, c.words, append([]string{"tokens", "--out", out}, c.args...)...)
			if _, err := os.Stat(out); err == nil {
				t.Error("output was left behind")
			}
		})
	}
}
