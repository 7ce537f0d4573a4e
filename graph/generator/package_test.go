package generator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
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

// Every conversion of ReadWeights, in uneven pieces, against the whole tensor.
func TestWeights(t *testing.T) {
	const key = "model.decoder.module_list.0.linear1.conv1w.weight"
	for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		dir := madeUp(t, generator.MadeUpOptions{Seed: 1, WriteOptions: generator.WriteOptions{DType: stored}})
		w := openPackage(t, dir).Weights()
		f, err := safetensors.Open(filepath.Join(dir, "decoder.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		values, err := f.Float32s(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []safetensors.DType{safetensors.F32, safetensors.F16} {
			t.Run(fmt.Sprintf("%s as %s", stored, d), func(t *testing.T) {
				want := make([]byte, int64(len(values))*d.Size())
				if err := safetensors.EncodeFloats(d, values, want); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(want))
				for off, n := 0, 0; off < len(got); off += n {
					n = min(70004, len(got)-off)
					if err := w.ReadWeights("decoder/"+key, string(d), int64(off), got[off:off+n]); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, want) {
					t.Error("bytes differ")
				}
			})
		}
	}
}

func TestWeightsErrors(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{})
	w := openPackage(t, dir).Weights()
	const key = "decoder/model.decoder.module_list.1.linear2.bias" // 358 values
	p := make([]byte, 8)
	wantError(t, w.ReadWeights("x/y", "F32", 0, p), "expected decoder/KEY")
	wantError(t, w.ReadWeights("encoder/y", "F32", 0, p), "expected decoder/KEY")
	wantError(t, w.ReadWeights("decoder/y", "F32", 0, p), "no such tensor")
	wantError(t, w.ReadWeights(key, "BF16", 0, p), "to F32 or F16")
	wantError(t, w.ReadWeights(key, "F32", 2, p), "as F32 it has 1432")
	wantError(t, w.ReadWeights(key, "F16", 712, p), "as F16 it has 716")
	wantError(t, w.ReadWeights(key, "F32", -4, p), "as F32 it has")
	wantError(t, w.ReadWeights(key, "F32", math.MaxInt64-3, p), "as F32 it has")
	if err := w.ReadWeights(key, "F16", 712, p[:4]); err != nil {
		t.Error(err)
	}
}

