package fit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// put writes a file of a fuzzed folder.
func put(t testing.TB, dir, name string, raw []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// smallRun is the run.json and the checkpoint of a decoder of one small layer.
func smallRun(t testing.TB, average float64) (record, checkpoint []byte) {
	t.Helper()
	c := config(false)
	c.Decoder = decoder.Config{Class: decoder.FullCond, KernelSize: 1, Features: [][3]int{{2, 8, 2}, {1, 2, 2}}}
	c.Average = average
	record, err := json.Marshal(fit.Record{Config: c, DataSets: []string{"a"}, Pairs: []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	var list []safetensors.Tensor
	for _, prefix := range []string{"", "first.", "second.", "average."} {
		for _, x := range c.Decoder.Tensors() {
			n := 1
			for _, d := range x.Shape {
				n *= d
			}
			list = append(list, safetensors.FromFloat32s(prefix+x.Name, safetensors.F16, make([]float32, n), x.Shape...))
		}
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, map[string]string{"curve": `{"points":[{"l":1,"n":2,"r":0.1}]}`}); err != nil {
		t.Fatal(err)
	}
	return record, b.Bytes()
}

// A run's folder, which export reads and a later run resumes.
func FuzzRun(f *testing.F) {
	for _, average := range []float64{0, 0.9} {
		record, checkpoint := smallRun(f, average)
		f.Add(record, checkpoint, []byte(`{"tasks":[],"limit":0.5}`))
	}
	f.Add([]byte(`{"config":{}}`), []byte{}, []byte(`{}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, record, checkpoint, coverage []byte) {
		put(t, dir, "run.json", record)
		put(t, dir, "checkpoint.safetensors", checkpoint)
		put(t, dir, "coverage.json", coverage)
		fit.ReadCoverage(dir)
		r, tensors, steps, err := fit.Fitted(1, dir)
		if err != nil {
			return
		}
		if want := r.Config.Decoder.Tensors(); len(tensors) != len(want) || steps < 0 {
			t.Errorf("%d tensors after %d steps, want %d", len(tensors), steps, len(want))
		}
	})
}

// What collect wrote, which fit reads.
func FuzzOpenData(f *testing.F) {
	dir := f.TempDir()
	adapterConfig, err := os.ReadFile(golden.Path("tokens", "mini_0.5B", "adapter_config.json"))
	if err != nil {
		f.Fatal(err)
	}
	weights, err := os.ReadFile(golden.Path("tokens", "mini_0.5B", "adapter_model.safetensors"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`[{"prompt":"a"}]`), adapterConfig, weights[:8])
	f.Add([]byte(`["a"]`), adapterConfig, weights)
	f.Fuzz(func(t *testing.T, prompts, config, checkpoint []byte) {
		put(t, dir, "set/prompts.json", prompts)
		put(t, dir, "set/adapter_config.json", config)
		put(t, dir, "set/checkpoints/000001.safetensors", checkpoint)
		d, err := fit.OpenData(dir, nil, "", tiling)
		if err == nil && (len(d.Sets) != 1 || len(d.Sets[0].Prompts) == 0) {
			t.Errorf("%+v and no error", d)
		}
	})
}

// Whatever a killed run left of metrics.jsonl, what is kept are whole lines of its first
// steps.
func FuzzTrimMetrics(f *testing.F) {
	f.Add([]byte("{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":1}\n{\"st"), 1)
	f.Add([]byte("{\"step\":1}"), 5)
	f.Add([]byte("\n\n"), 0)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte, steps int) {
		put(t, dir, "metrics.jsonl", raw)
		path := filepath.Join(dir, "metrics.jsonl")
		if err := fit.TrimMetrics(path, steps); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(append(raw, '\n'), kept) {
			t.Fatalf("%q became %q, %v", raw, kept, err)
		}
		if len(kept) > 0 && kept[len(kept)-1] != '\n' {
			t.Fatalf("%q: the next line would join the last one of %q", raw, kept)
		}
		for _, line := range bytes.Split(kept, []byte("\n")) {
			var m fit.Metrics
			if len(line) > 0 && (json.Unmarshal(line, &m) != nil || m.Step > steps) {
				t.Fatalf("kept %q", line)
			}
		}
	})
}
