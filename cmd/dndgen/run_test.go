package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// minilm is the real text encoder, which make deps fetches.
var minilm = filepath.Join("..", "..", "build", "deps", "minilm")

// small makes a package that generates adapters for a base of two layers.
func small(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	if err := generator.MadeUp(t.Context(), dir, generator.MadeUpOptions{Shape: "mini", Seed: 1, Encoder: minilm}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// write makes a file in a folder of the test's.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path, name string) ([]float32, []int) {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := f.Lookup(name)
	if !ok {
		t.Fatalf("%s has no tensor %q", path, name)
	}
	values, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return values, info.Shape
}

// apart is the largest difference of two lists of numbers.
func apart(t testing.TB, a, b []float32) float64 {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%d values and %d values", len(a), len(b))
	}
	most := 0.0
	for i := range a {
		d := math.Abs(float64(a[i]) - float64(b[i]))
		if math.IsNaN(d) {
			t.Fatalf("value %d is %v and %v", i, a[i], b[i])
		}
		most = max(most, d)
	}
	return most
}

// tested are the backends that every machine with make deps has.
var tested = []string{"cpu", "webgpu"}

// An official checkpoint, imported, decodes to what the official code decodes it to.
func TestImportAndDecode(t *testing.T) {
	for _, c := range []struct{ checkpoint, decoder string }{
		{golden.Path("pth", "qwen0.5lora__golden1000.pth"), "fullcond_k5"},
		{golden.Path("pth", "qwen1.5lora__golden500.pth"), "superlarge_k11"},
		{golden.Path("decoders", "fullcond_k4_even", "model.safetensors"), "fullcond_k4_even"},
	} {
		t.Run(c.decoder, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "generator")
			io := golden.Path("decoders", c.decoder, "io.safetensors")
			clitest.OK(t, "import", "--pth", c.checkpoint, "--layout", golden.Path("decoders", c.decoder, "config.json"), "--out", dir)
			clitest.OK(t, "verify", dir)
			want, shape := read(t, io, "output")
			for _, backend := range tested {
				out := filepath.Join(t.TempDir(), "out.safetensors")
				var r tensorResult
				clitest.JSON(t, &r, "decode", "--json", "--quiet", "--generator", dir, "--condition", io, "--out", out, "--backend", backend)
				if r.Backend != backend || fmt.Sprint(r.Shape) != fmt.Sprint(shape) {
					t.Errorf("backend %s: %+v, want shape %v", backend, r, shape)
				}
				got, _ := read(t, out, "output")
				if d := apart(t, got, want); !(d <= 2e-5) {
					t.Errorf("backend %s: the output differs by %v", backend, d)
				}
			}
			// Without a text encoder and a base model, decoding is all that it can do.
			clitest.Fails(t, 1, []string{"--encoder"}, "generate", "--quiet", "--generator", dir, "--prompts", write(t, "p.txt", "a"), "--out", filepath.Join(t.TempDir(), "a"))
		})
	}
}

func TestEncode(t *testing.T) {
	prompts := write(t, "prompts.jsonl", `{"prompt": "What is the capital of France?"}`+"\n"+`{"prompt": "Name a colour."}`+"\n")
	var conditions [][]float32
	for _, backend := range tested {
		out := filepath.Join(t.TempDir(), "condition.safetensors")
		var r tensorResult
		clitest.JSON(t, &r, "encode", "--json", "--quiet", "--encoder", minilm, "--prompts", prompts, "--count", "3", "--length", "16", "--out", out, "--backend", backend)
		values, shape := read(t, out, "condition")
		if fmt.Sprint(shape) != "[1 3 16 384]" {
			t.Errorf("shape %v", shape)
		}
		// The third place repeats the first prompt.
		if d := apart(t, values[:16*384], values[2*16*384:]); d > 1e-5 {
			t.Errorf("the first prompt differs from itself by %v", d)
		}
		conditions = append(conditions, values)
	}
	if d := apart(t, conditions[0], conditions[1]); d > 2e-4 {
		t.Errorf("backends differ by %v", d)
	}
}

