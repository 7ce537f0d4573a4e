package merge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/merge"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const config = `{"_name_or_path": "org/m", "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}`

func normal(rng *rand.Rand, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(scale * rng.NormFloat64())
	}
	return v
}

// adapter changes q and down.
func adapter(seed uint64) *lora.Adapter {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &lora.Adapter{
		Base: lora.Base{Architecture: "llama", Heads: 4, KVHeads: 2, Rank: 2, Alpha: 3, Targets: []lora.Target{
			{Name: "model.layers.0.self_attn.q_proj", In: 32, Out: 32}, {Name: "model.layers.0.mlp.down_proj", In: 64, Out: 32}}},
		Pairs: []lora.Pair{{A: normal(rng, 64, 0.1), B: normal(rng, 64, 0.1)}, {A: normal(rng, 128, 0.1), B: normal(rng, 64, 0.1)}},
	}
}

// added is W + (alpha/rank)·B·A.
func added(w []float32, a *lora.Adapter, i int) []float32 {
	t, r := a.Base.Targets[i], a.Base.Rank
	out := make([]float32, len(w))
	for row := range t.Out {
		for col := range t.In {
			s := 0.0
			for k := range r {
				s += float64(a.Pairs[i].B[row*r+k]) * float64(a.Pairs[i].A[k*t.In+col])
			}
			out[row*t.In+col] = float32(float64(w[row*t.In+col]) + s*a.Base.Alpha/float64(r))
		}
	}
	return out
}

func gap(a, b []float32) float64 {
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i])-float64(b[i])))
	}
	return worst
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// folder is a base of two shards with other files beside them, and its weights.
func folder(t testing.TB, d safetensors.DType) (dir string, q, down []float32) {
	t.Helper()
	dir = t.TempDir()
	rng := rand.New(rand.NewPCG(7, 7))
	q, down = normal(rng, 32*32, 1), normal(rng, 32*64, 1)
	for name, list := range map[string][]safetensors.Tensor{
		"model-00001-of-00002.safetensors": {
			safetensors.FromFloat32s("model.embed_tokens.weight", d, normal(rng, 320, 1), 10, 32),
			safetensors.FromFloat32s("model.layers.0.self_attn.q_proj.weight", d, q, 32, 32)},
		"model-00002-of-00002.safetensors": {
			safetensors.FromFloat32s("model.layers.0.mlp.down_proj.weight", d, down, 32, 64),
			safetensors.FromFloat32s("scalar", d, []float32{1})},
	} {
		if err := safetensors.WriteFile(filepath.Join(dir, name), list, map[string]string{"format": "pt"}); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "config.json"), config)
	write(t, filepath.Join(dir, "tokenizer.json"), "{}")
	write(t, filepath.Join(dir, "pytorch_model.bin"), "x")
	write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors",
		"model.layers.0.self_attn.q_proj.weight": "model-00001-of-00002.safetensors", "model.layers.0.mlp.down_proj.weight": "model-00002-of-00002.safetensors", "scalar": "model-00002-of-00002.safetensors"}}`)
	return dir, q, down
}

