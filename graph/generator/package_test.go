package generator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

func TestWholePackage(t *testing.T) {
	enc := tinyEncoder(t, nil)
	dir := madeUp(t, generator.MadeUpOptions{Seed: 3, Encoder: enc})
	p := openPackage(t, dir)
	m := p.Manifest
	if err := m.Complete(); err != nil {
		t.Fatal(err)
	}
	if m.Encoder.ID != "tiny-bert" || m.Encoder.Dir != "encoder" || m.Base.Rank != 8 || len(m.Base.Targets) != 14 {
		t.Errorf("manifest %+v", m)
	}
	if p.VocabPath() != filepath.Join(dir, "encoder", "vocab.txt") || p.TokenizerPath() != "" {
		t.Errorf("vocabulary at %q and %q", p.VocabPath(), p.TokenizerPath())
	}
	tok, err := p.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tok.Encode([]string{"Word"}, 3); err != nil || !slices.Equal(b.IDs, []uint32{2, 5, 3}) {
		t.Errorf("ids %v, %v", b.IDs, err)
	}
	r, err := generator.Verify(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Summary
	if s.Decoder.Layers != 2 || s.Encoder.Layers != 1 || s.Tokens != [3]int{358, 10, 10} || s.Condition != [3]int{4, 16, 384} || r.SHA256 != p.SHA256 {
		t.Errorf("report %+v", r)
	}
	if values := s.Decoder.Parameters + s.Encoder.Parameters; r.Values != values || s.Decoder.Bytes != 4*s.Decoder.Parameters {
		t.Errorf("%d values verified, %d parameters", r.Values, values)
	}
	if s.BaseValues != 358*8*8 {
		t.Errorf("%d LoRA values, expected 358 tokens of 64", s.BaseValues)
	}
	again := madeUp(t, generator.MadeUpOptions{Seed: 3, Encoder: enc})
	if q := openPackage(t, again); q.SHA256 != p.SHA256 {
		t.Error("equal options made different packages")
	}
	other := madeUp(t, generator.MadeUpOptions{Seed: 4, Encoder: enc})
	if q := openPackage(t, other); q.SHA256 == p.SHA256 {
		t.Error("another seed made an equal package")
	}
}

func TestDamaged(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{Encoder: tinyEncoder(t, nil)})
	part := func(m map[string]any, key string) map[string]any { return m[key].(map[string]any) }
	files := func(m map[string]any) []any { return m["files"].([]any) }
	for _, c := range []struct {
		name   string
		change func(m map[string]any)
		want   string
	}{
		{"version", func(m map[string]any) { m["format_version"] = 2 }, "format_version 2, this version reads 1"},
		{"no version", func(m map[string]any) { delete(m, "format_version") }, "format_version is missing"},
		{"unknown field", func(m map[string]any) { m["extra"] = 1 }, `unknown field "extra"`},
		{"unknown field inside", func(m map[string]any) { part(m, "decoder")["extra"] = 1 }, `unknown field "extra"`},
		{"kind of a value", func(m map[string]any) { part(m, "decoder")["kernel_size"] = "3" }, "kernel_size"},
		{"name", func(m map[string]any) { m["name"] = "a\nb" }, "name is"},
		{"class", func(m map[string]any) { part(m, "decoder")["class"] = "X" }, `class "X"`},
		{"kernel", func(m map[string]any) { part(m, "decoder")["kernel_size"] = 1000 }, "kernel size 1000"},
		{"axes", func(m map[string]any) { part(m, "decoder")["features"].([]any)[1] = []int{1, 2, 3, 4} }, "has 4 axes"},
		{"axes of tokens", func(m map[string]any) { part(m, "decoder")["tokens"] = []int{1, 2, 3, 4} }, "decoder.tokens has 4 axes"},
		{"huge", func(m map[string]any) { part(m, "decoder")["features"].([]any)[1] = []int{1 << 30, 1 << 30, 1 << 30} }, "too large"},
		{"negative", func(m map[string]any) { part(m, "decoder")["features"].([]any)[1] = []int{1, -1, 1} }, "impossible"},
		{"other chain", func(m map[string]any) { part(m, "decoder")["features"].([]any)[1] = []int{16, 12, 25} }, "expected ["},
		{"condition", func(m map[string]any) { part(m, "condition")["texts"] = 5 }, "condition [5 16 384]"},
		{"pads", func(m map[string]any) { part(m, "condition")["pads"] = "?" }, "condition.pads"},
		{"token size", func(m map[string]any) { part(m, "tiling")["height"] = 12 }, "tiling of tokens (12,10)"},
		{"tiling", func(m map[string]any) { part(m, "tiling")["kind"] = "X" }, "unknown tiling"},
		{"tiling alias", func(m map[string]any) { part(m, "tiling")["kind"] = "0.5B" }, "expected the full name"},
		{"no tiling", func(m map[string]any) { part(m, "tiling")["kind"] = "" }, "tiling.kind is missing"},
		{"tokens", func(m map[string]any) { b := part(m, "base"); b["targets"] = b["targets"].([]any)[:13] }, "make 313 tokens of (10,10), but the decoder makes 358"},
		{"heads", func(m map[string]any) { part(m, "base")["heads"] = -1 }, "-1 heads"},
		{"rank", func(m map[string]any) { part(m, "base")["rank"] = 0 }, "rank 0"},
		{"encoder width", func(m map[string]any) { part(part(m, "encoder"), "config")["hidden_size"] = 396 }, "encoder of width 396"},
		{"encoder layers", func(m map[string]any) { part(part(m, "encoder"), "config")["num_hidden_layers"] = 1 << 20 }, "layers"},
		{"encoder positions", func(m map[string]any) { part(part(m, "encoder"), "config")["max_position_embeddings"] = 8 }, "encoder of 8 positions"},
		{"encoder config", func(m map[string]any) { part(part(m, "encoder"), "config")["layer_norm_eps"] = 1e-5 }, "differs from encoder/config.json"},
		{"encoder vocabulary", func(m map[string]any) { part(part(m, "encoder"), "config")["vocab_size"] = 7 }, "word_embeddings.weight has shape [6 384], expected [7 384]"},
		{"encoder folder", func(m map[string]any) { part(m, "encoder")["dir"] = "../encoder" }, "encoder.dir"},
		{"encoder id", func(m map[string]any) { part(m, "encoder")["id"] = "" }, "encoder.id"},
		{"file outside", func(m map[string]any) { files(m)[0].(map[string]any)["path"] = "/etc/passwd" }, "inside the package"},
		{"file above", func(m map[string]any) { files(m)[0].(map[string]any)["path"] = "../x" }, "inside the package"},
		{"file elsewhere", func(m map[string]any) { files(m)[0].(map[string]any)["path"] = `c:\x` }, "inside the package"},
		{"file twice", func(m map[string]any) { files(m)[1] = files(m)[0] }, "not sorted"},
		{"file size", func(m map[string]any) { files(m)[0].(map[string]any)["bytes"] = 1 }, "says 1: damaged"},
		{"checksum text", func(m map[string]any) { files(m)[0].(map[string]any)["sha256"] = "ab" }, "64 hex digits"},
		{"file unlisted", func(m map[string]any) { m["files"] = files(m)[1:] }, "does not list it"},
		{"file gone", func(m map[string]any) { files(m)[1].(map[string]any)["path"] = "e" }, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := duplicate(t, dir)
			edit(t, bad, c.change)
			_, err := generator.Open(bad)
			wantError(t, err, c.want)
		})
	}
	t.Run("no package", func(t *testing.T) {
		_, err := generator.Open(t.TempDir())
		wantError(t, err, "no generator package")
	})
	t.Run("large manifest", func(t *testing.T) {
		bad := duplicate(t, dir)
		write(t, filepath.Join(bad, generator.ManifestName), bytes.Repeat([]byte{' '}, 5<<20))
		_, err := generator.Open(bad)
		wantError(t, err, "more than")
	})
	t.Run("text behind the manifest", func(t *testing.T) {
		_, err := generator.ParseManifest([]byte("{}\n{}"))
		wantError(t, err, "line 2")
	})
}

