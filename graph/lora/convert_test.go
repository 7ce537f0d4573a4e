package lora_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// An adapter comes back from every format as it was, the rows of llama's q and k
// included, and is known by its files.
func TestReadBack(t *testing.T) {
	want := tinyAdapter()
	for _, format := range []string{lora.PEFT, lora.GGUF, lora.MLX} {
		t.Run(format, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			if err := lora.Write(dir, want, lora.Options{Format: format}); err != nil {
				t.Fatal(err)
			}
			if got, err := lora.FormatOf(dir); err != nil || got != format {
				t.Errorf("format %q, %v", got, err)
			}
			if _, err := lora.Verify(dir); err != nil {
				t.Error(err)
			}
			got, err := lora.Read(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Pairs, want.Pairs) || !reflect.DeepEqual(got.Base.Targets, want.Base.Targets) ||
				got.Base.Alpha != want.Base.Alpha || got.Base.Rank != want.Base.Rank || got.Base.Model != want.Base.Model {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// adapterGGUF writes an adapter of one module as a converter of llama.cpp might.
func adapterGGUF(t testing.TB, values map[string]any, tensors ...gguf.Tensor) *gguf.File {
	t.Helper()
	keys := map[string]any{"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora", "adapter.lora.alpha": 4.0}
	for k, v := range values {
		keys[k] = v
	}
	var list []gguf.KeyValue
	for k, v := range keys {
		kv := gguf.KeyValue{Key: k, Value: v}
		switch v.(type) {
		case string:
			kv.Type = gguf.String
		case float64:
			kv.Type = gguf.Float32
		case uint64:
			kv.Type = gguf.Uint32
		case nil:
			continue
		}
		list = append(list, kv)
	}
	var buf bytes.Buffer
	if err := gguf.Write(&buf, list, tensors); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Read(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func ggufTensor(name string, ne0, ne1 int) gguf.Tensor {
	values := make([]float32, ne0*ne1)
	for i := range values {
		values[i] = float32(i)
	}
	return gguf.Tensor{Name: name, Type: gguf.F32, Shape: []int64{int64(ne0), int64(ne1)}, Data: safetensors.FromFloat32s(name, safetensors.F32, values, ne1, ne0).Data}
}

var spec2 = &lora.Spec{Path: "base", Architecture: "llama", Layers: 2, Hidden: 8, Heads: 2, KVHeads: 1, HeadDim: 4, MLP: 12}

func TestDecodeGGUF(t *testing.T) {
	q := []gguf.Tensor{ggufTensor("blk.1.attn_q.weight.lora_a", 8, 2), ggufTensor("blk.1.attn_q.weight.lora_b", 2, 8)}
	a, err := lora.DecodeGGUF(adapterGGUF(t, map[string]any{"adapter.lora.alpha": 0.0}, q...), spec2)
	if err != nil {
		t.Fatal(err)
	}
	// Rows (head, k, half) become (head, half, k); alpha 0 is no scaling.
	want := []float32{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}
	if !reflect.DeepEqual(a.Pairs[0].B, want) || a.Base.Alpha != 2 || a.Base.Heads != 2 || a.Base.Targets[0].Name != "model.layers.1.self_attn.q_proj" {
		t.Errorf("got %+v", a)
	}
	// Another rank: llama.cpp scales each pair by alpha over its own.
	v := []gguf.Tensor{ggufTensor("blk.1.attn_v.weight.lora_a", 8, 1), ggufTensor("blk.1.attn_v.weight.lora_b", 1, 4)}
	a, err = lora.DecodeGGUF(adapterGGUF(t, map[string]any{"adapter.lora.alpha": 2.0}, append(v, q...)...), spec2)
	if err != nil || a.Base.Rank != 2 || a.Base.Alpha != 2 || a.Pairs[0].B[2] != 4 ||
		!reflect.DeepEqual(a.Pairs[1].B, []float32{0, 0, 2, 0, 4, 0, 6, 0}) || len(a.Pairs[1].A) != 16 || a.Pairs[1].A[7] != 7 || a.Pairs[1].A[8] != 0 {
		t.Errorf("two ranks: %+v, %v", a, err)
	}
	for _, c := range []struct {
		what    string
		values  map[string]any
		tensors []gguf.Tensor
		spec    *lora.Spec
		want    string
	}{
		{"model", map[string]any{"general.type": "model"}, q, spec2, "is no adapter"},
		{"control vector", map[string]any{"adapter.type": "x"}, q, spec2, "adapter.type"},
		{"no heads", nil, q, nil, "name the base"},
		{"no alpha", map[string]any{"adapter.lora.alpha": "1"}, q, spec2, "adapter.lora.alpha"},
		{"negative alpha", map[string]any{"adapter.lora.alpha": -1.0}, q, spec2, "alpha -1"},
		{"no tensors", nil, nil, spec2, "no tensors"},
		{"half a pair", nil, q[:1], spec2, "partner .lora_b is missing"},
		{"other half", nil, q[1:], spec2, "partner .lora_a is missing"},
		{"embedding", nil, []gguf.Tensor{ggufTensor("token_embd.weight.lora_a", 8, 2)}, spec2, "token_embd"},
		{"norm", nil, []gguf.Tensor{ggufTensor("blk.0.attn_norm.weight", 8, 2)}, spec2, "attn_norm"},
		{"odd number", nil, []gguf.Tensor{ggufTensor("blk.01.attn_q.weight.lora_a", 8, 2)}, spec2, "blk.01"},
		{"ranks", nil, []gguf.Tensor{q[0], ggufTensor("blk.1.attn_q.weight.lora_b", 3, 8)}, spec2, "expected [in,rank] and [rank,out]"},
		{"unknown architecture", map[string]any{"general.architecture": "plamo"}, q, nil, "expected one of gemma, gemma2"},
		{"architecture", map[string]any{"general.architecture": "qwen2"}, q, spec2, "architecture qwen2, the base base is llama"},
		{"layer", nil, []gguf.Tensor{ggufTensor("blk.2.attn_q.weight.lora_a", 8, 2), ggufTensor("blk.2.attn_q.weight.lora_b", 2, 8)}, spec2, "has 2 layers"},
		{"size", nil, []gguf.Tensor{q[0], ggufTensor("blk.1.attn_q.weight.lora_b", 2, 12)}, spec2, "(out 12, in 8), in the base base it is (out 8, in 8)"},
		{"type", nil, []gguf.Tensor{{Name: q[0].Name, Type: gguf.Q4_0, Shape: []int64{32, 2}, Data: zeros(36)}, q[1]}, spec2, "type Q4_0"},
	} {
		_, err := lora.DecodeGGUF(adapterGGUF(t, c.values, c.tensors...), c.spec)
		wantError(t, c.what, err, c.want)
	}
}

func TestParseSpec(t *testing.T) {
	s, err := lora.ParseSpec([]byte(`{"_name_or_path": "org/m", "model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "intermediate_size": 12}`))
	if err != nil || *s != (lora.Spec{Model: "org/m", Type: "mistral", Architecture: "llama", Layers: 2, Hidden: 8, Heads: 2, KVHeads: 1, HeadDim: 6, MLP: 12}) {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = lora.ParseSpec([]byte(`{"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}}`))
	if err != nil || s.Architecture != "qwen2vl" || s.KVHeads != 2 || s.HeadDim != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	for text, want := range map[string]string{
		`[]`: "not the config.json",
		`{}`: "lacks",
		`{"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 12}`:  "3 attention heads over 2",
		`{"num_hidden_layers": -2, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "intermediate_size": 12}`: "lacks",
	} {
		_, err := lora.ParseSpec([]byte(text))
		wantError(t, text, err, want)
	}
	b := tiny()
	b.Heads, b.KVHeads = 0, 0
	if err := spec2.Fit(&b); err != nil || b.Heads != 2 || b.KVHeads != 1 {
		t.Errorf("%+v, %v", b, err)
	}
	b.Heads = 4
	wantError(t, "heads", spec2.Fit(&b), "4 heads")
}

func TestMLX(t *testing.T) {
	files, err := lora.Files(tinyAdapter(), lora.Options{Format: lora.MLX, Layers: 5})
	if err != nil {
		t.Fatal(err)
	}
	var config, weights bytes.Buffer
	if err := files[0].Write(&config); err != nil {
		t.Fatal(err)
	}
	if err := files[1].Write(&weights); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"num_layers": 5`, `"scale": 2`, `"rank": 2`, `"self_attn.q_proj"`} {
		if !strings.Contains(config.String(), want) {
			t.Errorf("%s lacks %s", config.String(), want)
		}
	}
	file, err := safetensors.NewFile(bytes.NewReader(weights.Bytes()), int64(weights.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if info, ok := file.Lookup("model.layers.0.self_attn.k_proj.lora_b"); !ok || !reflect.DeepEqual(info.Shape, []int{2, 4}) {
		t.Errorf("lora_b of k: %+v", info)
	}
	for text, want := range map[string]string{
		`[]`:                        "not the settings",
		`{"fine_tune_type":"full"}`: "fine_tune_type",
		`{"fine_tune_type":"dora"}`: "fine_tune_type",
		`{"fine_tune_type":"lora"}`: "rank is 0",
		`{"fine_tune_type":"lora","lora_parameters":{"rank":2}}`:           "scale",
		`{"fine_tune_type":"lora","lora_parameters":{"rank":3,"scale":1}}`: "expected (in,3)",
	} {
		_, err := lora.DecodeMLX([]byte(text), file)
		wantError(t, text, err, want)
	}
}

func TestFormatOf(t *testing.T) {
	dir := t.TempDir()
	_, err := lora.FormatOf(dir)
	wantError(t, "empty folder", err, "no adapter")
	path := filepath.Join(dir, "x.txt")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.Read(path, nil)
	wantError(t, "text", err, "expected an adapter")
}

func FuzzDecodeGGUF(f *testing.F) {
	for _, a := range []*lora.Adapter{tinyAdapter()} {
		files, err := lora.Files(a, lora.Options{Format: lora.GGUF})
		if err != nil {
			f.Fatal(err)
		}
		var buf bytes.Buffer
		if err := files[0].Write(&buf); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, spec := range []*lora.Spec{nil, spec2} {
			if a, err := lora.DecodeGGUF(file, spec); err == nil {
				if err := a.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s, err := lora.GGUFSpec(file); err == nil {
			s.Fit(&lora.Base{})
		}
	})
}

func FuzzDecodeMLX(f *testing.F) {
	files, err := lora.Files(tinyAdapter(), lora.Options{Format: lora.MLX})
	if err != nil {
		f.Fatal(err)
	}
	var config, weights bytes.Buffer
	if err := files[0].Write(&config); err != nil {
		f.Fatal(err)
	}
	if err := files[1].Write(&weights); err != nil {
		f.Fatal(err)
	}
	f.Add(config.Bytes(), weights.Bytes())
	f.Fuzz(func(t *testing.T, config, weights []byte) {
		file, err := safetensors.NewFile(bytes.NewReader(weights), int64(len(weights)))
		if err != nil {
			return
		}
		if a, err := lora.DecodeMLX(config, file); err == nil {
			if err := a.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(`{"model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}`))
	f.Add([]byte(`{"text_config": {"text_config": {}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := lora.ParseSpec(text); err == nil {
			b := tiny()
			s.Fit(&b)
		}
	})
}

func zeros(n int) func(w io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(make([]byte, n)); return err }
}

// A base's id is its own, not that of the model that it was tuned from.
func TestGGUFSpecModel(t *testing.T) {
	values := map[string]any{"general.type": "model", "general.base_model.0.repo_url": "https://huggingface.co/org/base",
		"llama.block_count": uint64(1), "llama.embedding_length": uint64(8), "llama.attention.head_count": uint64(2), "llama.feed_forward_length": uint64(12)}
	for _, want := range []string{"", "org/tuned"} {
		if want != "" {
			values["general.repo_url"] = "https://huggingface.co/" + want
		}
		s, err := lora.GGUFSpec(adapterGGUF(t, values))
		if err != nil || s.Model != want {
			t.Errorf("%+v, %v: expected model %q", s, err, want)
		}
	}
}