func TestFolder(t *testing.T) {
	for d, tolerance := range map[safetensors.DType]float64{safetensors.F32: 1e-6, safetensors.BF16: 0.02, safetensors.F16: 0.003} {
		t.Run(string(d), func(t *testing.T) {
			dir, q, down := folder(t, d)
			out := filepath.Join(t.TempDir(), "out")
			var done, total int64
			r, err := merge.Folder(t.Context(), dir, adapter(1), out, func(d, n int64) { done, total = d, n })
			if err != nil {
				t.Fatal(err)
			}
			if done != total || total != d.Size()*(320+32*32+32*64+1) {
				t.Errorf("%d of %d bytes", done, total)
			}
			names := []string{}
			entries, _ := os.ReadDir(out)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			want := []string{"config.json", "merge.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"}
			if !reflect.DeepEqual(names, want) {
				t.Errorf("files %q", names)
			}
			for i, c := range []struct {
				shard, name string
				w           []float32
			}{{want[2], "model.layers.0.self_attn.q_proj.weight", q}, {want[3], "model.layers.0.mlp.down_proj.weight", down}} {
				f, err := safetensors.Open(filepath.Join(out, c.shard))
				if err != nil {
					t.Fatal(err)
				}
				got, err := f.Float32s(c.name)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				if g := gap(got, added(c.w, adapter(1), i)); g > tolerance {
					t.Errorf("%s differs by %g", c.name, g)
				}
				report := r.Tensors[i]
				if report.Name != c.name || report.To != string(d) || report.Change < 0.01 || d != safetensors.F32 && !(report.Lost > 1e-4 && report.Lost < 0.5) || d == safetensors.F32 && report.Lost != 0 {
					t.Errorf("%+v", report)
				}
			}
			// What is not merged is the same byte for byte.
			a, _ := safetensors.Open(filepath.Join(dir, want[2]))
			b, _ := safetensors.Open(filepath.Join(out, want[2]))
			defer a.Close()
			defer b.Close()
			x, y := make([]byte, a.Tensors[0].Bytes), make([]byte, a.Tensors[0].Bytes)
			if err := errors.Join(a.ReadRange("model.embed_tokens.weight", 0, x), b.ReadRange("model.embed_tokens.weight", 0, y)); err != nil || !bytes.Equal(x, y) || b.Metadata["format"] != "pt" {
				t.Errorf("the embeddings changed, or %v", err)
			}
			raw, _ := os.ReadFile(filepath.Join(out, merge.ReportName))
			var saved merge.Report
			if err := json.Unmarshal(raw, &saved); err != nil || !reflect.DeepEqual(&saved, r) || saved.Model != "org/m" {
				t.Errorf("%s holds %+v, %v", merge.ReportName, saved, err)
			}
		})
	}
}

func TestFolderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, dir string)
		change func(a *lora.Adapter)
		want   string
	}{
		"no config": {spoil: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, want: "config.json"},
		"no index":  {spoil: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "model.safetensors.index.json")) }, want: "model.safetensors"},
		"shard outside": {spoil: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map": {"a": "../x.safetensors"}}`)
		}, want: "same folder"},
		"no shards":     {spoil: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "model.safetensors.index.json"), `{}`) }, want: "no shards"},
		"lacks a shard": {spoil: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "model-00002-of-00002.safetensors")) }, want: "model-00002"},
		"lacks a weight": {spoil: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map": {"a": "model-00001-of-00002.safetensors"}}`)
		}, want: "no tensor model.layers.0.mlp.down_proj.weight"},
		"truncated": {spoil: func(t *testing.T, dir string) {
			os.Truncate(filepath.Join(dir, "model-00002-of-00002.safetensors"), 300)
		}, want: "model-00002"},
		"quantised": {spoil: func(t *testing.T, dir string) {
			raw := safetensors.Tensor{Name: "model.layers.0.mlp.down_proj.weight", DType: safetensors.U8, Shape: []int{32, 64}, Data: func(w io.Writer) error { _, err := w.Write(make([]byte, 2048)); return err }}
			if err := safetensors.WriteFile(filepath.Join(dir, "model-00002-of-00002.safetensors"), []safetensors.Tensor{raw}, nil); err != nil {
				t.Fatal(err)
			}
		}, want: "type U8"},
		"other shape": {spoil: func(t *testing.T, dir string) {
			x := safetensors.FromFloat32s("model.layers.0.mlp.down_proj.weight", safetensors.F32, make([]float32, 2048), 64, 32)
			if err := safetensors.WriteFile(filepath.Join(dir, "model-00002-of-00002.safetensors"), []safetensors.Tensor{x}, nil); err != nil {
				t.Fatal(err)
			}
		}, want: "has shape [64 32], the adapter is for (32,64)"},
		"too large": {change: func(a *lora.Adapter) { a.Pairs[0].B[0] = 1e7 }, want: "too large for F16"},
		"NaN":       {change: func(a *lora.Adapter) { a.Pairs[0].B[0] = float32(math.NaN()) }, want: "NaN"},
		"layer":     {change: func(a *lora.Adapter) { a.Base.Targets[1].Name = "model.layers.1.mlp.down_proj" }, want: "the base org/m has 1 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, _ := folder(t, safetensors.F16)
			a := adapter(1)
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			if c.change != nil {
				c.change(a)
			}
			parent := t.TempDir()
			_, err := merge.Folder(t.Context(), dir, a, filepath.Join(parent, "out"), nil)
			refused(t, parent, err, c.want)
		})
	}
	dir, _, _ := folder(t, safetensors.F32)
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := merge.Folder(ctx, dir, adapter(1), filepath.Join(parent, "out"), func(int64, int64) { cancel() })
	refused(t, parent, err, "context canceled")
}

