package lm_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func open(t testing.TB, kind string) backend.Backend {
	t.Helper()
	b, err := backend.Open(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

// TestSmolLM2 holds the model and its tokenizer to PyTorch transformers 5 (float32, the
// same GGUF file dequantised): ids of texts, and the likelihood of three of them.
func TestSmolLM2(t *testing.T) {
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(file), "..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Text string  `json:"text"`
		IDs  []int32 `json:"ids"`
		NLL  float64 `json:"nll"`
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	m, err := lm.Load(path, open(t, backend.PJRT))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !strings.Contains(m.Config.System, "SmolLM") {
		t.Errorf("system prompt %q", m.Config.System)
	}
	for _, c := range cases {
		ids, err := m.Tokenizer.Encode(c.Text)
		if err != nil || !slices.Equal(ids, c.IDs) {
			t.Errorf("%q: ids %v, %v, want %v", c.Text, ids, err, c.IDs)
		}
		if got := m.Tokenizer.Decode(ids); got != c.Text {
			t.Errorf("%q comes back as %q", c.Text, got)
		}
		if c.NLL == 0 {
			continue
		}
		score, err := m.Evaluate(t.Context(), []lm.Example{{Prompt: c.IDs[:1], Answer: c.IDs[1:]}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%q: %v nats, transformers %v", c.Text, score.NLL, c.NLL)
		if math.Abs(score.NLL-c.NLL) > 1e-3*c.NLL {
			t.Errorf("%q: %v nats, want %v", c.Text, score.NLL, c.NLL)
		}
	}
	answers, err := m.Answers(t.Context(), []string{"What is the capital of France?"}, nil, 12)
	if err != nil || answers[0] != "The capital of France is Paris." {
		t.Errorf("%q, %v", answers, err)
	}
}

// tiny writes a random Qwen2-like model with a byte vocabulary as a Hugging Face folder.
func tiny(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	vocab := map[string]int{"<|im_start|>": 256, "<|im_end|>": 257}
	next := 256
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r, next = rune(next), next+1
		}
		vocab[string(r)] = b
	}
	write := func(name string, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("tokenizer.json", map[string]any{"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel"}})
	write("config.json", map[string]any{"model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
		"intermediate_size": 24, "vocab_size": 258, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": true})
	rng := rand.New(rand.NewPCG(2, 2))
	var list []safetensors.Tensor
	add := func(name string, scale float64, shift float32, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64()*scale) + shift
		}
		list = append(list, safetensors.FromFloat32s(name, safetensors.F32, v, shape...))
	}
	add("model.embed_tokens.weight", 0.5, 0, 258, 16)
	add("model.norm.weight", 0, 1, 16)
	for _, layer := range []string{"model.layers.0.", "model.layers.1."} {
		add(layer+"input_layernorm.weight", 0, 1, 16)
		add(layer+"post_attention_layernorm.weight", 0, 1, 16)
		for name, shape := range map[string][2]int{"self_attn.q_proj": {16, 16}, "self_attn.k_proj": {8, 16}, "self_attn.v_proj": {8, 16}, "self_attn.o_proj": {16, 16},
			"mlp.up_proj": {24, 16}, "mlp.gate_proj": {24, 16}, "mlp.down_proj": {16, 24}} {
			add(layer+name+".weight", 0.25, 0, shape[0], shape[1])
			if strings.HasSuffix(name, "q_proj") || strings.HasSuffix(name, "k_proj") || strings.HasSuffix(name, "v_proj") {
				add(layer+name+".bias", 0.1, 0, shape[0])
			}
		}
	}
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func examples(t *testing.T, m *lm.Model) []lm.Example {
	t.Helper()
	var list []lm.Example
	for _, pair := range [][2]string{{"one", "aa"}, {"two", "bb"}, {"three", "cc"}, {"four", "dd"}} {
		prompt, err := m.Prompt("s", pair[0])
		if err != nil {
			t.Fatal(err)
		}
		answer, err := m.Answer(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, lm.Example{Prompt: prompt, Answer: answer})
	}
	return list
}

// A LoRA learns four answers, on both backends: A and B, or B alone.
func TestTune(t *testing.T) {
	for _, c := range []struct {
		kind   string
		trainA bool
	}{{backend.CPU, true}, {backend.PJRT, false}} {
		kind, trainA := c.kind, c.trainA
		t.Run(kind, func(t *testing.T) {
			m, err := lm.Load(tiny(t), open(t, kind))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			list := examples(t, m)
			tuner, err := m.NewTuner(4, 8, trainA)
			if err != nil {
				t.Fatal(err)
			}
			defer tuner.Close()
			tuner.Reset(1)
			first, err := tuner.Adapter()
			if err != nil {
				t.Fatal(err)
			}
			base, err := m.Evaluate(t.Context(), list, nil)
			if err != nil {
				t.Fatal(err)
			}
			if unchanged, err := m.Evaluate(t.Context(), list, first); err != nil || math.Abs(unchanged.NLL-base.NLL) > 1e-4*base.NLL {
				t.Errorf("a new LoRA changes the model: %v to %v, %v", base, unchanged, err)
			}
			for range 60 {
				if _, err := tuner.Step(list, 2e-2); err != nil {
					t.Fatal(err)
				}
			}
			a, err := tuner.Adapter()
			if err != nil {
				t.Fatal(err)
			}
			score, err := m.Evaluate(t.Context(), list, a)
			if err != nil || score.NLL > base.NLL/2 {
				t.Fatalf("from %+v to %+v, %v", base, score, err)
			}
			if same := slices.Equal(first.Pairs[0].A, a.Pairs[0].A); same == trainA {
				t.Errorf("trainA is %v, but A unchanged is %v", trainA, same)
			}
			tuner.Reset(1)
			again, err := tuner.Adapter()
			if err != nil || !slices.Equal(first.Pairs[3].A, again.Pairs[3].A) {
				t.Errorf("the same seed gives another A, %v", err)
			}
		})
	}
}

func TestBadModels(t *testing.T) {
	b := open(t, backend.CPU)
	for name, damage := range map[string]func(dir string) error{
		"no folder":    func(dir string) error { return os.RemoveAll(dir) },
		"architecture": func(dir string) error { return edit(dir, "config.json", `"qwen2"`, `"gemma"`) },
		"shape":        func(dir string) error { return edit(dir, "config.json", `"vocab_size":258`, `"vocab_size":259`) },
		"truncated":    func(dir string) error { return os.Truncate(filepath.Join(dir, "model.safetensors"), 1000) },
		"tokenizer":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte("{"), 0o644) },
		"vocabulary": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(`{"model":{"type":"BPE"},"added_tokens":[{"id":0,"content":"x"}]}`), 0o644)
		},
		"blocks": func(dir string) error {
			return edit(dir, "config.json", `"num_hidden_layers":2`, `"num_hidden_layers":1000000`)
		},
		"missing": func(dir string) error {
			return edit(dir, "config.json", `"num_hidden_layers":2`, `"num_hidden_layers":4`)
		},
		"too large": func(dir string) error {
			return edit(dir, "config.json", `"vocab_size":258`, `"vocab_size":2000000000`)
		},
	} {
		dir := tiny(t)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := lm.Load(dir, b); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want a one-line error", name, err)
		}
		// The shape is seen only when a tensor is read; only Linux tells its free memory.
		if err := lm.Check(dir, b); (err == nil) != (name == "shape" || name == "too large" && runtime.GOOS != "linux") {
			t.Errorf("%s: Check says %v", name, err)
		}
	}
	if err := lm.Check(tiny(t), b); err != nil {
		t.Error(err)
	}
}