// A value that is no number is found by Verify, by the weights, and by Write.
func TestNotFinite(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 1, Features: [][3]int{{1, 1, 384}, {4, 4, 6}}}
	m := generator.Manifest{Name: "x", Decoder: c, Tiling: lora.Tiling{Height: 4, Width: 6},
		Condition: generator.Condition{Texts: 1, Length: 1, Width: 384, Pads: generator.PadsEncoded}}
	const key, index = "model.decoder.module_list.0.linear1.conv1w.weight", 1001
	tensors := func(d safetensors.DType, v float32) []safetensors.Tensor {
		var list []safetensors.Tensor
		for _, x := range c.Tensors() {
			n := 1
			for _, s := range x.Shape {
				n *= s
			}
			values := make([]float32, n)
			if x.Name == key {
				values[index] = v
			}
			list = append(list, safetensors.FromFloat32s(x.Name, d, values, x.Shape...))
		}
		return list
	}
	ctx := context.Background()
	for _, d := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			out := filepath.Join(t.TempDir(), "out")
			err := generator.Write(ctx, out, m, tensors(d, v), "", generator.WriteOptions{})
			wantError(t, err, "decoder", key, "value 1001", fmt.Sprint(v))
			empty(t, out)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := generator.Write(ctx, out, m, tensors(d, 1), "", generator.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Open(filepath.Join(out, "decoder.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		x, _ := f.Lookup(key)
		f.Close()
		poke(t, filepath.Join(out, "decoder.safetensors"), x.Offset+index*d.Size(), bytes.Repeat([]byte{0xff}, int(d.Size())))
		_, err = generator.Verify(ctx, out, nil)
		wantError(t, err, "decoder.safetensors", key, "value 1001 is NaN")
		w := openPackage(t, out).Weights()
		for _, as := range []string{"F32", "F16"} {
			size := map[string]int64{"F32": 4, "F16": 2}[as]
			if err := w.ReadWeights("decoder/"+key, as, 0, make([]byte, 1000*size)); err != nil {
				t.Error(err)
			}
			err := w.ReadWeights("decoder/"+key, as, 1000*size, make([]byte, 4*size))
			wantError(t, err, "decoder.safetensors", key, "value 1001 is NaN")
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	err := generator.Write(ctx, out, m, tensors(safetensors.F32, 70000), "", generator.WriteOptions{DType: safetensors.F16})
	wantError(t, err, key, "value 1001 is 70000", "too large for F16")
	if err := generator.Write(ctx, out, m, tensors(safetensors.F32, 70000), "", generator.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = openPackage(t, out).Weights().ReadWeights("decoder/"+key, "F16", 2000, make([]byte, 4))
	wantError(t, err, key, "value 1001 is 70000", "too large for F16")
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

func TestShards(t *testing.T) {
	whole := madeUp(t, generator.MadeUpOptions{Seed: 5})
	dir := madeUp(t, generator.MadeUpOptions{Seed: 5, WriteOptions: generator.WriteOptions{ShardBytes: 300_000}})
	shards, err := filepath.Glob(filepath.Join(dir, "decoder-0000?-of-0000?.safetensors"))
	if err != nil || len(shards) < 3 {
		t.Fatalf("shards %v, %v", shards, err)
	}
	if _, err := generator.Verify(context.Background(), dir, nil); err != nil {
		t.Fatal(err)
	}
	p, q := openPackage(t, whole), openPackage(t, dir)
	for _, x := range p.Manifest.Decoder.Tensors() {
		n := int64(4)
		for _, d := range x.Shape {
			n *= int64(d)
		}
		a, b := make([]byte, n), make([]byte, n)
		if err := errors.Join(p.Weights().ReadWeights("decoder/"+x.Name, "F32", 0, a), q.Weights().ReadWeights("decoder/"+x.Name, "F32", 0, b)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", x.Name)
		}
	}
	index := filepath.Join(dir, "decoder.safetensors.index.json")
	raw, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	first, last := filepath.Base(shards[0]), filepath.Base(shards[len(shards)-1])
	for _, c := range []struct{ name, old, new, want string }{
		{"moved", first, last, "places it in"},
		{"outside", first, "../" + first, "expected a .safetensors file beside the index"},
		{"no map", "weight_map", "weights", "0 shards"},
		{"no JSON", "{", "", "line 2"},
		{"missing", first, "decoder-x.safetensors", "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := duplicate(t, dir)
			text := strings.Replace(string(raw), c.old, c.new, 1)
			if c.name == "no map" || c.name == "missing" || c.name == "outside" {
				text = strings.ReplaceAll(string(raw), c.old, c.new)
			}
			write(t, filepath.Join(bad, filepath.Base(index)), []byte(text))
			edit(t, bad, func(m map[string]any) { resize(m, filepath.Base(index), len(text)) })
			_, err := generator.Open(bad)
			wantError(t, err, c.want)
		})
	}
	both := duplicate(t, dir)
	write(t, filepath.Join(both, "decoder.safetensors"), nil)
	_, err = generator.Open(both)
	wantError(t, err, "holds both")
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

func TestEncoders(t *testing.T) {
	type tensors = []safetensors.Tensor
	ids := safetensors.Tensor{Name: "embeddings.position_ids", DType: safetensors.I64, Shape: []int{1, 2}, Data: func(w io.Writer) error {
		_, err := w.Write(make([]byte, 16))
		return err
	}}
	head := safetensors.FromFloat32s("cls.x", safetensors.F32, []float32{1}, 1)
	pooler := safetensors.FromFloat32s("pooler.dense.bias", safetensors.F32, []float32{1}, 1)
	prefixed := func(_ map[string]any, list tensors) tensors {
		for i := range list {
			list[i].Name = "bert." + list[i].Name
		}
		return append(list, ids, head)
	}
	for _, c := range []struct {
		name   string
		change func(config map[string]any, list tensors) tensors
		want   string // "" for none
	}{
		{"with pooler", func(_ map[string]any, l tensors) tensors { return append(l, pooler, ids) }, ""},
		{"with a head", prefixed, ""},
		{"other model", func(c map[string]any, l tensors) tensors { c["model_type"] = "roberta"; return l }, `model_type "roberta"`},
		{"other positions", func(c map[string]any, l tensors) tensors { c["position_embedding_type"] = "relative_key"; return l }, "relative_key"},
		{"decoder", func(c map[string]any, l tensors) tensors { c["is_decoder"] = true; return l }, "expected an encoder"},
		{"missing", func(_ map[string]any, l tensors) tensors { return l[1:] }, "missing tensors: embeddings.word_embeddings.weight [6 384]"},
		{"unexpected", func(_ map[string]any, l tensors) tensors {
			return append(l, safetensors.FromFloat32s("x", safetensors.F32, nil, 0))
		}, "unexpected tensors: x [0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := generator.MadeUpOptions{Shape: "mini", Encoder: tinyEncoder(t, c.change), WriteOptions: generator.WriteOptions{EncoderDType: safetensors.F16}}
			err := generator.MadeUp(context.Background(), out, o)
			if c.want != "" {
				wantError(t, err, c.want)
				empty(t, out)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s := openPackage(t, out).Summary()
			if !slices.Equal(s.Encoder.DTypes, []safetensors.DType{safetensors.F16}) || s.Encoder.Bytes != 2*s.Encoder.Parameters {
				t.Errorf("encoder %+v", s.Encoder)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	out := filepath.Join(t.TempDir(), "out")
	o := generator.MadeUpOptions{Shape: "0.5b", WriteOptions: generator.WriteOptions{Progress: func(done, total int64) {
		if done > 0 {
			cancel()
		}
	}}}
	if err := generator.MadeUp(ctx, out, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	empty(t, out)
}

func TestExistingFolder(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{})
	err := generator.MadeUp(context.Background(), dir, generator.MadeUpOptions{Shape: "mini"})
	wantError(t, err, "exists already")
	err = generator.MadeUp(context.Background(), dir, generator.MadeUpOptions{Shape: "mini", Seed: 9, WriteOptions: generator.WriteOptions{Replace: true}})
	if err != nil || openPackage(t, dir).Manifest.Provenance.Seed != 9 {
		t.Fatal(err)
	}
}

// The official shapes have the parameters that the reference counts (b.4), and bases
// that make their tokens.
func TestShapes(t *testing.T) {
	want := map[string]int64{
		"0.5b": 1_113_203_220, "1.5b-coding": 1_742_934_236, "1.5b-math": 1_780_943_308,
		"7b-coding": 1_964_146_220, "7b-math": 1_942_130_220, "3b-vl": 2_409_631_548, "mini": 0,
	}
	for _, name := range generator.Shapes() {
		c, base, tiling, err := generator.Shape(name)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for _, x := range generator.MadeUpTensors(c, 0) {
			n += safetensors.Info{Shape: x.Shape}.Elements()
		}
		if n != want[name] && want[name] != 0 {
			t.Errorf("%s: %d parameters, expected %d", name, n, want[name])
		}
		l, err := lora.NewLayout(base, tiling)
		if err != nil {
			t.Fatal(err)
		}
		if count, h, w := l.Shape(); [3]int{count, h, w} != c.Output() {
			t.Errorf("%s: the base makes %d tokens of (%d,%d), the decoder %v", name, count, h, w, c.Output())
		}
		delete(want, name)
	}
	if len(want) != 0 {
		t.Errorf("no shapes %v", want)
	}
	_, _, _, err := generator.Shape("9b")
	wantError(t, err, `unknown shape "9b"`)
}

// Made-up values have the variance 1/fan-in that keeps activations of order one.
func TestMadeUpValues(t *testing.T) {
	c, _, _, err := generator.Shape("mini")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range generator.MadeUpTensors(c, 7) {
		if !strings.HasSuffix(x.Name, "conv1w.weight") {
			continue
		}
		var b bytes.Buffer
		if err := x.Data(&b); err != nil {
			t.Fatal(err)
		}
		values := make([]float32, b.Len()/4)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b.Bytes()[4*i:]))
		}
		sum, squares := 0.0, 0.0
		for _, v := range values {
			sum, squares = sum+float64(v), squares+float64(v)*float64(v)
		}
		fan := float64(x.Shape[1] * x.Shape[2] * x.Shape[3])
		n := float64(len(values))
		if got := squares / n * fan; math.Abs(got-1) > 0.05 || math.Abs(sum/n*math.Sqrt(fan)) > 0.05 {
			t.Errorf("%s: variance times fan-in is %.3f, mean %.3g", x.Name, got, sum/n)
		}
	}
}

func BenchmarkReadWeights(b *testing.B) {
	const key = "decoder/model.decoder.module_list.0.linear1.conv1w.weight"
	for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		p := openPackage(b, madeUp(b, generator.MadeUpOptions{WriteOptions: generator.WriteOptions{DType: stored}}))
		for _, as := range []string{"F32", "F16"} {
			b.Run(fmt.Sprintf("%s as %s", stored, as), func(b *testing.B) {
				buf := make([]byte, 1<<17)
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					if err := p.Weights().ReadWeights(key, as, 0, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
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

func ExampleMadeUp() {
	tmp, err := os.MkdirTemp("", "generator")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "mini")
	if err := generator.MadeUp(context.Background(), dir, generator.MadeUpOptions{Shape: "mini", Seed: 1}); err != nil {
		fmt.Println(err)
		return
	}
	p, err := generator.Open(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	s := p.Summary()
	fmt.Println(s.Condition, "to", s.Tokens, "with", s.Decoder.Parameters, "parameters")
	fmt.Println(p.Manifest.Complete())
	// Output:
	// [4 16 384] to [358 10 10] with 241578 parameters
	// made-up mini: the generator has no text encoder: import it with --encoder, or give it a condition
}
