package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/consumers"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// smolLM2 is a base model of architecture llama, quantised to Q4_1.
var smolLM2 = filepath.Join("..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")

// mini is an adapter of two layers, and the config.json of its base.
func mini(t *testing.T) (adapter, config string) {
	t.Helper()
	return golden.Path("tokens", "mini_0.5B"), write(t, "config.json",
		`{"_name_or_path": "test/mini", "model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 1, "intermediate_size": 266}`)
}

func TestConvertAndDiff(t *testing.T) {
	source, config := mini(t)
	at := func(name string) string { return filepath.Join(filepath.Dir(config), name) }
	if r := clitest.OK(t, "convert", "--adapter", source, "--format", "mlx", "--out", at("mlx")); !strings.Contains(r.Stdout, lora.MLXName) || r.Stderr != "" {
		t.Errorf("%+v", r)
	}
	clitest.OK(t, "convert", "--quiet", "--adapter", at("mlx"), "--base", config, "--format", "gguf", "--out", at("gguf"))
	clitest.OK(t, "convert", "--quiet", "--adapter", at("gguf"), "--format", "peft", "--out", at("peft"))
	for _, path := range []string{at("mlx"), at("gguf"), at("peft")} {
		clitest.OK(t, "verify", "--quiet", path)
		var r adapterReport
		if clitest.JSON(t, &r, "inspect", "--json", path); r.Rank != 8 || r.Modules != 14 {
			t.Errorf("inspect %s: %+v", path, r)
		}
	}
	var d difference
	if clitest.JSON(t, &d, "diff", "--json", source, at("peft")); d.Total.Relative > 1e-14 || d.Total.Cosine < 1-1e-12 || len(d.Modules) != 14 {
		t.Errorf("after a round through all formats: %+v", d.Total)
	}
	var c converted
	clitest.JSON(t, &c, "convert", "--json", "--adapter", source, "--adapter", at("mlx"), "--weight", "1,-0.5", "--scale", "2", "--out", at("both"))
	if clitest.JSON(t, &d, "diff", "--json", source, at("both")); c.Rank != 16 || d.Total.Relative > 1e-6 {
		t.Errorf("2(x - x/2) is rank %d, %+v", c.Rank, d.Total)
	}
	clitest.JSON(t, &c, "convert", "--json", "--adapter", at("both"), "--rank", "8", "--out", at("cut"))
	if c.Rerank == nil || c.Rerank.From != 16 || c.Rerank.Error > 1e-6 || c.Rank != 8 {
		t.Errorf("%+v", c.Rerank)
	}
	clitest.JSON(t, &c, "convert", "--json", "--adapter", at("both"), "--rank", "2", "--type", "bf16", "--out", at("cut"))
	if clitest.JSON(t, &d, "diff", "--json", at("both"), at("cut")); c.Rerank.Error < 0.01 || math.Abs(d.Total.Relative-c.Rerank.Error) > 0.01 {
		t.Errorf("cut to rank 2: said %+v, is %+v", c.Rerank, d.Total)
	}
	// Other tables for people.
	if r := clitest.OK(t, "diff", source, at("cut")); !strings.Contains(r.Stdout, "model.layers.1.mlp.down_proj") || !strings.Contains(r.Stdout, "\nall ") {
		t.Errorf("%s", r.Stdout)
	}
}

