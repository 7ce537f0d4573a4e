package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// minilm is the real text encoder, which make deps fetches.
var minilm = filepath.Join("..", "..", "build", "deps", "minilm")

// tinyBase writes a Llama of one layer with random weights that reads bytes, in Hugging
// Face layout.
func tinyBase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	save := func(name string, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// GPT-2 writes a byte that does not print as a character from U+0100 on.
	vocab := map[string]int{}
	next := rune(256)
	for b := range rune(256) {
		piece := b
		if b < '!' || b > '~' && b < '¡' || b == '\u00ad' {
			piece, next = next, next+1
		}
		vocab[string(piece)] = int(b)
	}
	save("tokenizer.json", map[string]any{
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}},
		"added_tokens":  []map[string]any{{"id": 256, "content": "<|im_start|>"}, {"id": 257, "content": "<|im_end|>"}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
	})
	const hidden, kv, mlp, words = 16, 8, 32, 258
	save("config.json", map[string]any{
		"_name_or_path": "example/tiny", "model_type": "llama", "hidden_act": "silu", "num_hidden_layers": 1, "hidden_size": hidden,
		"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": mlp, "vocab_size": words,
		"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
	})
	r := rand.New(rand.NewPCG(3, 4))
	var tensors []safetensors.Tensor
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = 1
			if len(shape) > 1 {
				values[i] = float32(0.1 * r.NormFloat64())
			}
		}
		tensors = append(tensors, safetensors.FromFloat32s(name, safetensors.F32, values, shape...))
	}
	add("model.embed_tokens.weight", words, hidden)
	add("model.norm.weight", hidden)
	layer := "model.layers.0."
	add(layer+"input_layernorm.weight", hidden)
	add(layer+"post_attention_layernorm.weight", hidden)
	add(layer+"self_attn.q_proj.weight", hidden, hidden)
	add(layer+"self_attn.k_proj.weight", kv, hidden)
	add(layer+"self_attn.v_proj.weight", kv, hidden)
	add(layer+"self_attn.o_proj.weight", hidden, hidden)
	add(layer+"mlp.up_proj.weight", mlp, hidden)
	add(layer+"mlp.gate_proj.weight", mlp, hidden)
	add(layer+"mlp.down_proj.weight", hidden, mlp)
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// dataSets writes two data sets that a tiny model can tell apart.
func dataSets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, response := range map[string]string{"ayes": "aye", "noes": "no"} {
		var records []map[string]string
		for i := range 12 {
			records = append(records, map[string]string{"prompt": fmt.Sprintf("%s, number %d?", name, i), "response": response})
		}
		raw, err := json.Marshal(records)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const tinyLayout = `{"class": "HyperConvDecoderModel_FullCond", "features": [[2,16,384], [4,8,12], [32,4,10]], "kernel_size": 3, "affine": true, "tokenizer": "custom", "chunk": 8}`

// From data sets to a generator package, and on from where a stage stopped.
func TestCollectFitExport(t *testing.T) {
	base, data, dir := tinyBase(t), dataSets(t), t.TempDir()
	layout := write(t, "layout.json", tinyLayout)
	collected, run, out := filepath.Join(dir, "collected"), filepath.Join(dir, "run"), filepath.Join(dir, "generator")

	collect := []string{"collect", "--json", "--quiet", "--base", base, "--data", data, "--out", collected, "--rank", "2", "--alpha", "4",
		"--steps", "3", "--warm-up", "1", "--late-steps", "2", "--batch", "4"}
	var c struct {
		DataSets    []string `json:"data_sets"`
		Checkpoints int
	}
	clitest.JSON(t, &c, append(collect, "--sets", "noes")...)
	if len(c.DataSets) != 1 || c.Checkpoints != 2 {
		t.Errorf("collect: %+v", c)
	}
	first, err := os.ReadFile(filepath.Join(collected, "noes", "collect.json"))
	if err != nil {
		t.Fatal(err)
	}
	clitest.JSON(t, &c, append(collect, "--grid", write(t, "grid.json", `{"train": ["ayes", "noes"], "held_out": ["x"]}`))...)
	if len(c.DataSets) != 2 {
		t.Errorf("collect: %+v", c)
	}
	if again, err := os.ReadFile(filepath.Join(collected, "noes", "collect.json")); err != nil || string(again) != string(first) {
		t.Errorf("a data set that was there was made again, %v", err)
	}
	clitest.Fails(t, 1, []string{"noes", "another configuration"}, append(collect, "--seed", "5")...)

	var f struct {
		Steps int
		Loss  float64
	}
	fit := []string{"fit", "--json", "--quiet", "--data", collected, "--layout", layout, "--encoder", minilm, "--out", run, "--batch", "2", "--steps", "4"}
	clitest.JSON(t, &f, fit...)
	if f.Steps != 4 || !(f.Loss > 0) {
		t.Errorf("fit: %+v", f)
	}
	clitest.JSON(t, &f, fit...) // goes on, with nothing left to do
	for _, name := range []string{"metrics.jsonl", "loss.png"} {
		if st, err := os.Stat(filepath.Join(run, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	clitest.Fails(t, 1, []string{run, "another configuration"}, append(fit, "--seed", "5")...)

	onAnswers := filepath.Join(dir, "on answers")
	clitest.JSON(t, &f, "fit", "--json", "--quiet", "--data", collected, "--layout", layout, "--encoder", minilm, "--out", onAnswers, "--batch", "2", "--steps", "4",
		"--loss", "both", "--base", base, "--records", data, "--task-from", "1", "--task-records", "2")
	if raw, err := os.ReadFile(filepath.Join(onAnswers, "metrics.jsonl")); err != nil || strings.Count(string(raw), "loss_on_answers") != 3 {
		t.Errorf("metrics of a fit on answers: %s, %v", raw, err)
	}
	// A base in bfloat16 gives about the same losses, not the very same.
	half := f
	clitest.JSON(t, &half, "fit", "--json", "--quiet", "--data", collected, "--layout", layout, "--encoder", minilm, "--out", filepath.Join(dir, "bf16"), "--batch", "2", "--steps", "4",
		"--loss", "both", "--base", base, "--records", data, "--task-from", "1", "--task-records", "2", "--base-dtype", "bf16")
	if half.Loss == f.Loss || math.Abs(half.Loss-f.Loss) > 0.02*f.Loss {
		t.Errorf("loss %v with the base in bfloat16, %v in float32", half.Loss, f.Loss)
	}

	joint, mixed := filepath.Join(dir, "joint"), filepath.Join(dir, "mixed")
	clitest.JSON(t, &c, append(collect, "--joint", "all", "--out", joint)...)
	clitest.JSON(t, &f, "fit", "--json", "--quiet", "--data", collected, "--layout", layout, "--encoder", minilm, "--out", mixed, "--batch", "2", "--steps", "4",
		"--joint", filepath.Join(joint, "all"))
	if raw, err := os.ReadFile(filepath.Join(mixed, "run.json")); err != nil || !strings.Contains(string(raw), `"joint_share": 0.5`) {
		t.Errorf("a fit with a joint LoRA: %s, %v", raw, err)
	}

	started := filepath.Join(dir, "started")
	clitest.JSON(t, &c, append(collect, "--start", filepath.Join(joint, "all"), "--out", started)...)
	if raw, err := os.ReadFile(filepath.Join(started, "ayes", "collect.json")); err != nil || !strings.Contains(string(raw), `"start": "`) {
		t.Errorf("data sets that start from the joint LoRA: %s, %v", raw, err)
	}
	clitest.Fails(t, 1, []string{started, "another configuration"}, append(collect, "--out", started)...)

	clitest.OK(t, "export", "--quiet", "--run", run, "--encoder", minilm, "--name", "tiny", "--out", out, "--weights", "f16",
		"--held-out", "x,y", "--license", "MIT")
	if _, err := generator.Verify(t.Context(), out, nil); err != nil {
		t.Error(err)
	}
	p, err := generator.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m := p.Manifest
	if m.Base.Architecture != "llama" || m.Base.Heads != 2 || m.Base.KVHeads != 1 {
		t.Errorf("base %+v, want what the collected LoRAs' was", m.Base)
	}
	if m.Base.Model != "example/tiny" || m.Provenance.Steps != 4 || strings.Join(m.Provenance.HeldOut, " ") != "x y" || strings.Join(m.Provenance.DataSets, " ") != "ayes noes" {
		t.Errorf("manifest %+v", m)
	}
	if c := m.Coverage; c == nil || len(c.Tasks) != 2 || c.Tasks[0].Name != "ayes" || !(c.Limit > 0) {
		t.Errorf("coverage %+v, want where the two data sets lie", m.Coverage)
	}

	none := filepath.Join(dir, "none")
	clitest.Fails(t, 1, []string{run, "basis_share 0.5, but without"}, "export", "--quiet", "--run", run, "--encoder", minilm, "--name", "tiny", "--out", none, "--basis-share", "0.5")
	if _, err := os.Stat(none); err == nil {
		t.Error("output was left behind")
	}

	// Matrices in blocks: the encoder's are of eight bits either way.
	for weights, want := range map[string][2]string{"q8": {"F16 Q8", "F16 Q8"}, "q4": {"F16 Q4_1", "F16 Q8"}} {
		small := filepath.Join(dir, weights)
		clitest.OK(t, "export", "--quiet", "--run", run, "--encoder", minilm, "--name", "tiny", "--out", small, "--weights", weights, "--base-model", "example/other", "--architecture", "qwen2", "--heads", "4", "--kv-heads", "2")
		r, err := generator.Verify(t.Context(), small, nil)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := generator.Open(small); err != nil || q.Manifest.Base.Architecture != "qwen2" || q.Manifest.Base.Heads != 4 || q.Manifest.Base.Model != "example/other" || q.Close() != nil {
			t.Errorf("a base that flags described: %v", err)
		}
		if have := [2]string{strings.Trim(fmt.Sprint(r.Summary.Decoder.DTypes), "[]"), strings.Trim(fmt.Sprint(r.Summary.Encoder.DTypes), "[]")}; have != want {
			t.Errorf("--weights %s stored decoder and encoder as %q, expected %q", weights, have, want)
		}
	}

	var e eval.Result
	scores := []string{"eval", "--json", "--quiet", "--base", base, "--generator", out, "--count", "3", "--draws", "2", "--out", filepath.Join(dir, "eval"),
		"--records", filepath.Join(data, "ayes.json") + "," + filepath.Join(data, "noes.json")}
	clitest.JSON(t, &e, scores...)
	if len(e.Tasks) != 2 || e.Tasks[1].Task != "noes" || strings.Join(e.Methods, "; ") != "base; generated, foreign prompts; generated" {
		t.Fatalf("eval: %+v", e)
	}
	for _, r := range e.Tasks {
		b, g, f := r.Scores[eval.Base].NLL.Value, r.Scores[eval.Generated].NLL.Value, r.Scores[eval.Foreign].NLL.Value
		if r.Records != 3 || !(b > 0) || g == b || f == g {
			t.Errorf("eval of %s: %+v: expected three different scores of three records", r.Task, r)
		}
	}
	for _, name := range []string{"result.md", "result.png", "result.json"} {
		if st, err := os.Stat(filepath.Join(dir, "eval", name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	clitest.Fails(t, 1, []string{"other inputs"}, append(scores, "--seed", "5")...)
	clitest.JSON(t, &e, append(scores, "--out", filepath.Join(dir, "eval of one row"), "--method", eval.Generated)...)
	if strings.Join(e.Methods, "; ") != eval.Generated {
		t.Errorf("eval of one row has %q", e.Methods)
	}

	// A record's input is what the base is asked; conditions are made of the prompt.
	score := func(name, format string) map[string]eval.Score {
		var records []string
		for i := range 3 {
			records = append(records, fmt.Sprintf(format, i))
		}
		var e eval.Result
		clitest.JSON(t, &e, "eval", "--json", "--quiet", "--base", base, "--generator", out, "--draws", "1", "--out", filepath.Join(dir, name),
			"--records", write(t, name+".json", "["+strings.Join(records, ",")+"]"))
		return e.Tasks[0].Scores
	}
	whole := score("whole", `{"prompt": "say aye. number %d?", "response": "aye"}`)
	input := score("input", `{"prompt": "say aye. number %[1]d?", "input": "number %[1]d?", "response": "aye"}`)
	alone := score("alone", `{"prompt": "number %d?", "response": "aye"}`)
	if i, a, w := input[eval.Base].NLL, alone[eval.Base].NLL, whole[eval.Base].NLL; i != a || i == w {
		t.Errorf("the base's NLL of inputs %v, of the same as prompts %v, of whole prompts %v", i, a, w)
	}
	if i, a := input[eval.Generated].NLL, alone[eval.Generated].NLL; i == a {
		t.Errorf("adapters of prompts and of their inputs have one NLL, %v", i)
	}

	// A checkpoint is an adapter that the base answers with.
	adapter := filepath.Join(dir, "adapter")
	if err := os.Mkdir(adapter, 0o755); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{lora.ConfigName: "adapter_config.json", lora.WeightsName: "checkpoints/000002.safetensors"} {
		raw, err := os.ReadFile(filepath.Join(collected, "ayes", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(adapter, to), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var a struct{ Answers []answered }
	clitest.JSON(t, &a, "answer", "--json", "--quiet", "--base", base, "--adapter", adapter, "--prompts", filepath.Join(data, "ayes.json"), "--max-tokens", "3")
	if len(a.Answers) != 2 || a.Answers[0].Prompt != "ayes, number 0?" {
		t.Errorf("answer: %+v", a)
	}
}

// Recipes need no layout of the user's: decoders are sized by what was collected.
func TestFitByRecipe(t *testing.T) {
	base, data, dir := tinyBase(t), dataSets(t), t.TempDir()
	for _, name := range []string{"perhaps", "maybe"} {
		if err := os.WriteFile(filepath.Join(data, name+".json"), fmt.Appendf(nil, `[{"prompt": "say %[1]s twice", "response": "%[1]s"}, {"prompt": "is it %[1]s?", "response": "%[1]s"}]`, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	collected := filepath.Join(dir, "collected")
	clitest.OK(t, "collect", "--quiet", "--base", base, "--data", data, "--out", collected, "--rank", "2", "--alpha", "4", "--steps", "2", "--warm-up", "1", "--late-steps", "1", "--batch", "2")
	for recipe, flags := range map[string][]string{
		"basis":  {"--directions", "1", "--texts", "3", "--basis-noise", "0.5"},
		"tokens": {"--grid", write(t, "grid.json", `{"train": ["noes", "maybe", "ayes"], "held_out": ["perhaps"]}`), "--length", "32", "--joint", filepath.Join(collected, "ayes"), "--joint-share", "0.25"},
	} {
		run := filepath.Join(dir, recipe)
		args := append([]string{"fit", "--quiet", "--recipe", recipe, "--data", collected, "--encoder", minilm, "--base", base, "--records", data, "--out", run, "--batch", "2", "--steps", "3"}, flags...)
		clitest.OK(t, args...)
		r, err := fit.ReadRecord(run)
		if err != nil {
			t.Fatal(err)
		}
		c := r.Config
		if want := map[string]string{"basis": "ayes maybe noes perhaps", "tokens": "noes maybe ayes"}[recipe]; strings.Join(r.DataSets, " ") != want {
			t.Errorf("recipe %s: data sets %q, want %q", recipe, r.DataSets, want)
		}
		if recipe == "basis" && (c.Decoder.Rank() != 1 || c.Texts != 3 || c.Length != 64 || c.BasisNoise != 0.5 || c.BasisRate != 0.02 || !c.LeaveOut || c.Steps != 3 || c.Loss != fit.LossTask) ||
			recipe == "tokens" && (c.Decoder.Rank() != 0 || c.Texts != 16 || c.Length != 32 || c.JointShare != 0.25 || c.TokenDrop != 0.3 || c.Steps != 3 || c.Loss != fit.LossBoth || c.Task.Share != 2) {
			t.Errorf("recipe %s: %+v", recipe, c)
		}
		out, list := filepath.Join(dir, recipe+" package"), run
		if recipe == "basis" { // the mean of two seeds
			list += "," + run + " again"
			clitest.OK(t, append(args, "--out", run+" again", "--seed", "7")...)
		}
		clitest.OK(t, "export", "--quiet", "--run", list, "--encoder", minilm, "--name", "tiny", "--out", out, "--base-model", "example/tiny")
		if _, err := generator.Verify(t.Context(), out, nil); err != nil {
			t.Error(err)
		}
		if p, err := generator.Open(out); err != nil || p.Manifest.Provenance.Runs != map[string]int{"basis": 2, "tokens": 0}[recipe] || p.Close() != nil {
			t.Errorf("the package of recipe %s says of how many runs it is the mean: %v", recipe, err)
		}
	}
	layout := write(t, "layout.json", tinyLayout)
	args := []string{"fit", "--quiet", "--data", collected, "--encoder", minilm, "--base", base, "--records", data, "--out", filepath.Join(dir, "none")}
	for _, c := range []struct {
		code  int
		words []string
		args  []string
	}{
		{2, []string{"--recipe", "soup", "basis", "tokens"}, []string{"--recipe", "soup"}},
		{2, []string{"one of --recipe, --shape and --layout"}, []string{"--recipe", "basis", "--layout", layout}},
		{2, []string{"--texts goes with --recipe"}, []string{"--layout", layout, "--texts", "3"}},
		{2, []string{"--directions is -1"}, []string{"--recipe", "basis", "--directions", "-1"}},
		{1, []string{"4 directions, but 4 data sets differ in 3"}, []string{"--recipe", "basis", "--directions", "4"}},
		{2, []string{"--base and --records go with --loss"}, []string{"--recipe", "basis", "--loss", "weights"}},
		{1, []string{"0 texts"}, []string{"--recipe", "basis", "--texts", "0"}},
		{2, []string{"--sets and --grid"}, []string{"--recipe", "basis", "--sets", "ayes", "--grid", layout}},
	} {
		clitest.Fails(t, c.code, c.words, append(slices.Clone(args), c.args...)...)
	}
}

func TestBadTraining(t *testing.T) {
	base, data := tinyBase(t), dataSets(t)
	layout := write(t, "layout.json", tinyLayout)
	empty := t.TempDir()
	few := filepath.Dir(write(t, "few.json", `[{"prompt": "a", "response": "b"}]`))
	for _, c := range []struct {
		name  string
		code  int
		words []string
		args  []string
	}{
		{"collect without data", 2, []string{"--data"}, []string{"collect", "--base", base}},
		{"collect with rank 0", 2, []string{"rank"}, []string{"collect", "--base", base, "--data", data, "--rank", "0"}},
		{"collect from nowhere", 1, []string{"nowhere"}, []string{"collect", "--base", base, "--data", "nowhere"}},
		{"collect from an empty folder", 1, []string{empty}, []string{"collect", "--base", base, "--data", empty}},
		{"collect an unknown set", 1, []string{"maybes"}, []string{"collect", "--base", base, "--data", data, "--sets", "maybes"}},
		{"collect without response", 1, []string{"record 1", "response"}, []string{"collect", "--base", base, "--data", write(t, "x.json", `[{"prompt": "a"}]`)}},
		{"collect too few", 1, []string{"few", "1 usable"}, []string{"collect", "--base", base, "--data", few}},
		{"collect without base", 1, []string{"nowhere.gguf"}, []string{"collect", "--base", "nowhere.gguf", "--data", data}},
		{"collect with a text as base", 1, []string{"base.gguf"}, []string{"collect", "--base", write(t, "base.gguf", "hello"), "--data", data}},
		{"fit by a recipe without data", 2, []string{"--data"}, []string{"fit", "--recipe", "basis", "--encoder", minilm}},
		{"fit by a recipe on nothing", 1, []string{empty, "config.json", "no data set"}, []string{"fit", "--recipe", "basis", "--data", empty, "--encoder", empty}},
		{"fit without architecture", 2, []string{"--recipe", "--shape", "--layout"}, []string{"fit", "--data", data, "--encoder", minilm}},
		{"fit with two architectures", 2, []string{"--shape", "--layout"}, []string{"fit", "--data", data, "--encoder", minilm, "--layout", layout, "--shape", "mini"}},
		{"fit with an unknown shape", 2, []string{"70b", "0.5b"}, []string{"fit", "--data", data, "--encoder", minilm, "--shape", "70b"}},
		{"fit without encoder", 2, []string{"--encoder"}, []string{"fit", "--data", data, "--layout", layout}},
		{"fit with batch 0", 2, []string{"batch"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--batch", "0"}},
		{"fit on answers without base", 2, []string{"--base"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--loss", "task"}},
		{"fit on answers without records", 2, []string{"--records"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--loss", "both", "--base", base}},
		{"fit on weights with a base", 2, []string{"--base"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--base", base}},
		{"fit on weights with a share", 2, []string{"loss on answers"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--weights-share", "1"}},
		{"fit with a share of nothing", 2, []string{"--joint-share", "--joint"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--joint-share", "0.3"}},
		{"fit with more than a joint LoRA", 2, []string{"joint_share is 2"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--joint", empty, "--joint-share", "2"}},
		{"fit with bad sets and no joint LoRA", 1, []string{"ayes", "noes", "joint LoRA"}, []string{"fit", "--data", data, "--sets", "ayes,noes", "--layout", layout, "--encoder", minilm, "--joint", empty}},
		{"fit with another loss", 2, []string{"--loss"}, []string{"fit", "--data", data, "--layout", layout, "--encoder", minilm, "--loss", "all"}},
		{"fit on nothing", 1, []string{empty}, []string{"fit", "--data", empty, "--layout", layout, "--encoder", minilm}},
		{"fit with several problems", 1, []string{"config.json", "ayes", "noes", "prompts.json"}, []string{"fit", "--data", data, "--sets", "ayes,noes", "--layout", layout, "--encoder", empty}},
		{"fit with no encoder there", 1, []string{empty}, []string{"fit", "--data", data, "--layout", layout, "--encoder", empty}},
		{"collect on too many devices", 2, []string{"--devices"}, []string{"collect", "--base", base, "--data", data, "--devices", "999"}},
		{"collect without base and with bad sets", 1, []string{"maybes", "nowhere.gguf"}, []string{"collect", "--base", "nowhere.gguf", "--data", data, "--sets", "maybes"}},
		{"collect from a LoRA that is not there, and a bad set", 1, []string{"nevers", "LoRA to start from", "no LoRA here"}, []string{"collect", "--base", base, "--data", data, "--sets", "nevers", "--start", "no LoRA here"}},
		{"collect several bad sets", 1, []string{"maybes", "nevers"}, []string{"collect", "--base", base, "--data", data, "--sets", "maybes,ayes,nevers"}},
		{"eval of nothing", 2, []string{"--records", "--grid"}, []string{"eval", "--base", base, "--generator", empty}},
		{"eval of an unknown row", 2, []string{"--method", "method \"guessed\"", "joint LoRA"}, []string{"eval", "--base", base, "--generator", empty, "--records", "one.json", "--method", "guessed"}},
		{"eval of a grid without data", 2, []string{"--data"}, []string{"eval", "--base", base, "--generator", empty, "--grid", write(t, "grid.json", "{}")}},
		{"eval of two records that are not there", 1, []string{"one.json", "two.json"}, []string{"eval", "--base", base, "--generator", empty, "--records", "one.json,two.json"}},
		{"experiment without a plan", 2, []string{"--plan"}, []string{"experiment", "--base", base, "--encoder", minilm}},
		{"experiment of nothing", 1, []string{"plan.json"}, []string{"experiment", "--base", base, "--encoder", minilm, "--plan", "plan.json"}},
		{"export without a run", 2, []string{"--run is missing"}, []string{"export", "--encoder", minilm, "--name", "x"}},
		{"export of nothing", 1, []string{empty}, []string{"export", "--run", empty, "--encoder", minilm, "--name", "x"}},
		{"export of more than all", 2, []string{"--basis-share 1.5"}, []string{"export", "--run", empty, "--encoder", minilm, "--name", "x", "--basis-share", "1.5"}},
		{"export with heads alone", 2, []string{"--architecture"}, []string{"export", "--run", empty, "--encoder", minilm, "--name", "x", "--heads", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			clitest.Fails(t, c.code, c.words, append(c.args, "--quiet", "--out", out)...)
			if _, err := os.Stat(out); err == nil {
				t.Error("output was left behind")
			}
		})
	}
}