func refused(t *testing.T, parent string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, expected one line with %q", err, want)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind %v", left)
	}
}

// The base is never in memory: one of 48 MiB is merged with a sixth of that at most.
func TestFolderStreams(t *testing.T) {
	dir, q, down := folder(t, safetensors.F32)
	const large = 48 << 20
	blank := make([]byte, 1<<16)
	list := []safetensors.Tensor{
		{Name: "model.embed_tokens.weight", DType: safetensors.BF16, Shape: []int{large / 64, 32}, Data: func(w io.Writer) error {
			for range large / len(blank) {
				if _, err := w.Write(blank); err != nil {
					return err
				}
			}
			return nil
		}},
		safetensors.FromFloat32s("model.layers.0.self_attn.q_proj.weight", safetensors.F32, q, 32, 32),
		safetensors.FromFloat32s("model.layers.0.mlp.down_proj.weight", safetensors.F32, down, 32, 64),
	}
	os.Remove(filepath.Join(dir, "model.safetensors.index.json"))
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := merge.Folder(t.Context(), dir, adapter(1), filepath.Join(t.TempDir(), "out"), nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > large/6 {
		t.Errorf("%d bytes were allocated for a base of %d", n, large)
	}
}

// values reads a file of floats.
type values struct{ f *gguf.File }

func (v values) Float32s(name string) ([]float32, error) {
	t, _ := v.f.Tensor(name)
	raw := make([]byte, t.Bytes)
	if err := v.f.ReadRange(name, 0, raw); err != nil {
		return nil, err
	}
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	out := make([]float32, n)
	return out, gguf.Decode(t.Type, raw, out)
}

// base is a GGUF model, its metadata extended, and its weights.
func base(t *testing.T, kind gguf.TensorType, more ...gguf.KeyValue) (f *gguf.File, q, down []float32) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 7))
	q, down = normal(rng, 32*32, 1), normal(rng, 32*64, 1)
	tensor := func(name string, v []float32, ne0, ne1 int64) gguf.Tensor {
		n, err := gguf.Size(kind, len(v))
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, n)
		if err := gguf.Encode(kind, v, raw); err != nil { // rounds v
			t.Fatal(err)
		}
		return gguf.Tensor{Name: name, Type: kind, Shape: []int64{ne0, ne1}, Data: func(w io.Writer) error { _, err := w.Write(raw); return err }}
	}
	number := func(key string, v uint64) gguf.KeyValue { return gguf.KeyValue{Key: key, Type: gguf.Uint32, Value: v} }
	list := append([]gguf.KeyValue{
		{Key: "general.architecture", Type: gguf.String, Value: "llama"}, number("general.file_type", 3),
		number("llama.block_count", 1), number("llama.embedding_length", 32), number("llama.feed_forward_length", 64),
		number("llama.attention.head_count", 4), number("llama.attention.head_count_kv", 2),
		{Key: "tokenizer.ggml.tokens", Type: gguf.Array, Value: gguf.RawArray{Type: gguf.Uint16, Count: 3, Data: []byte{1, 0, 2, 0, 3, 0}}},
		{Key: "small", Type: gguf.Int8, Value: int64(-5)},
	}, more...)
	path := filepath.Join(t.TempDir(), "base.gguf")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = gguf.Write(out, list, []gguf.Tensor{tensor("token_embd.weight", normal(rng, 320, 1), 32, 10),
		tensor("blk.0.attn_q.weight", q, 32, 32), tensor("blk.0.ffn_down.weight", down, 64, 32)})
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	if f, err = gguf.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, q, down
}