// A quantised base, dequantised by the library, merged, and quantised again.
func TestConvertMergedGGUF(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a model of 98 MB")
	}
	if _, err := os.Stat(smolLM2); err != nil {
		t.Skip("the base model is not fetched: make deps")
	}
	// One module: the rest is copied.
	dir := filepath.Join(t.TempDir(), "adapter")
	a := &lora.Adapter{Base: lora.Base{Rank: 1, Alpha: 1, Targets: []lora.Target{{Name: "model.layers.3.self_attn.q_proj", In: 576, Out: 576}}},
		Pairs: []lora.Pair{{A: make([]float32, 576), B: make([]float32, 576)}}}
	for i := range a.Pairs[0].A {
		a.Pairs[0].A[i], a.Pairs[0].B[i] = float32(i%5)*0.1, float32(i%7)*0.05
	}
	if err := lora.Write(dir, a, lora.Options{Format: lora.PEFT}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	var c converted
	clitest.JSON(t, &c, "convert", "--json", "--adapter", dir, "--base", smolLM2, "--format", "merged-gguf", "--type", "same", "--out", out)
	if m := c.Merge; len(m.Tensors) != 1 || m.Tensors[0].To != "Q4_1" || !(m.Lost > 0.01 && m.Lost < 1) {
		t.Fatalf("%+v", c.Merge)
	}
	f, err := gguf.Open(filepath.Join(out, "model.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	was, err := gguf.Open(smolLM2)
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	if len(f.Tensors) != len(was.Tensors) || len(f.Values) != len(was.Values) {
		t.Errorf("%d tensors and %d values, were %d and %d", len(f.Tensors), len(f.Values), len(was.Tensors), len(was.Values))
	}
}

func TestBadConversions(t *testing.T) {
	source, config := mini(t)
	adapter := func(change func(c map[string]any)) string {
		dir := t.TempDir()
		raw := mustRead(t, filepath.Join(source, lora.ConfigName))
		var c map[string]any
		if err := json.Unmarshal(raw, &c); err != nil {
			t.Fatal(err)
		}
		change(c)
		raw, _ = json.Marshal(c)
		os.WriteFile(filepath.Join(dir, lora.ConfigName), raw, 0o644)
		os.WriteFile(filepath.Join(dir, lora.WeightsName), mustRead(t, filepath.Join(source, lora.WeightsName)), 0o644)
		return dir
	}
	other := write(t, "config.json", strings.Replace(string(mustRead(t, config)), "56", "112", 1))
	deep := write(t, "config.json", strings.Replace(string(mustRead(t, config)), `"num_hidden_layers": 2`, `"num_hidden_layers": 1`, 1))
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"nowhere"}, []string{"--adapter", "nowhere"}},
		{[]string{config, "expected an adapter"}, []string{"--adapter", config}},
		{[]string{"no adapter"}, []string{"--adapter", t.TempDir()}},
		{[]string{"use_dora"}, []string{"--adapter", adapter(func(c map[string]any) { c["use_dora"] = true })}},
		{[]string{"r is"}, []string{"--adapter", adapter(func(c map[string]any) { c["r"] = -8 })}},
		{[]string{"self_attn.q_proj", "(out 56, in 56)", "test/mini", "in 112"}, []string{"--adapter", source, "--base", other}},
		{[]string{"layers.1", "has 1 layers"}, []string{"--adapter", source, "--base", deep}},
		{[]string{"architecture", "base"}, []string{"--adapter", source, "--format", "gguf"}},
		{[]string{"nowhere.gguf"}, []string{"--adapter", source, "--base", "nowhere.gguf"}},
		{[]string{"is no adapter"}, []string{"--adapter", smolLM2}},
		{[]string{"scale of 0"}, []string{"--adapter", source, "--scale", "0"}},
		{[]string{"weight 0"}, []string{"--adapter", source, "--adapter", source, "--weight", "1,0"}},
		{[]string{"--format merged-gguf"}, []string{"--adapter", source, "--base", config, "--format", "merged"}},
		{[]string{"config.json"}, []string{"--adapter", source, "--base", t.TempDir(), "--format", "merged"}},
		{[]string{config}, []string{"--adapter", source, "--base", config, "--format", "merged-gguf"}},
	} {
		bad(t, 1, c.words, append([]string{"convert"}, c.args...)...)
	}
	for _, args := range [][]string{
		{},
		{"--adapter", source, "--format", "zip"},
		{"--adapter", source, "--weight", "1,2"},
		{"--adapter", source, "--weight", "much"},
		{"--adapter", source, "--rank", "0"},
		{"--adapter", source, "--rank", "4", "--combine", "concat"},
		{"--adapter", source, "--combine", "mean"},
		{"--adapter", source, "--type", "q8_0"},
		{"--adapter", source, "--format", "gguf", "--type", "bf16"},
		{"--adapter", source, "--format", "merged"},
		{"--adapter", source, "--format", "merged", "--base", config, "--type", "f16"},
		{"--adapter", source, "--format", "merged-gguf", "--base", config, "--type", "q3_k"},
	} {
		bad(t, 2, nil, append([]string{"convert"}, args...)...)
	}
	clitest.Fails(t, 2, []string{"--out"}, "convert", "--adapter", source)
	// The source is not overwritten.
	copied := adapter(func(map[string]any) {})
	clitest.Fails(t, 1, []string{"also an --adapter"}, "convert", "--adapter", copied, "--out", copied)
	clitest.Fails(t, 2, nil, "diff", source)
	clitest.Fails(t, 1, []string{"nowhere"}, "diff", source, "nowhere")
	wide := filepath.Join(t.TempDir(), "wide")
	if err := lora.Write(wide, &lora.Adapter{Base: lora.Base{Rank: 1, Alpha: 1, Targets: []lora.Target{{Name: "model.layers.0.self_attn.q_proj", In: 3, Out: 2}}},
		Pairs: []lora.Pair{{A: []float32{1, 2, 3}, B: []float32{1, 2}}}}, lora.Options{Format: lora.PEFT, DType: safetensors.F32}); err != nil {
		t.Fatal(err)
	}
	clitest.Fails(t, 1, []string{"self_attn.q_proj", "(out 2, in 3)", "different base models"}, "diff", source, wide)
}

