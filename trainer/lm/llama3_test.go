package lm_test

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// llama3GGUF writes the folder's model as llama.cpp converts it: rows of queries and keys in its order, and
// what rotary frequencies are divided by as a tensor, or as more metadata says.
func llama3GGUF(t *testing.T, dir, path string, more ...gguf.KeyValue) {
	t.Helper()
	read := func(name string, v any) {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var c struct {
		Heads   int     `json:"num_attention_heads"`
		KVHeads int     `json:"num_key_value_heads"`
		HeadDim int     `json:"head_dim"`
		Hidden  int     `json:"hidden_size"`
		MLP     int     `json:"intermediate_size"`
		Layers  int     `json:"num_hidden_layers"`
		Theta   float64 `json:"rope_theta"`
		Eps     float64 `json:"rms_norm_eps"`
	}
	read("config.json", &c)
	var tokenizer struct {
		Model struct {
			Vocab  map[string]int `json:"vocab"`
			Merges []any          `json:"merges"`
		} `json:"model"`
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
	}
	read("tokenizer.json", &tokenizer)
	pieces := make([]string, len(tokenizer.Model.Vocab)+len(tokenizer.Added))
	for piece, id := range tokenizer.Model.Vocab {
		pieces[id] = piece
	}
	for _, a := range tokenizer.Added {
		pieces[a.ID] = a.Content
	}
	var merges []string
	for _, m := range tokenizer.Model.Merges {
		switch m := m.(type) {
		case string:
			merges = append(merges, m)
		case []any:
			merges = append(merges, m[0].(string)+" "+m[1].(string))
		}
	}
	f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := strings.NewReplacer("model.embed_tokens", "token_embd", "model.norm", "output_norm", "model.layers.", "blk.", "post_attention_layernorm", "ffn_norm",
		"input_layernorm", "attn_norm", "self_attn.q_proj", "attn_q", "self_attn.k_proj", "attn_k", "self_attn.v_proj", "attn_v", "self_attn.o_proj", "attn_output",
		"mlp.up_proj", "ffn_up", "mlp.gate_proj", "ffn_gate", "mlp.down_proj", "ffn_down")
	var tensors []gguf.Tensor
	add := func(name string, values []float32, shape ...int64) {
		raw := make([]byte, 4*len(values))
		if err := gguf.Encode(gguf.F32, values, raw); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, gguf.Tensor{Name: name, Type: gguf.F32, Shape: shape, Data: func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		}})
	}
	for _, info := range f.Tensors {
		values, err := f.Float32s(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Name, "q_proj") || strings.Contains(info.Name, "k_proj") {
			from, half := slices.Clone(values), c.HeadDim/2
			for row := range len(values) / c.Hidden {
				head, i := row/c.HeadDim, row%c.HeadDim
				to := head*c.HeadDim + 2*(i%half) + i/half
				copy(values[to*c.Hidden:(to+1)*c.Hidden], from[row*c.Hidden:])
			}
		}
		var shape []int64
		for _, n := range slices.Backward(info.Shape) {
			shape = append(shape, int64(n))
		}
		add(names.Replace(info.Name), values, shape...)
	}
	config, _, err := lm.FolderConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	var factors []float32
	for _, v := range config.RopeFactors {
		factors = append(factors, float32(v))
	}
	if more == nil {
		add(llama.RopeFactorsTensor, factors, int64(len(factors)))
	}

	number := func(key string, n int) gguf.KeyValue {
		return gguf.KeyValue{Key: "llama." + key, Type: gguf.Uint32, Value: uint64(n)}
	}
	values := []gguf.KeyValue{
		{Key: "general.architecture", Type: gguf.String, Value: "llama"}, number("block_count", c.Layers), number("embedding_length", c.Hidden),
		number("feed_forward_length", c.MLP), number("attention.head_count", c.Heads), number("attention.head_count_kv", c.KVHeads), number("attention.key_length", c.HeadDim),
		{Key: "llama.attention.layer_norm_rms_epsilon", Type: gguf.Float32, Value: c.Eps}, {Key: "llama.rope.freq_base", Type: gguf.Float32, Value: c.Theta},
		{Key: "tokenizer.ggml.model", Type: gguf.String, Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Type: gguf.String, Value: "llama-bpe"},
		madeup.Strings("tokenizer.ggml.tokens", pieces), madeup.Strings("tokenizer.ggml.merges", merges),
	}
	values = append(values, more...)
	if err := atomicfile.Write(path, func(w io.Writer) error { return gguf.Write(w, values, tensors) }); err != nil {
		t.Fatal(err)
	}
}