func TestGGUF(t *testing.T) {
	for _, c := range []struct {
		from      gguf.TensorType
		kind      string
		to        gguf.TensorType
		file      uint64
		tolerance float64
	}{
		{gguf.F32, "", gguf.F32, 3, 1e-6}, {gguf.Q8_0, "", gguf.F16, 1, 0.003}, {gguf.Q8_0, "same", gguf.Q8_0, 3, 0.03},
		{gguf.F32, "q4_1", gguf.Q4_1, 3, 0.5}, {gguf.Q8_0, "q5_0", gguf.Q5_0, 8, 0.3}, {gguf.F16, "bf16", gguf.BF16, 32, 0.02},
	} {
		f, q, down := base(t, c.from)
		out := filepath.Join(t.TempDir(), "out")
		r, err := merge.GGUF(t.Context(), f, values{f}, adapter(1), c.kind, out, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := gguf.Open(filepath.Join(out, merge.GGUFName))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		kv, _ := m.Lookup("general.file_type")
		small, _ := m.Lookup("small")
		array, err := m.Array("tokenizer.ggml.tokens")
		if err != nil || kv.Value != c.file || small.Value != int64(-5) || !bytes.Equal(array.Data, []byte{1, 0, 2, 0, 3, 0}) || array.Type != gguf.Uint16 {
			t.Errorf("%s: file type %v, %v, %v, %v", c.kind, kv.Value, small.Value, array, err)
		}
		// The rows of q are llama.cpp's: (head, half, k) is (head, k, half) here.
		rows := adapter(1)
		_, rows.Pairs[0].B, err = rows.Base.InGGUF(rows.Base.Targets[0], rows.Pairs[0].B)
		if err != nil || gap(rows.Pairs[0].B, adapter(1).Pairs[0].B) == 0 {
			t.Fatalf("rows as they were, %v", err)
		}
		for i, w := range []struct {
			name string
			w    []float32
		}{{"blk.0.attn_q.weight", q}, {"blk.0.ffn_down.weight", down}} {
			info, _ := m.Tensor(w.name)
			if info.Type != c.to {
				t.Errorf("%s %s: type %s", c.kind, w.name, info.Type)
			}
			want := added(w.w, rows, i)
			if c.to == gguf.Q4_1 || c.to == gguf.Q5_0 { // no decoder here: the report tells
				if l := r.Tensors[i].Lost; !(l > 0.1 && l < 5) || r.Tensors[i].Error > 0.2 {
					t.Errorf("%+v", r.Tensors[i])
				}
				continue
			}
			got, err := values{m}.Float32s(w.name)
			if err != nil {
				t.Fatal(err)
			}
			if g := gap(got, want); g > c.tolerance {
				t.Errorf("%s %s: differs by %g", c.kind, w.name, g)
			}
		}
	}
}

func TestGGUFRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		more   []gguf.KeyValue
		kind   string
		change func(a *lora.Adapter)
		want   string
	}{
		"split":        {more: []gguf.KeyValue{{Key: "split.count", Type: gguf.Uint16, Value: uint64(2)}}, want: "one of 2 parts"},
		"adapter":      {more: []gguf.KeyValue{{Key: "general.type", Type: gguf.String, Value: "adapter"}}, want: "is an adapter"},
		"unknown type": {kind: "q3_k", want: `unknown type "q3_k"`},
		"architecture": {change: func(a *lora.Adapter) { a.Base.Architecture = "qwen2" }, want: "architecture qwen2"},
		"heads":        {change: func(a *lora.Adapter) { a.Base.Heads = 8 }, want: "8 heads"},
		"lacks a block": {change: func(a *lora.Adapter) {
			a.Base.Targets[1] = lora.Target{Name: "model.layers.0.mlp.up_proj", In: 32, Out: 64}
			a.Pairs[1].A, a.Pairs[1].B = a.Pairs[1].B, a.Pairs[1].A
		}, want: "no tensor blk.0.ffn_up.weight"},
		"too large": {change: func(a *lora.Adapter) { a.Pairs[0].B[0] = 1e9 }, kind: "q8_0", want: "too large for Q8_0"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, _ := base(t, gguf.F32, c.more...)
			a := adapter(1)
			if c.change != nil {
				c.change(a)
			}
			parent := t.TempDir()
			_, err := merge.GGUF(t.Context(), f, values{f}, a, c.kind, filepath.Join(parent, "out"), nil)
			refused(t, parent, err, c.want)
		})
	}
}
