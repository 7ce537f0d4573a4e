package generator_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// tinyEncoder writes a BERT of one layer in Hugging Face layout.
func tinyEncoder(t testing.TB, change func(config map[string]any, tensors []safetensors.Tensor) []safetensors.Tensor) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny-bert")
	config := map[string]any{
		"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 8,
		"max_position_embeddings": 32, "type_vocab_size": 2, "vocab_size": 6, "layer_norm_eps": 1e-12,
		"hidden_act": "gelu", "model_type": "bert", "position_embedding_type": "absolute", "torch_dtype": "float32",
	}
	tensors := bertTensors(t, config)
	if change != nil {
		tensors = change(config, tensors)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), raw)
	write(t, filepath.Join(dir, "vocab.txt"), []byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n"))
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bertTensors are the tensors that a config.json wants.
func bertTensors(t testing.TB, config map[string]any) []safetensors.Tensor {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := encoder.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []safetensors.Tensor
	for i, x := range c.Tensors() {
		n := 1
		for _, d := range x.Shape {
			n *= d
		}
		tensors = append(tensors, safetensors.FromFloat32s(x.Name, safetensors.F32, slices.Repeat([]float32{float32(i)}, n), x.Shape...))
	}
	return tensors
}

func write(t testing.TB, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// madeUp writes a small package.
func madeUp(t testing.TB, o generator.MadeUpOptions) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "package")
	if o.Shape == "" {
		o.Shape = "mini"
	}
	if err := generator.MadeUp(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openPackage(t testing.TB, dir string) *generator.Package {
	t.Helper()
	p, err := generator.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// wantError checks for an error of one line with all the given parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, expected one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("got %v, expected one line with %q", err, part)
		}
	}
}

// empty checks that a failed call left nothing in the folder of path.
func empty(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// duplicate copies a package, for tests that change files.
func duplicate(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func poke(t *testing.T, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

// edit changes the manifest of a package.
func edit(t testing.TB, dir string, change func(m map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, generator.ManifestName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	write(t, path, raw)
}

func resize(m map[string]any, path string, size int) {
	for _, f := range m["files"].([]any) {
		if f := f.(map[string]any); f["path"] == path {
			f["bytes"] = size
		}
	}
}