func edit(dir, name, old, new string) error {
	path := filepath.Join(dir, name)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(raw), old, new, 1)), 0o644)
}

func TestAdapterOfAnotherModel(t *testing.T) {
	m, err := lm.Load(tiny(t), open(t, backend.CPU))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	base := m.Config.Base(4, 8)
	base.Targets[0].In++
	if _, err := m.Evaluate(t.Context(), examples(t, m), &lora.Adapter{Base: base, Pairs: make([]lora.Pair, len(base.Targets))}); err == nil {
		t.Error("an adapter of other shapes was taken")
	}
}

func TestBadExamples(t *testing.T) {
	m, err := lm.Load(tiny(t), open(t, backend.CPU))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tuner, err := m.NewTuner(2, 4, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tuner.Close()
	if _, err := tuner.Step(examples(t, m), 1e-3); err == nil {
		t.Error("a step before Reset was made")
	}
	tuner.Reset(1)
	for name, list := range map[string][]lm.Example{"none": nil, "no answer": {{Prompt: []int32{1}}}, "no prompt": {{Answer: []int32{1}}}} {
		if _, err := tuner.Step(list, 1e-3); err == nil {
			t.Errorf("%s: tuned", name)
		}
		if _, err := m.Evaluate(t.Context(), list, nil); err == nil {
			t.Errorf("%s: evaluated", name)
		}
	}
}

// The system prompt is the one in the model's chat template, unless another is given.
func TestPrompt(t *testing.T) {
	b := open(t, backend.CPU)
	for name, c := range map[string]struct{ file, text, system, want string }{
		"no template":  {"", "", "", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
		"given":        {"", "", "S", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
		"in the JSON":  {"tokenizer_config.json", `{"chat_template":"{{ 'You are a helpful assistant.' }}"}`, "", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
		"in the Jinja": {"chat_template.jinja", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "", "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
	} {
		dir := tiny(t)
		if c.file != "" {
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, err := lm.Load(dir, b)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := m.Prompt(c.system, "hi")
		if got := m.Tokenizer.Decode(ids); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
		m.Close()
	}
}

// Answers that share a row are scored as each would be alone, with an adapter and without.
func TestChoices(t *testing.T) {
	for _, kind := range backend.Names {
		m, err := lm.Load(tiny(t), open(t, kind))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		list := examples(t, m)
		tuner, err := m.NewTuner(2, 4, true)
		if err != nil {
			t.Fatal(err)
		}
		defer tuner.Close()
		tuner.Reset(1)
		if _, err := tuner.Step(list, 1e-1); err != nil {
			t.Fatal(err)
		}
		tuned, err := tuner.Adapter()
		if err != nil {
			t.Fatal(err)
		}
		var choices []lm.Choice
		for i := range list {
			c := lm.Choice{Prompt: list[i].Prompt}
			for j := range list[:i+1] { // one answer, two, ...: of other lengths, and the prompt's own last
				c.Answers = append(c.Answers, list[(i+j)%len(list)].Answer[:1+(i+j)%len(list[(i+j)%len(list)].Answer)])
			}
			choices = append(choices, c)
		}
		for _, a := range []*lora.Adapter{nil, tuned} {
			got, err := m.Choices(t.Context(), choices, a)
			if err != nil {
				t.Fatal(err)
			}
			for i, c := range choices {
				for j, answer := range c.Answers {
					alone, err := m.Outcomes(t.Context(), []lm.Example{{Prompt: c.Prompt, Answer: answer}}, a)
					if err != nil {
						t.Fatal(err)
					}
					if want := alone[0]; math.Abs(got[i][j].NLL-want.NLL) > 1e-4 || got[i][j].Exact != want.Exact {
						t.Errorf("%s, choice %d, answer %d, adapter %v: %+v, alone %+v", kind, i, j, a != nil, got[i][j], want)
					}
				}
			}
		}
		for name, c := range map[string]lm.Choice{"no answers": {Prompt: []int32{1}}, "an empty answer": {Prompt: []int32{1}, Answers: [][]int32{{1}, nil}}} {
			if _, err := m.Choices(t.Context(), []lm.Choice{c}, nil); err == nil {
				t.Errorf("%s: scored", name)
			}
		}
	}
}
