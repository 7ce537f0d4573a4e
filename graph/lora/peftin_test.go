package lora_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

var nan = float32(math.NaN())

const plainConfig = `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"],"bias":"none"}`

// tensor makes a tensor of ones.
func tensor(name string, d safetensors.DType, shape ...int) safetensors.Tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return safetensors.FromFloat32s(name, d, v, shape...)
}

const (
	nameA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
	nameB = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
)

func encode(t testing.TB, tensors ...safetensors.Tensor) *safetensors.File {
	t.Helper()
	var b bytes.Buffer
	if err := safetensors.Write(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.NewFile(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestReadGoldenAdapter(t *testing.T) {
	a := read(t, "tokens", "mini_0.5B")
	if a.Base.Rank != 8 || a.Base.Alpha != 16 || a.AlphaAssumed || a.Base.Model != "mini-qwen2.5" || len(a.Base.Targets) != 14 {
		t.Errorf("%+v", a.Base)
	}
	if want := (lora.Target{Name: "model.layers.1.mlp.up_proj", In: 56, Out: 266}); a.Base.Targets[11] != want {
		t.Errorf("target 11 is %+v, expected %+v", a.Base.Targets[11], want)
	}
	bare := read(t, "tokens", "mini_0.5B", "adapter_model.safetensors")
	if !bare.AlphaAssumed || bare.Base.Alpha != 16 || !reflect.DeepEqual(bare.Base.Targets, a.Base.Targets) {
		t.Errorf("bare file: %+v", bare.Base)
	}
	b, err := lora.DescribeBase(golden.Path("tokens", "mini_0.5B"))
	if err != nil || !reflect.DeepEqual(b, a.Base) {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestDecodePEFTTensors(t *testing.T) {
	a, b := tensor(nameA, safetensors.F32, 2, 4), tensor(nameB, safetensors.F32, 6, 2)
	infinite := safetensors.FromFloat32s(nameB, safetensors.F16, []float32{1, 1, 1, float32(math.Inf(-1))}, 2, 2)
	for _, c := range []struct {
		what    string
		tensors []safetensors.Tensor
		want    string
	}{
		{"good", []safetensors.Tensor{a, b}, ""},
		{"good, no prefix", []safetensors.Tensor{tensor("model.layers.0.self_attn.q_proj.lora_A.weight", safetensors.BF16, 2, 4), b}, ""},
		{"none", nil, "which has no tensors"},
		{"no B", []safetensors.Tensor{a}, `model.layers.0.self_attn.q_proj.lora_A.weight": its partner lora_B is missing`},
		{"no A", []safetensors.Tensor{b}, nameB + `": its partner lora_A is missing`},
		{"no A of another", []safetensors.Tensor{a, b, tensor("model.layers.1.self_attn.q_proj.lora_B.weight", safetensors.F32, 6, 2)}, "layers.1.self_attn.q_proj.lora_B.weight\": its partner lora_A is missing"},
		{"rank of A", []safetensors.Tensor{tensor(nameA, safetensors.F32, 3, 4), b}, "expected rank 2"},
		{"rank of B", []safetensors.Tensor{a, tensor(nameB, safetensors.F32, 2, 6)}, "expected rank 2"},
		{"vector", []safetensors.Tensor{tensor(nameA, safetensors.F32, 8), b}, "expected a matrix"},
		{"empty", []safetensors.Tensor{tensor(nameA, safetensors.F32, 2, 0), b}, "expected a matrix"},
		{"unknown name", []safetensors.Tensor{a, b, tensor("base_model.model.lm_head.weight", safetensors.F32, 2, 2)}, "lm_head.weight"},
		{"unknown module", []safetensors.Tensor{tensor("model.embed_tokens.lora_A.weight", safetensors.F32, 2, 2)}, "model.embed_tokens"},
		{"twice", []safetensors.Tensor{a, b, tensor("model.layers.0.self_attn.q_proj.lora_A.weight", safetensors.F32, 2, 4)}, "twice"},
		{"magnitude", []safetensors.Tensor{a, b, tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", safetensors.F32, 6)}, "lora_magnitude_vector"},
		{"integers", []safetensors.Tensor{{Name: nameA, DType: safetensors.I32, Shape: []int{2, 4}, Data: a.Data}, b}, "type I32"},
		{"NaN", []safetensors.Tensor{safetensors.FromFloat32s(nameA, safetensors.F32, []float32{1, 1, 1, 1, 1, nan, 1, 1}, 2, 4), b}, nameA + ": value 5 is NaN"},
		{"infinite", []safetensors.Tensor{a, infinite}, nameB + ": value 3 is -Inf"},
	} {
		got, err := lora.DecodePEFT([]byte(plainConfig), encode(t, c.tensors...))
		switch {
		case c.want != "":
			wantError(t, c.what, err, c.want)
		case err != nil:
			t.Errorf("%s: %v", c.what, err)
		case got.Base.Targets[0] != lora.Target{Name: "model.layers.0.self_attn.q_proj", In: 4, Out: 6}:
			t.Errorf("%s: %+v", c.what, got.Base)
		}
	}
}

func TestDecodePEFTConfig(t *testing.T) {
	file := encode(t, tensor(nameA, safetensors.F32, 2, 4), tensor(nameB, safetensors.F32, 6, 2))
	with := func(extra string) string { return strings.TrimSuffix(plainConfig, "}") + "," + extra + "}" }
	for _, c := range []struct{ what, config, want string }{
		{"plain", plainConfig, ""},
		{"pattern", `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":"all-linear"}`, ""},
		{"full name", `{"peft_type":"LORA","r":2,"lora_alpha":4.5,"target_modules":["model.layers.0.self_attn.q_proj"]}`, ""},
		{"all off", with(`"use_rslora":false,"use_dora":null,"modules_to_save":[],"rank_pattern":{ },"init_lora_weights":"gaussian"`), ""},
		{"a path", with(`"base_model_name_or_path":"/home/somebody/models/Qwen"`), ""},
		{"empty", "", "not a JSON object"},
		{"list", "[]", "not a JSON object"},
		{"no type", `{"r":2}`, "peft_type"},
		{"other type", `{"peft_type":"IA3","r":2}`, `"IA3"`},
		{"no rank", `{"peft_type":"LORA","lora_alpha":4,"target_modules":["q_proj"]}`, "r is missing"},
		{"rank text", `{"peft_type":"LORA","r":"2","lora_alpha":4}`, `r is "2", which has the wrong type`},
		{"rank half", `{"peft_type":"LORA","r":2.5,"lora_alpha":4}`, "wrong type"},
		{"rank negative", `{"peft_type":"LORA","r":-2,"lora_alpha":4}`, "r is -2"},
		{"other rank", `{"peft_type":"LORA","r":4,"lora_alpha":4,"target_modules":["q_proj"]}`, "expected rank 4"},
		{"no alpha", `{"peft_type":"LORA","r":2,"target_modules":["q_proj"]}`, "lora_alpha is missing"},
		{"alpha 0", `{"peft_type":"LORA","r":2,"lora_alpha":0,"target_modules":["q_proj"]}`, "lora_alpha is 0"},
		{"no modules", `{"peft_type":"LORA","r":2,"lora_alpha":4}`, "target_modules is missing"},
		{"modules of numbers", `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":[1]}`, "wrong type"},
		{"other modules", `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["k_proj"]}`, "do not name module model.layers.0.self_attn.q_proj"},
		{"more modules", `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj","k_proj"]}`, `name "k_proj", which has no tensors`},
		{"rsLoRA", with(`"use_rslora":true`), ""},
		{"other rsLoRA", with(`"use_rslora":"yes"`), "wrong type"},
		{"DoRA", with(`"use_dora":true`), "DoRA"},
		{"bias", strings.Replace(plainConfig, "none", "all", 1), "biases"},
		{"modules_to_save", with(`"modules_to_save":["lm_head"]`), "whole modules"},
		{"rank_pattern", with(`"rank_pattern":{"q_proj":4}`), "expected rank 4"},
		{"rank_pattern of the rest", with(`"rank_pattern":{"k_proj":4}`), ""},
		{"rank_pattern of 0", with(`"rank_pattern":{"q_proj":0}`), "the rank 0"},
		{"rank_pattern of a half", with(`"rank_pattern":{"q_proj":2.5}`), "the rank 2.5"},
		{"rank_pattern of text", with(`"rank_pattern":{"q_proj":"2"}`), "expected an object of module and number"},
		{"rank_pattern twice", with(`"rank_pattern":{"q_proj":2,"q_proj":2}`), "none twice"},
		{"rank_pattern, a list", with(`"rank_pattern":[2]`), "expected an object"},
		{"alpha_pattern", with(`"alpha_pattern":{"q_proj":4}`), ""},
		{"alpha_pattern of 0", with(`"alpha_pattern":{"q_proj":0}`), "the alpha 0"},
		{"alpha_pattern, no expression", with(`"alpha_pattern":{"q_proj(":4}`), "is not understood: missing closing )"},
		{"alpha_pattern, two lines", with(`"alpha_pattern":{"q_proj\n(":4}`), `"q_proj (", which is not understood: missing closing )`},
		{"alpha_pattern, counted", with(`"alpha_pattern":{"((a{100}){100}){100}":4}`), "without {}"},
		{"alpha_pattern, long", with(`"alpha_pattern":{"` + strings.Repeat("a*", 200) + `":4}`), "256 bytes"},
		{"alpha_pattern, part of a name", with(`"alpha_pattern":{"proj":4}`), ""},
		{"fan_in_fan_out", with(`"fan_in_fan_out":true`), ""},
		{"exclude_modules", strings.Replace(with(`"exclude_modules":["k_proj"]`), `["q_proj"]`, `["q_proj","k_proj"]`, 1), ""},
		{"exclude_modules, a word", with(`"exclude_modules":".*k_proj"`), ""},
		{"excluded", with(`"exclude_modules":["q_proj"]`), "has tensors"},
		{"layers_to_transform", with(`"layers_to_transform":[0,3]`), ""},
		{"layers_to_transform, one", with(`"layers_to_transform":0`), ""},
		{"other layers", with(`"layers_to_transform":1`), "do not name layer 0"},
		{"PiSSA", with(`"init_lora_weights":"pissa_niter_16"`), "changed base model"},
	} {
		a, err := lora.DecodePEFT([]byte(c.config), file)
		switch {
		case c.want != "":
			wantError(t, c.what, err, c.want)
		case err != nil:
			t.Errorf("%s: %v", c.what, err)
		case a.Base.Model != "":
			t.Errorf("%s: base model %q, which is no hub id", c.what, a.Base.Model)
		}
	}
}

// Modules that differ in rank and alpha become one adapter that adds the same.
func TestDecodePEFTPatterns(t *testing.T) {
	config := `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj","k_proj","v_proj"],
		"rank_pattern":{"self_attn.k_proj":1},"alpha_pattern":{"model.layers.0.self_attn.v_proj":2,"v_proj":1000}}`
	name := func(module, matrix string) string {
		return "base_model.model.model.layers.0.self_attn." + module + ".lora_" + matrix + ".weight"
	}
	file := encode(t,
		tensor(name("q_proj", "A"), safetensors.F32, 2, 3), tensor(name("q_proj", "B"), safetensors.F32, 2, 2),
		tensor(name("k_proj", "A"), safetensors.F32, 1, 3), tensor(name("k_proj", "B"), safetensors.F32, 2, 1),
		tensor(name("v_proj", "A"), safetensors.F32, 2, 3), tensor(name("v_proj", "B"), safetensors.F32, 2, 2))
	a, err := lora.DecodePEFT([]byte(config), file)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Check(); err != nil || a.Base.Rank != 2 || a.Base.Alpha != 4 {
		t.Fatalf("%+v, %v", a.Base, err)
	}
	one := []float32{1, 1, 1, 1}
	for i, want := range []lora.Pair{
		{A: []float32{1, 1, 1, 1, 1, 1}, B: one},
		{A: []float32{1, 1, 1, 0, 0, 0}, B: []float32{2, 0, 2, 0}},
		{A: []float32{1, 1, 1, 1, 1, 1}, B: []float32{0.5, 0.5, 0.5, 0.5}},
	} {
		if !reflect.DeepEqual(a.Pairs[i], want) {
			t.Errorf("%s: %v, expected %v", a.Base.Targets[i].Name, a.Pairs[i], want)
		}
	}
	a, err = lora.DecodePEFT([]byte(strings.Replace(config, `"r":2`, `"use_rslora":true,"r":2`, 1)), file)
	if err != nil || math.Abs(a.Base.Alpha-4*math.Sqrt2) > 1e-12 || math.Abs(float64(a.Pairs[1].B[0])-math.Sqrt2) > 1e-6 || a.Pairs[2].B[0] != 0.5 {
		t.Errorf("stabilised: %+v, %v", a, err)
	}
	// A huge rank would make all others as wide.
	config = strings.Replace(config, `"self_attn.k_proj":1`, `"q_proj":4096`, 1)
	file = encode(t, tensor(name("q_proj", "A"), safetensors.F32, 4096, 1), tensor(name("q_proj", "B"), safetensors.F32, 1, 4096),
		tensor(name("k_proj", "A"), safetensors.F32, 2, 1<<16), tensor(name("k_proj", "B"), safetensors.F32, 1, 2),
		tensor(name("v_proj", "A"), safetensors.F32, 2, 3), tensor(name("v_proj", "B"), safetensors.F32, 2, 2))
	_, err = lora.DecodePEFT([]byte(config), file)
	wantError(t, "a huge rank", err, "expected ranks that differ less")
}

func TestReadPEFTFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := lora.ReadPEFT(filepath.Join(dir, "missing"))
	wantError(t, "missing", err, "no such file")
	_, err = lora.ReadPEFT(dir)
	wantError(t, "no config", err, lora.ConfigName)
	config := filepath.Join(dir, lora.ConfigName)
	if err := os.WriteFile(config, []byte(plainConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.ReadPEFT(dir)
	wantError(t, "no weights", err, lora.WeightsName)
	if err := os.WriteFile(filepath.Join(dir, "adapter_model.bin"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.ReadPEFT(dir)
	wantError(t, "pickle", err, "safe_serialization")
	weights := filepath.Join(dir, lora.WeightsName)
	if err := os.WriteFile(weights, []byte("\xff\xff\xff\xff\xff\xff\xff\x7f{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.ReadPEFT(dir)
	wantError(t, "bad weights", err, weights)
	if err := os.WriteFile(config, bytes.Repeat([]byte(" "), 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.ReadPEFT(dir)
	wantError(t, "huge config", err, "more than")
}

func TestReadPEFTRecognizesTheBase(t *testing.T) {
	known, _, err := lora.ReferenceBase("0.5B")
	if err != nil {
		t.Fatal(err)
	}
	var tensors []safetensors.Tensor
	for _, m := range known.Targets {
		tensors = append(tensors, tensor("base_model.model."+m.Name+".lora_A.weight", safetensors.BF16, known.Rank, m.In),
			tensor("base_model.model."+m.Name+".lora_B.weight", safetensors.BF16, m.Out, known.Rank))
	}
	path := filepath.Join(t.TempDir(), "0.safetensors")
	if err := safetensors.WriteFile(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	got, err := lora.DescribeBase(path)
	if err != nil || !reflect.DeepEqual(got, known) {
		t.Errorf("%s %s %d %d, %v", got.Model, got.Architecture, got.Heads, got.KVHeads, err)
	}
}

func FuzzPEFTConfig(f *testing.F) {
	file := encode(f, tensor(nameA, safetensors.F32, 2, 4), tensor(nameB, safetensors.F32, 6, 2))
	real, err := os.ReadFile(golden.Path("tokens", "mini_0.5B", "adapter_config.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Add([]byte(plainConfig))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":4,"use_rslora":true,"target_modules":"all-linear","rank_pattern":{".*q_proj":2},"alpha_pattern":{"q_proj":1e-9}}`))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":4,"rank_pattern":{"[\n":2}}`))
	f.Add([]byte(`{"peft_type":"LORA","r":1e9,"lora_alpha":1e999,"target_modules":[""]}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		a, err := lora.DecodePEFT(config, file)
		if err == nil {
			err = a.Check()
		} else if strings.Contains(err.Error(), "\n") {
			t.Fatalf("more than one line: %q", err)
		} else {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzAdapterWeights(f *testing.F) {
	for _, tensors := range [][]safetensors.Tensor{
		{tensor(nameA, safetensors.F32, 2, 4), tensor(nameB, safetensors.F32, 6, 2)},
		{tensor(nameA, safetensors.F16, 1, 1), tensor(nameB, safetensors.BF16, 1, 1)},
		{tensor(nameA, safetensors.F32, 2, 4)},
	} {
		var b bytes.Buffer
		if err := safetensors.Write(&b, tensors, nil); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := safetensors.NewFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		a, err := lora.DecodePEFT(nil, file)
		if err != nil {
			return
		}
		if err := a.Check(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Norms(); err != nil {
			t.Fatal(err)
		}
	})
}