// A generator says of which base model its adapters are not.
func TestGenerateForAnotherBase(t *testing.T) {
	_, config := mini(t)
	shipped := filepath.Join("..", "..", "models", "default")
	bad(t, 1, []string{"does not fit", "SmolLM2", "architecture llama", "test/mini is qwen2"}, "generate", "--generator", shipped, "--prompts", write(t, "p.txt", "a"), "--base", config)
	llama := write(t, "config.json", strings.Replace(string(mustRead(t, config)), "qwen2", "llama", 1))
	bad(t, 1, []string{"does not fit", "self_attn.q_proj", "(out 576, in 576)", "(out 56, in 56)"}, "generate", "--generator", shipped, "--prompts", write(t, "p.txt", "a"), "--base", llama)
	bad(t, 1, []string{"nowhere"}, "generate", "--generator", shipped, "--prompts", write(t, "p.txt", "a"), "--base", "nowhere")
}

// A real llama-server takes the scale, and keeps it.
func TestPushLlamaServer(t *testing.T) {
	if err := consumers.Missing(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := consumers.Model(t.Context(), "llama", dir); err != nil {
		t.Fatal(err)
	}
	spec, err := lora.ReadSpec(filepath.Join(dir, "hf"))
	if err != nil {
		t.Fatal(err)
	}
	a := &lora.Adapter{Base: lora.Base{Rank: 1, Alpha: 1, Targets: []lora.Target{{Name: "model.layers.0.self_attn.q_proj", In: spec.Hidden, Out: spec.Hidden}}},
		Pairs: []lora.Pair{{A: make([]float32, spec.Hidden), B: make([]float32, spec.Hidden)}}}
	if err := spec.Fit(&a.Base); err != nil {
		t.Fatal(err)
	}
	adapter := filepath.Join(dir, "adapter")
	if err := lora.Write(adapter, a, lora.Options{Format: lora.GGUF}); err != nil {
		t.Fatal(err)
	}
	address, stop, err := consumers.Serve(t.Context(), filepath.Join(dir, "base.gguf"), filepath.Join(adapter, lora.GGUFName))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, scale := range []float64{0.25, 0, 1.5} {
		var r pushed
		clitest.JSON(t, &r, "push", "--json", "--adapter", adapter, "--to", address, "--kind", "llama-server", "--scale", fmt.Sprint(scale))
		if len(r.Adapters) != 1 || r.Adapters[0].Scale != scale {
			t.Errorf("scale %g: %+v", scale, r)
		}
	}
	clitest.Fails(t, 1, []string{"vLLM takes PEFT"}, "push", "--adapter", adapter, "--to", address, "--kind", "vllm")
	clitest.Fails(t, 1, []string{"other.gguf", "only as it starts"}, "push", "--adapter", adapter, "--to", address, "--kind", "llama-server", "--server-path", "other.gguf")
	source, _ := mini(t)
	clitest.Fails(t, 1, []string{"404"}, "push", "--quiet", "--adapter", source, "--to", address, "--kind", "vllm")
	for _, args := range [][]string{
		{"--adapter", adapter, "--to", address},
		{"--adapter", adapter, "--kind", "llama-server"},
		{"--to", address, "--kind", "llama-server"},
		{"--adapter", adapter, "--to", "localhost", "--kind", "llama-server"},
		{"--adapter", adapter, "--to", address, "--kind", "ollama"},
		{"--adapter", adapter, "--to", address, "--kind", "llama-server", "--name", "x"},
		{"--adapter", adapter, "--to", address, "--kind", "llama-server", "--timeout", "0s"},
		{"--adapter", source, "--to", address, "--kind", "vllm", "--scale", "2"},
	} {
		clitest.Fails(t, 2, nil, append([]string{"push"}, args...)...)
	}
}

// A base of the wrong kind is refused before anything is read, with the right kind named.
func TestConvertWrongBase(t *testing.T) {
	source, config := mini(t)
	clitest.Fails(t, 1, []string{"Hugging Face folder", "--format merged-gguf"}, "convert", "--adapter", source, "--format", "merged", "--base", config, "--out", filepath.Join(t.TempDir(), "x"))
	clitest.Fails(t, 1, []string{"--format merged,", "convert_hf_to_gguf.py"}, "convert", "--adapter", source, "--format", "merged-gguf", "--base", filepath.Dir(config), "--out", filepath.Join(t.TempDir(), "x"))
	clitest.Fails(t, 1, []string{"nowhere.gguf"}, "convert", "--adapter", source, "--format", "merged-gguf", "--base", "nowhere.gguf", "--out", filepath.Join(t.TempDir(), "x"))
}

// A base of the same sizes and another name is worth a note.
func TestConvertOtherModel(t *testing.T) {
	source, config := mini(t)
	r := clitest.OK(t, "convert", "--adapter", source, "--base", config, "--out", filepath.Join(filepath.Dir(config), "out"))
	if !strings.Contains(r.Stderr, "was made for mini-qwen2.5, the base "+config) || !strings.Contains(r.Stderr, "test/mini") {
		t.Errorf("%q", r.Stderr)
	}
}