// TestLlama3 holds a made-up model in the manner of Llama 3.2 to transformers
// (testdata/llama3.py): ids of texts and of its chat template, and likelihoods within and beyond the
// length from which its rotary positions are scaled.
func TestLlama3(t *testing.T) {
	dir := filepath.Join("testdata", "llama3")
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Texts []struct {
			Text string  `json:"text"`
			IDs  []int32 `json:"ids"`
		} `json:"texts"`
		Prompts []struct {
			System, User string
			IDs          []int32
		} `json:"prompts"`
		NLL []struct {
			IDs []int32 `json:"ids"`
			NLL float64 `json:"nll"`
		} `json:"nll"`
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "llama3.gguf")
	llama3GGUF(t, dir, file)
	for _, kind := range []struct{ backend, path string }{{backend.PJRT, dir}, {backend.CPU, dir}, {backend.CPU, file}} {
		m, err := lm.Load(kind.path, open(t, kind.backend))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for _, x := range want.Texts {
			ids, err := m.Tokenizer.Encode(x.Text)
			if err != nil || !slices.Equal(ids, x.IDs) {
				t.Errorf("%q: ids %v, %v, want %v", x.Text, ids, err, x.IDs)
			}
			if got := m.Tokenizer.Decode(ids); got != x.Text {
				t.Errorf("%q comes back as %q", x.Text, got)
			}
		}
		for _, x := range want.Prompts {
			if ids, err := m.Prompt(x.System, x.User); err != nil || !slices.Equal(ids, x.IDs) {
				t.Errorf("%q after %q: ids %v, %v, want %v", x.User, x.System, ids, err, x.IDs)
			}
		}
		if ids, err := m.Answer(""); err != nil || len(ids) != 1 || string(m.Tokenizer.Bytes(ids[0])) != "<|eot_id|>" {
			t.Errorf("an answer ends with %v, %v", ids, err)
		}
		for _, x := range want.NLL {
			score, err := m.Evaluate(t.Context(), []lm.Example{{Prompt: x.IDs[:1], Answer: x.IDs[1:]}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(score.NLL-x.NLL) > 1e-4*x.NLL {
				t.Errorf("%+v, %d tokens: %v nats, want %v", kind, len(x.IDs), score.NLL, x.NLL)
			}
		}
	}
}

// Rotary positions that are scaled in another way are refused by name, and nothing is left of numbers
// that make no sense.
func TestRopeScaling(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "llama3", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		key, value string
		last       float64 // what the slowest frequency is divided by
		want       string
	}{
		{"rope_scaling", `null`, 1, ""},
		{"rope_scaling", `{"rope_type": "default"}`, 1, ""},
		{"rope_scaling", `{"type": "linear", "factor": 4}`, 4, ""},
		{"rope_parameters", `{"rope_theta": 10000, "rope_type": "llama3", "factor": 32, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}`, 32, ""},
		{"rope_scaling", `{"rope_type": "yarn", "factor": 4}`, 0, `"yarn", expected default, linear or llama3`},
		{"rope_scaling", `{"type": "linear"}`, 0, "divided by 0"},
		{"rope_scaling", `{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 64}`, 0, "high_freq_factor above"},
		{"rope_scaling", `{"rope_type": "llama3", "factor": 8}`, 0, "expected positive numbers"},
	} {
		var c map[string]any
		if err := json.Unmarshal(raw, &c); err != nil {
			t.Fatal(err)
		}
		delete(c, "rope_scaling")
		var value any
		if err := json.Unmarshal([]byte(x.value), &value); err != nil {
			t.Fatal(err)
		}
		c[x.key] = value
		dir := t.TempDir()
		changed, err := json.Marshal(c)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "config.json"), changed, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := lm.FolderConfig(dir)
		if x.want != "" {
			if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %v, want %q", x.value, err, x.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", x.value, err)
			continue
		}
		f := got.Frequencies()
		got.RopeFactors = nil
		plain := got.Frequencies()
		if ratio := plain[len(f)-1] / f[len(f)-1]; math.Abs(ratio-x.last) > 1e-9 {
			t.Errorf("%s: the slowest frequency is divided by %v, want %v", x.value, ratio, x.last)
		}
	}
}

// The same of a GGUF file's metadata.
func TestRopeScalingOfGGUF(t *testing.T) {
	b := open(t, backend.CPU)
	for kind, want := range map[string]string{"none": "", "linear": "", "yarn": `"yarn", expected none or linear`} {
		path := filepath.Join(t.TempDir(), "base.gguf")
		llama3GGUF(t, filepath.Join("testdata", "llama3"), path, gguf.KeyValue{Key: "llama.rope.scaling.type", Type: gguf.String, Value: kind},
			gguf.KeyValue{Key: "llama.rope.scaling.factor", Type: gguf.Float32, Value: 4.0})
		m, err := lm.Load(path, b)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", kind, err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if f := m.Config.RopeFactors; (kind == "linear") != (len(f) == 8 && f[0] == 4 && f[7] == 4) {
			t.Errorf("%s: frequencies are divided by %v", kind, f)
		}
	}
}

// A tokenizer.json that splits text by a pattern of another model's is refused, not taken for GPT-2's.
func TestUnknownSplit(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "llama3", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), "p{N}{1,3}", "p{N}{1,2}", 1)
	if _, err := llama.TokenizerFromJSON([]byte(changed)); err == nil || !strings.Contains(err.Error(), "splits by a pattern") {
		t.Errorf("a tokenizer of another pattern: %v", err)
	}
}