func TestVerifyFinds(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{Encoder: tinyEncoder(t, nil)})
	for _, c := range []struct {
		name   string
		change func(dir string)
		want   []string
	}{
		{"changed value", func(dir string) { poke(t, filepath.Join(dir, "decoder.safetensors"), 5000, []byte{1}) }, []string{"decoder.safetensors", "SHA-256"}},
		{"changed vocabulary", func(dir string) { poke(t, filepath.Join(dir, "encoder", "vocab.txt"), 1, []byte("q")) }, []string{"vocab.txt", "SHA-256"}},
		{"stray file", func(dir string) { write(t, filepath.Join(dir, "encoder", "x.bin"), nil) }, []string{"x.bin", "does not list it"}},
		{"half a file", func(dir string) { os.Truncate(filepath.Join(dir, "decoder.safetensors"), 5000) }, []string{"decoder.safetensors", "5000 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := duplicate(t, dir)
			c.change(bad)
			_, err := generator.Verify(context.Background(), bad, nil)
			wantError(t, err, c.want...)
		})
	}
	good := duplicate(t, dir)
	write(t, filepath.Join(good, "README.md"), nil)
	r, err := generator.Verify(context.Background(), good, nil)
	if err != nil || !slices.Equal(r.Unlisted, []string{"README.md"}) {
		t.Errorf("report %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := generator.Verify(ctx, good, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	dir := madeUp(f, generator.MadeUpOptions{Encoder: tinyEncoder(f, nil)})
	raw, err := os.ReadFile(filepath.Join(dir, generator.ManifestName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"format_version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := generator.ParseManifest(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := generator.ParseManifest(again); err != nil {
			t.Fatalf("written again, it is refused: %v", err)
		}
	})
}
