package collect_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// tiny loads a random Llama of one block with a byte vocabulary onto devices of a backend.
func tiny(t *testing.T, kind string, devices int) []*lm.Model {
	t.Helper()
	dir := tinyDir(t)
	b, err := backend.Open(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	var models []*lm.Model
	for d := range devices {
		m, err := lm.LoadWith(dir, lm.Options{Device: d}, b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		models = append(models, m)
	}
	return models
}

func tinyDir(t *testing.T) string {
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
	for name, v := range map[string]any{
		"tokenizer.json": map[string]any{"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}}, "pre_tokenizer": map[string]any{"type": "ByteLevel"}},
		"config.json": map[string]any{"_name_or_path": "tiny", "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
			"intermediate_size": 12, "vocab_size": 258, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu"},
	} {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var list []safetensors.Tensor
	for name, shape := range map[string][]int{"embed_tokens": {258, 8}, "norm": {8}, "layers.0.input_layernorm": {8}, "layers.0.post_attention_layernorm": {8},
		"layers.0.self_attn.q_proj": {8, 8}, "layers.0.self_attn.k_proj": {4, 8}, "layers.0.self_attn.v_proj": {4, 8}, "layers.0.self_attn.o_proj": {8, 8},
		"layers.0.mlp.up_proj": {12, 8}, "layers.0.mlp.gate_proj": {12, 8}, "layers.0.mlp.down_proj": {8, 12}} {
		v := make([]float32, shape[0]*shape[len(shape)-1])
		if len(shape) == 1 {
			v = v[:shape[0]]
		}
		for i := range v {
			v[i] = float32(rng.NormFloat64()) / 2
		}
		list = append(list, safetensors.FromFloat32s("model."+name+".weight", safetensors.F32, v, shape...))
	}
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func config() collect.Config {
	return collect.Config{Rank: 2, Alpha: 4, Seed: 5, Batch: 2, Steps: 3, Rate: 1e-2, WarmUp: 1, Late: 2, LateRate: 1e-3, MaxTokens: 60, DType: lm.F32}
}

func sets() []*collect.DataSet {
	var list []*collect.DataSet
	for _, name := range []string{"one", "two"} {
		d := &collect.DataSet{Name: name}
		for i := range 4 {
			d.Records = append(d.Records, collect.Record{System: "s", Prompt: fmt.Sprint(name, i), Response: name})
		}
		d.Records = append(d.Records, collect.Record{System: "s", Prompt: strings.Repeat("long ", 20), Response: name})
		list = append(list, d)
	}
	return list
}

// contents are the files below dir, but collect.json, which has times in it.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "collect.json" {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A collection that is stopped in its second data set leaves the first, goes on when it is
// run again, and comes to the same bytes as one that was not stopped.
func TestRun(t *testing.T) {
	m, c, whole, stopped := tiny(t, backend.CPU, 1), config(), t.TempDir(), t.TempDir()
	var reports []collect.Progress
	if err := collect.Run(t.Context(), c, m, sets(), whole, func(p collect.Progress) { reports = append(reports, p) }); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 2*(c.Steps+c.Late) {
		t.Fatalf("%d reports", len(reports))
	}
	if p := reports[len(reports)-1]; p.DataSet != "two" || p.Set != 2 || p.Sets != 2 || p.Step != 5 || p.Steps != 5 || p.TimeLeft != 0 || p.Dropped != 1 || !(p.Loss > 0) || !(p.TokensPerSecond > 0) {
		t.Errorf("last report %+v", p)
	}
	want := contents(t, whole)
	names := slices.Sorted(maps.Keys(want))
	if expected := []string{"one/adapter_config.json", "one/checkpoints/000001.safetensors", "one/checkpoints/000002.safetensors", "one/prompts.json",
		"two/adapter_config.json", "two/checkpoints/000001.safetensors", "two/checkpoints/000002.safetensors", "two/prompts.json"}; !slices.Equal(names, expected) {
		t.Fatalf("files %v", names)
	}

	ctx, cancel := context.WithCancel(t.Context())
	err := collect.Run(ctx, c, m, sets(), stopped, func(p collect.Progress) {
		if p.Set == 2 && p.Step == c.Steps+1 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("stopped: %v", err)
	}
	if entries, err := os.ReadDir(stopped); err != nil || len(entries) != 1 || entries[0].Name() != "one" {
		t.Fatalf("after the stop: %v, %v", entries, err)
	}
	skipped := 0
	if err := collect.Run(t.Context(), c, m, sets(), stopped, func(p collect.Progress) {
		if p.Skipped {
			skipped++
		}
	}); err != nil || skipped != 1 {
		t.Fatalf("%d skipped, %v", skipped, err)
	}
	for name, raw := range contents(t, stopped) {
		if !bytes.Equal(raw, want[name]) {
			t.Errorf("%s differs from the run that was not stopped", name)
		}
	}

	// B differs between data sets and steps; A is one and the same.
	tensor := func(file, kind string) []float32 {
		f, err := safetensors.Open(filepath.Join(whole, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		v, err := f.Float32s("base_model.model.model.layers.0.mlp.down_proj." + kind + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := "one/checkpoints/000001.safetensors"
	for _, other := range []string{"one/checkpoints/000002.safetensors", "two/checkpoints/000001.safetensors"} {
		if !slices.Equal(tensor(first, "lora_A"), tensor(other, "lora_A")) {
			t.Errorf("%s has another lora_A", other)
		}
		if slices.Equal(tensor(first, "lora_B"), tensor(other, "lora_B")) {
			t.Errorf("%s has the same lora_B", other)
		}
	}
}

// A data set that is stopped in its first phase goes on within it, whatever of the LoRA is
// tuned; in the late phase, which is short, from the start. What is kept of it goes with it.
func TestStopped(t *testing.T) {
	m, list := tiny(t, backend.CPU, 1), sets()[:1]
	for _, trainA := range []bool{false, true} {
		c, whole := config(), t.TempDir()
		c.TrainA = trainA
		if err := collect.Run(t.Context(), c, m, list, whole, nil); err != nil {
			t.Fatal(err)
		}
		want := contents(t, whole)
		for stop := 1; stop < c.Steps+c.Late; stop++ {
			out := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			err := collect.Run(ctx, c, m, list, out, func(p collect.Progress) {
				if p.Step == stop {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("stopped after step %d: %v", stop, err)
			}
			first := 1
			if stop <= c.Steps {
				first = stop + 1
				other := c
				other.Rate /= 2
				if err := collect.Run(t.Context(), other, m, list, out, nil); err == nil || !strings.Contains(err.Error(), ".one.state.safetensors is from another configuration") {
					t.Errorf("stopped after step %d, then another configuration: %v", stop, err)
				}
			}
			var reports []collect.Progress
			if err := collect.Run(t.Context(), c, m, list, out, func(p collect.Progress) { reports = append(reports, p) }); err != nil {
				t.Fatalf("stopped after step %d: %v", stop, err)
			}
			if p := reports[0]; p.Step != first || p.Made != first || reports[len(reports)-1].Made != p.Total {
				t.Errorf("stopped after step %d: goes on with %+v", stop, p)
			}
			if got := contents(t, out); !maps.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("stopped after step %d: files %v differ from the run that was not stopped", stop, slices.Sorted(maps.Keys(got)))
			}
		}
	}
}

// A run that is killed loses what came after its last state.
func TestKilled(t *testing.T) {
	collect.SetStateAfter(t, 0)
	m, c, list, out := tiny(t, backend.CPU, 1), config(), sets()[:1], t.TempDir()
	state := filepath.Join(out, ".one.state.safetensors")
	var kept []byte
	if err := collect.Run(t.Context(), c, m, list, out, func(p collect.Progress) {
		if p.Step == c.Steps {
			var err error
			if kept, err = os.ReadFile(state); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	want := contents(t, out)
	killed := t.TempDir()
	state = filepath.Join(killed, ".one.state.safetensors")
	for _, bad := range [][]byte{kept[:len(kept)/2], []byte("{}")} {
		if err := os.WriteFile(state, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := collect.Run(t.Context(), c, m, list, killed, nil); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("a broken state: %v", err)
		}
	}
	if err := os.WriteFile(state, kept, 0o644); err != nil {
		t.Fatal(err)
	}
	first := 0
	if err := collect.Run(t.Context(), c, m, list, killed, func(p collect.Progress) {
		if first == 0 {
			first = p.Step
		}
	}); err != nil || first != c.Steps {
		t.Fatalf("goes on with step %d, %v", first, err)
	}
	if got := contents(t, killed); !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("files %v differ from the run that was not killed", slices.Sorted(maps.Keys(got)))
	}
	if err := os.WriteFile(state, kept, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := collect.Run(t.Context(), c, m, list, killed, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a finished data set's state is still there: %v", err)
	}
}

// A folder that is there from something else is refused, and so is bad input, all of it at
// once and before a step is made.
func TestRunRefuses(t *testing.T) {
	m, done := tiny(t, backend.CPU, 1), t.TempDir()
	if err := collect.Run(t.Context(), config(), m, sets()[:1], done, nil); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.Mkdir(filepath.Join(foreign, "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		out  string
		edit func(c *collect.Config, list []*collect.DataSet)
		want []string
	}{
		"another configuration":    {done, func(c *collect.Config, _ []*collect.DataSet) { c.Rate /= 2 }, []string{"another configuration"}},
		"another data":             {done, func(_ *collect.Config, list []*collect.DataSet) { list[0].Records[0].Response = "x" }, []string{"another version of the data"}},
		"more than the disk holds": {t.TempDir(), func(c *collect.Config, _ []*collect.DataSet) { c.Late = 1 << 45 }, []string{"too little room"}},
		"foreign folder":           {foreign, func(*collect.Config, []*collect.DataSet) {}, []string{"no finished collection"}},
		"several": {t.TempDir(), func(c *collect.Config, list []*collect.DataSet) {
			c.Rank, c.Late, c.DType = 0, 0, "f8"
			list[0].Records, list[1].Name = list[0].Records[3:], "one"
		}, []string{"rank", "late steps", "dtype", "1 usable examples", "given twice"}},
	} {
		c, list := config(), sets()
		x.edit(&c, list)
		err := collect.Run(t.Context(), c, m, list, x.out, func(p collect.Progress) {
			if !p.Skipped {
				t.Errorf("%s: made a step", name)
			}
		})
		for _, want := range x.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", name, err, want)
			}
		}
	}
}

// Two devices share the data sets, and come to the same bytes as one.
func TestDevices(t *testing.T) {
	c, one, two := config(), t.TempDir(), t.TempDir()
	list := sets()
	for _, name := range []string{"three", "four"} {
		list = append(list, &collect.DataSet{Name: name, Records: list[0].Records})
	}
	models := tiny(t, backend.PJRT, 2)
	if err := collect.Run(t.Context(), c, models[:1], list, one, nil); err != nil {
		t.Fatal(err)
	}
	var last collect.Progress
	if err := collect.Run(t.Context(), c, models, list, two, func(p collect.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if want := len(list) * (c.Steps + c.Late); last.Made != want || last.Total != want || last.TimeLeft != 0 {
		t.Errorf("last report %+v, want %d steps", last, want)
	}
	got := contents(t, two)
	for name, raw := range contents(t, one) {
		if !bytes.Equal(raw, got[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestReadDataSet(t *testing.T) {
	for _, x := range []struct{ name, file, text, want string }{
		{"good", "set.json", `[{"prompt":"p","response":"r","system":"s"}]`, ""},
		{"empty", "set.json", `[]`, "no record"},
		{"no array", "set.json", `{"prompt":"p","response":"r"}`, "expected an array"},
		{"no JSON", "set.json", `[{`, "expected an array"},
		{"no prompt", "set.json", `[{"prompt":"p","response":"r"},{"response":"r"}]`, "record 2"},
		{"blank", "set.json", `[{"prompt":"p","response":" "}]`, "record 1"},
		{"blank input", "set.json", `[{"prompt":"p","input":" ","response":"r"}]`, "record 1: input is blank"},
		{"wrong field", "set.json", `[{"prompt":"p","answer":"r"}]`, "record 1"},
		{"wrong type", "set.json", `[{"prompt":1,"response":"r"}]`, "expected an array"},
		{"lines", "set.jsonl", "\n{\"prompt\":\"p\",\"response\":\"r\",\"system\":\"s\"}\r\n \n", ""},
		{"no lines", "set.jsonl", "\n\n", "no record"},
		{"an array in lines", "set.jsonl", `[{"prompt":"p","response":"r"}]`, "line 1: expected a record"},
		{"a line that ends early", "set.jsonl", "{\"prompt\":\"p\",\"response\":\"r\"}\n\n{\"prompt\":", "line 3: expected a record"},
		{"two on a line", "set.jsonl", `{"prompt":"p","response":"r"} {"prompt":"p","response":"r"}`, "line 1: expected a record"},
		{"a line without response", "set.jsonl", `{"prompt":"p"}`, "record 1"},
	} {
		path := filepath.Join(t.TempDir(), x.file)
		if err := os.WriteFile(path, []byte(x.text), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := collect.ReadDataSet(path)
		switch {
		case x.want == "":
			if err != nil || d.Name != "set" || len(d.Records) != 1 || d.Records[0].System != "s" {
				t.Errorf("%s: got %+v, %v", x.name, d, err)
			}
		case err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), path):
			t.Errorf("%s: got %v, want the path and %q in it", x.name, err, x.want)
		}
	}
}

// Data sets are found by name in files and folders, of either extension, once.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.jsonl", "a.json", "c.json", "notes.txt", "twice.json", "twice.jsonl"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(t.TempDir(), "d.json")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, x := range []struct {
		places, names, want []string
		errors              []string
	}{
		{[]string{dir, other}, []string{"d", "b", "a"}, []string{other, in("b.jsonl"), in("a.json")}, nil},
		{[]string{in("b.jsonl"), other}, nil, []string{in("b.jsonl"), other}, nil},
		{[]string{dir}, nil, nil, []string{"twice.json", "twice.jsonl"}},
		{[]string{dir}, []string{"x", "twice", "y"}, nil, []string{"no file x.json or x.jsonl", "no file y.json", "twice.jsonl"}},
		{[]string{t.TempDir()}, nil, nil, []string{"no .json or .jsonl file"}},
		{[]string{in("nowhere")}, nil, nil, []string{"nowhere"}},
	} {
		got, err := collect.Find(x.places, x.names)
		if x.errors == nil && (err != nil || !slices.Equal(got, x.want)) {
			t.Errorf("%q in %q: %q, %v; want %q", x.names, x.places, got, err, x.want)
		}
		for _, want := range x.errors {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q in %q: %v, want %q", x.names, x.places, err, want)
			}
		}
	}
}

// Data sets that start from a LoRA start with its loss and have its lora_A, whatever the
// seed; one that is stopped goes on to the same bytes. Another LoRA is another
// configuration, one of another shape is refused.
func TestStart(t *testing.T) {
	m, c, list, joint := tiny(t, backend.CPU, 1), config(), sets(), filepath.Join(t.TempDir(), "joint")
	long := c
	long.Steps, long.Rate = 100, 0.1
	if err := collect.Run(t.Context(), long, m, []*collect.DataSet{collect.Join("joint", list)}, filepath.Dir(joint), nil); err != nil {
		t.Fatal(err)
	}
	losses := func(c collect.Config, out string) map[string][]float64 {
		t.Helper()
		all := map[string][]float64{}
		if err := collect.Run(t.Context(), c, m, list, out, func(p collect.Progress) { all[p.DataSet] = append(all[p.DataSet], p.Loss) }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	fresh, started := losses(c, t.TempDir()), t.TempDir()
	if err := c.SetStart(joint); err != nil {
		t.Fatal(err)
	}
	c.Seed++
	for name, x := range losses(c, started) {
		if !(x[0] < 0.9*fresh[name][0]) {
			t.Errorf("%s starts with a loss of %v, a new LoRA with %v: expected less than nine tenths", name, x[0], fresh[name][0])
		}
		if got, want := adapterOf(t, filepath.Join(started, name)), adapterOf(t, joint); !slices.Equal(got.Pairs[0].A, want.Pairs[0].A) || slices.Equal(got.Pairs[0].B, want.Pairs[0].B) {
			t.Errorf("%s: lora_A changed, or lora_B did not", name)
		}
	}

	out := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	if err := collect.Run(ctx, c, m, list, out, func(p collect.Progress) {
		if p.Step == 2 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other := c
	if err := other.SetStart(filepath.Join(started, "two")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{out, started} {
		if err := collect.Run(t.Context(), other, m, list, dir, nil); err == nil || !strings.Contains(err.Error(), "another configuration") {
			t.Errorf("from another LoRA: %v", err)
		}
	}
	if err := collect.Run(t.Context(), c, m, list, out, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := contents(t, out), contents(t, started); !maps.EqualFunc(got, want, bytes.Equal) {
		t.Error("a run that was stopped comes to other bytes")
	}

	c.Rank, c.DType = 3, "f8"
	if err := collect.Run(t.Context(), c, m, list, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "start from has rank 2") || !strings.Contains(err.Error(), "f8") {
		t.Errorf("a LoRA of another rank: %v", err)
	}
	// The same LoRA as an adapter is the same start.
	c = config()
	c.Seed++
	a := adapterOf(t, joint)
	peft := filepath.Join(t.TempDir(), "adapter")
	if err := lora.Write(peft, a, lora.Options{Format: lora.PEFT}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetStart(peft); err != nil {
		t.Fatal(err)
	}
	if err := collect.Run(t.Context(), c, m, list, started, func(p collect.Progress) {
		if !p.Skipped {
			t.Error("the same LoRA as an adapter makes another step")
		}
	}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{filepath.Join(out, "nowhere"), out} {
		if err := c.SetStart(bad); err == nil || !strings.Contains(err.Error(), "LoRA to start from") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func adapterOf(t *testing.T, dir string) *lora.Adapter {
	t.Helper()
	a, _, err := collect.Last(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
