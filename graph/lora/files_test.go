package lora_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

var provenance = lora.Provenance{Tool: "dndgen test", Generator: "tiny", GeneratorSHA256: "aa", PromptsSHA256: "bb", Seed: 7, Backend: "cpu"}

func TestWriteThenReadPEFT(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "adapter")
	want := tinyAdapter()
	for _, dtype := range []safetensors.DType{"", safetensors.F16, safetensors.BF16} {
		// The second and third time replace the first.
		if err := lora.Write(dir, want, lora.Options{Format: lora.PEFT, DType: dtype, Provenance: provenance}); err != nil {
			t.Fatal(err)
		}
		got, err := lora.ReadPEFT(dir)
		if err != nil {
			t.Fatal(err)
		}
		base := want.Base
		base.Architecture, base.Heads, base.KVHeads = "", 0, 0 // not in PEFT's files
		if !reflect.DeepEqual(got.Base, base) || got.AlphaAssumed {
			t.Errorf("%s: base %+v", dtype, got.Base)
		}
		if _, differ := compareAdapters(t, "read", got, want); differ != 0 && dtype != safetensors.BF16 {
			t.Errorf("%s: %d values differ", dtype, differ)
		}
		info, err := lora.Verify(dir)
		if err != nil || info.Provenance != provenance || info.BaseModel != "test/tiny" {
			t.Errorf("%s: %+v, %v", dtype, info, err)
		}
		described, err := lora.DescribeBase(dir)
		if err != nil || !reflect.DeepEqual(described, base) {
			t.Errorf("%s: %+v, %v", dtype, described, err)
		}
	}
	f, err := safetensors.Open(filepath.Join(dir, lora.WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata["format"] != "pt" || f.Metadata["dnd.seed"] != "7" || f.Metadata["dnd.generator_sha256"] != "aa" {
		t.Errorf("metadata %v", f.Metadata)
	}
	text, err := os.ReadFile(filepath.Join(dir, lora.ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]any{"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": 2.0, "lora_alpha": 4.0,
		"base_model_name_or_path": "test/tiny", "target_modules": []any{"q_proj", "k_proj"}} {
		if !reflect.DeepEqual(config[key], value) {
			t.Errorf("config has %s %v, expected %v", key, config[key], value)
		}
	}
}

func TestVerifyFindsChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := lora.Write(dir, tinyAdapter(), lora.Options{Format: lora.PEFT}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, lora.WeightsName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.Verify(dir)
	wantError(t, "changed", err, "SHA-256")
	if err := os.WriteFile(path, data[:len(data)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.Verify(dir)
	wantError(t, "shorter", err, "expected")
	info := filepath.Join(dir, lora.InfoName)
	if err := os.WriteFile(info, []byte(`{"format_version":1,"kind":"dnd adapter","files":[{"name":"../x"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lora.Verify(dir)
	wantError(t, "path", err, `lists "../x"`)
}

// Modules that do not cover all layers must be named in full, or PEFT would expect more.
func TestTargetModules(t *testing.T) {
	for _, c := range []struct {
		architecture string
		names        []string
		full         bool
	}{
		{"llama", []string{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}, false},
		{"", []string{"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"}, false},
		{"llama", []string{"model.layers.1.self_attn.q_proj"}, true},
		{"llama", []string{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}, true},
		{"llama", []string{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.q_proj"}, true},
		{"qwen2vl", []string{"model.layers.0.self_attn.q_proj"}, true},
	} {
		a := &lora.Adapter{Base: lora.Base{Architecture: c.architecture, Rank: 1, Alpha: 1}}
		for _, name := range c.names {
			a.Base.Targets = append(a.Base.Targets, lora.Target{Name: name, In: 1, Out: 1})
			a.Pairs = append(a.Pairs, lora.Pair{A: []float32{1}, B: []float32{1}})
		}
		dir := filepath.Join(t.TempDir(), "a")
		if err := lora.Write(dir, a, lora.Options{Format: lora.PEFT}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, lora.ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		if full := strings.Contains(string(text), `"model.layers.`); full != c.full {
			t.Errorf("%v: full names %v, expected %v", c.names, full, c.full)
		}
		if _, err := lora.ReadPEFT(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteKeepsForeignFiles(t *testing.T) {
	o := lora.Options{Format: lora.PEFT}
	parent := t.TempDir()
	foreign := filepath.Join(parent, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, "sub-folder", lora.Write(foreign, tinyAdapter(), o), "holds deep")
	theirs := filepath.Join(parent, "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := lora.Write(theirs, tinyAdapter(), o); err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	if err := os.Remove(filepath.Join(theirs, lora.InfoName)); err != nil {
		t.Fatal(err)
	}
	wantError(t, "another's adapter", lora.Write(theirs, tinyAdapter(), o), "not those of an adapter made here")
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, "file", lora.Write(file, tinyAdapter(), o), "not a folder")
	mixed := filepath.Join(parent, "mixed")
	if err := lora.Write(mixed, tinyAdapter(), o); err != nil {
		t.Fatal(err)
	}
	notes := filepath.Join(mixed, "notes.txt")
	if err := os.WriteFile(notes, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, "notes", lora.Write(mixed, tinyAdapter(), o), "notes.txt")
	if _, err := os.Stat(notes); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != 4 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		what    string
		options lora.Options
		change  func(*lora.Adapter)
		want    string
	}{
		{"NaN", lora.Options{Format: lora.PEFT}, func(a *lora.Adapter) { a.Pairs[1].A[3] = nan }, "model.layers.0.self_attn.k_proj.lora_A: value 3 is NaN"},
		{"size", lora.Options{Format: lora.PEFT}, func(a *lora.Adapter) { a.Pairs[1].B = nil }, "expected A (2,8) and B (4,2)"},
		{"pairs", lora.Options{Format: lora.PEFT}, func(a *lora.Adapter) { a.Pairs = a.Pairs[:1] }, "1 pairs"},
		{"half", lora.Options{Format: lora.PEFT, DType: safetensors.F16}, func(a *lora.Adapter) { a.Pairs[0].A[0] = 1e6 }, "too large for F16"},
		{"dtype", lora.Options{Format: lora.PEFT, DType: safetensors.F64}, func(*lora.Adapter) {}, "F64"},
		{"format", lora.Options{Format: "zip"}, func(*lora.Adapter) {}, `unknown adapter format "zip"`},
		{"GGUF dtype", lora.Options{Format: lora.GGUF, DType: safetensors.BF16}, func(*lora.Adapter) {}, "F32 or F16"},
		{"no architecture", lora.Options{Format: lora.GGUF}, func(a *lora.Adapter) { a.Base.Architecture = "" }, "architecture"},
		{"architecture", lora.Options{Format: lora.GGUF}, func(a *lora.Adapter) { a.Base.Architecture = "gpt2" }, `"gpt2"`},
		{"heads", lora.Options{Format: lora.GGUF}, func(a *lora.Adapter) { a.Base.Heads = 0 }, "0 heads"},
		{"odd heads", lora.Options{Format: lora.GGUF}, func(a *lora.Adapter) { a.Base.KVHeads = 3 }, "3 heads"},
	} {
		a := tinyAdapter()
		c.change(a)
		dir := filepath.Join(t.TempDir(), "a")
		wantError(t, c.what, lora.Write(dir, a, c.options), c.want)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: an output was left behind", c.what)
		}
	}
}

func TestWriteGGUF(t *testing.T) {
	a := tinyAdapter()
	for _, architecture := range []string{"llama", "qwen2"} {
		a.Base.Architecture = architecture
		dir := filepath.Join(t.TempDir(), "a")
		if err := lora.Write(dir, a, lora.Options{Format: lora.GGUF, Provenance: provenance}); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(filepath.Join(dir, lora.GGUFName))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for key, value := range map[string]any{"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora",
			"adapter.lora.alpha": 4.0, "dnd.generator": "tiny"} {
			if kv, _ := f.Lookup(key); kv.Value != value {
				t.Errorf("%s is %v, expected %v", key, kv.Value, value)
			}
		}
		// q has two heads of 4 rows, k one. In llama's order, the rows of a head are those of
		// its first and second half in turn.
		for i, rows := range map[int][]int{0: {0, 2, 1, 3, 4, 6, 5, 7}, 1: {0, 2, 1, 3}} {
			name := []string{"blk.0.attn_q", "blk.0.attn_k"}[i]
			target := a.Base.Targets[i]
			gotA := ggufValues(t, f, name+".weight.lora_a", []int64{int64(target.In), 2})
			if !reflect.DeepEqual(gotA, a.Pairs[i].A) {
				t.Errorf("%s: A is %v", name, gotA)
			}
			gotB := ggufValues(t, f, name+".weight.lora_b", []int64{2, int64(target.Out)})
			for o := range target.Out {
				row := o
				if architecture == "llama" {
					row = rows[o]
				}
				if want := a.Pairs[i].B[2*row : 2*row+2]; !reflect.DeepEqual(gotB[2*o:2*o+2], want) {
					t.Errorf("%s %s: row %d of B is %v, expected %v", architecture, name, o, gotB[2*o:2*o+2], want)
				}
			}
		}
	}
}

func ggufValues(t *testing.T, f *gguf.File, name string, shape []int64) []float32 {
	t.Helper()
	info, ok := f.Tensor(name)
	if !ok || !reflect.DeepEqual(info.Shape, shape) {
		t.Fatalf("%s: %+v, expected shape %v", name, info, shape)
	}
	raw := make([]byte, info.Bytes)
	if err := f.ReadRange(name, 0, raw); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, info.Bytes/4)
	if err := safetensors.DecodeFloats(safetensors.F32, raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}