func TestGenerate(t *testing.T) {
	dir := small(t)
	prompts := write(t, "prompts.txt", "one prompt\nanother prompt\nа third, in Cyrillic: привет\n")
	var adapters [][]float32
	for _, backend := range tested {
		out := filepath.Join(t.TempDir(), "adapter")
		var g generated
		clitest.JSON(t, &g, "generate", "--json", "--quiet", "--generator", dir, "--prompts", prompts, "--out", out, "--backend", backend, "--seed", "7")
		if g.Backend != backend || g.Prompts != 3 || len(g.Draws) != 1 || len(g.Draws[0].Layers) != 2 || g.Tensors != 28 {
			t.Errorf("%+v", g)
		}
		clitest.OK(t, "verify", out)
		info, err := lora.ReadInfo(out)
		if err != nil {
			t.Fatal(err)
		}
		if p := info.Provenance; p.Seed != 7 || len(p.GeneratorSHA256) != 64 || len(p.PromptsSHA256) != 64 || !strings.HasPrefix(p.Backend, backend) {
			t.Errorf("provenance %+v", p)
		}
		values, _ := read(t, filepath.Join(out, lora.WeightsName), "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight")
		adapters = append(adapters, values)

		// Over an earlier adapter, the same bytes again; --quiet leaves stderr empty.
		before, err := os.ReadFile(filepath.Join(out, lora.WeightsName))
		if err != nil {
			t.Fatal(err)
		}
		if r := clitest.OK(t, "generate", "--quiet", "--generator", dir, "--prompts", prompts, "--out", out, "--backend", backend, "--seed", "7"); r.Stderr != "" || !strings.Contains(r.Stdout, "layer  1") {
			t.Errorf("stderr %q, stdout %q", r.Stderr, r.Stdout)
		}
		if after, err := os.ReadFile(filepath.Join(out, lora.WeightsName)); err != nil || string(after) != string(before) {
			t.Errorf("a second run gives other bytes, %v", err)
		}
	}
	if d := apart(t, adapters[0], adapters[1]); d > 1e-4 {
		t.Errorf("backends differ by %v", d)
	}
}

func TestGenerateDrawsAndFormats(t *testing.T) {
	dir := small(t)
	var prompts strings.Builder
	for i := range 40 {
		fmt.Fprintf(&prompts, "prompt number %d\n", i)
	}
	out := filepath.Join(t.TempDir(), "adapters")
	cmd := clitest.Command(t, "generate", "--quiet", "--json", "--generator", dir, "--prompts", "-", "--out", out, "--draws", "2", "--format", "gguf", "--backend", "cpu")
	cmd.Stdin = strings.NewReader(prompts.String())
	if r := clitest.Wait(t, cmd); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	var text [2]string
	for i := range text {
		draw := filepath.Join(out, fmt.Sprintf("draw-%d", i))
		clitest.OK(t, "verify", draw)
		clitest.OK(t, "inspect", filepath.Join(draw, lora.GGUFName))
		raw, err := os.ReadFile(filepath.Join(draw, lora.GGUFName))
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(raw)
	}
	if text[0] == text[1] {
		t.Error("two draws of prompts made the same adapter")
	}
	clitest.Fails(t, 1, []string{out}, "generate", "--quiet", "--generator", dir, "--prompts", write(t, "p.txt", "a"), "--out", out, "--draws", "2")
}

// The default generator is found beside the program or the working directory; where there
// is none, the error says what to do.
func TestNoDefaultGenerator(t *testing.T) {
	cmd := clitest.Command(t, "generate", "--quiet", "--prompts", write(t, "p.txt", "a"), "--out", filepath.Join(t.TempDir(), "a"))
	cmd.Dir = t.TempDir()
	if r := clitest.Wait(t, cmd); r.Code != 1 || !strings.Contains(r.Stderr, "--generator") {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
}

// Ctrl-C in the middle of the work ends it within a second and leaves nothing.
func TestInterrupt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "large")
	cmd := clitest.Command(t, "madeup", "--quiet", "--shape", "0.5b", "--out", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	begin := time.Now()
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if d := time.Since(begin); d > time.Second {
		t.Errorf("ended after %v", d)
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
