package fit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

func TestScheduleGolden(t *testing.T) {
	raw, err := os.ReadFile(golden.Path("loss", "schedule.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Rate  float64              `json:"learning_rate"`
		Rates map[string][]float64 `json:"lr_used_by_optimizer_step"`
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for name, rates := range want.Rates {
		c := fit.Config{LearningRate: want.Rate}
		if _, err := fmt.Sscanf(name, "warmup%d_total%d", &c.WarmUp, &c.Steps); err != nil {
			t.Fatal(err)
		}
		for i, rate := range rates {
			if got := c.Rate(i); math.Abs(got-rate) > 1e-6*want.Rate {
				t.Errorf("%s, step %d: %v, want %v", name, i, got, rate)
			}
		}
	}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// tinyEncoder is a BERT of random weights with a vocabulary of letters.
func tinyEncoder(t *testing.T) *generator.Package {
	t.Helper()
	vocab := "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
	for c := 'a'; c <= 'z'; c++ {
		vocab += string(c) + "\n##" + string(c) + "\n"
	}
	cfg := encoder.Config{HiddenSize: 6, NumHiddenLayers: 1, NumAttentionHeads: 2, IntermediateSize: 8, MaxPositionEmbeddings: 16,
		TypeVocabSize: 2, VocabSize: 64, LayerNormEps: 1e-12, HiddenAct: "gelu", ModelType: "bert"}
	rng := rand.New(rand.NewPCG(1, 1))
	var list []safetensors.Tensor
	for _, tensor := range cfg.Tensors() {
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		list = append(list, safetensors.FromFloat32s(tensor.Name, safetensors.F32, v, tensor.Shape...))
	}
	dir := filepath.Join(t.TempDir(), "encoder")
	var file bytes.Buffer
	if err := errors.Join(os.Mkdir(dir, 0o755), safetensors.Write(&file, list, nil)); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"config.json": must[[]byte](t)(json.Marshal(cfg)), "vocab.txt": []byte(vocab), "tokenizer_config.json": []byte(`{"do_lower_case": true}`),
		"model.safetensors": file.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := must[*generator.Package](t)(generator.OpenEncoder(dir, 1, cfg.MaxPositionEmbeddings))
	t.Cleanup(func() { p.Close() })
	return p
}

var tiling = lora.Tiling{Kind: "Qwen2505LoRA_Tokenizer2D", Height: 10, Width: 10}

// collected lays two data sets out as package collect does, of golden adapters.
func collected(t *testing.T) string { return collectedSets(t, "one", "two") }

// collectedSets are up to three, the third of the adapters that the others share and the first.
func collectedSets(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	config, err := os.ReadFile(golden.Path("tokens", "mini_0.5B", "adapter_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		write := func(path string, raw []byte) {
			path = filepath.Join(dir, name, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("adapter_config.json", config)
		write("prompts.json", []byte(fmt.Sprintf(`[{"prompt":"a b %c"},{"prompt":"say %c"},{"prompt":"x"}]`, 'd'+i, 'm'-2*i)))
		for j := range 2 {
			raw, err := os.ReadFile(golden.Path("criterion", "mini_0.5B", fmt.Sprintf("%d.safetensors", (i+j)%3)))
			if err != nil {
				t.Fatal(err)
			}
			write(fmt.Sprintf("checkpoints/%06d.safetensors", j+1), raw)
		}
	}
	return dir
}

func config(affine bool) fit.Config {
	c := fit.Defaults()
	c.Tiling = tiling
	c.Texts, c.Length, c.Pads = 2, 8, generator.PadsEncoded
	c.Decoder = decoder.Config{Class: decoder.FullCond, KernelSize: 3, Affine: affine, Features: [][3]int{{2, 8, 6}, {6, 9, 8}, {179, 10, 10}}}
	c.Steps, c.Batch, c.LearningRate, c.SaveEvery = 6, 2, 1e-2, 2
	return c
}

// inBasis lets the decoder make the one coordinate in which two data sets differ.
func inBasis(c *fit.Config) {
	c.Decoder.Tokens = c.Decoder.Output()
	c.Decoder.Features[2] = [3]int{1, 1, 1}
}

func cpu(t *testing.T) backend.Backend {
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

func checkpoint(t *testing.T, dir string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(filepath.Join(dir, "checkpoint.safetensors")))
}

// A run that was stopped, or killed between two checkpoints, and resumed has every bit of
// one that was not.
func TestResumeIsExact(t *testing.T) {
	for _, way := range []struct {
		name       string
		affine     bool
		backend    func(*testing.T) backend.Backend
		devices    int
		accumulate int
		dtype      string
		average    float64
		drop       float64
		basis      bool
	}{
		{"reference", false, cpu, 1, 1, fit.F32, 0, 0, false},
		{"affine", true, cpu, 1, 1, fit.F32, 0, 0, false},
		{"affine in parts, averaged, fewer tokens", true, cpu, 1, 2, fit.F32, 0.9, 0.1, false},
		{"affine on two devices in bfloat16", true, pjrt, 2, 1, fit.BF16, 0.9, 0, false},
		{"in a basis", true, cpu, 1, 2, fit.F32, 0.9, 0, true},
		{"in a basis on two devices in bfloat16", true, pjrt, 2, 1, fit.BF16, 0.9, 0, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
			res, c := fit.Resources{Encoder: tinyEncoder(t), Backend: way.backend(t), Devices: way.devices}, config(way.affine)
			if way.basis {
				inBasis(&c)
			}
			c.Batch, c.Accumulate, c.DType, c.Average, c.TokenDrop = 4, way.accumulate, way.dtype, way.average, way.drop
			whole, parts, killed := t.TempDir(), t.TempDir(), t.TempDir()
			var losses []float64
			result, err := fit.Run(t.Context(), c, data, res, whole, func(p fit.Progress) {
				if p.Stage == "fit" {
					losses = append(losses, p.Loss)
				}
				if p.Stage == "fit" && p.Done == 3 { // the last checkpoint is of step 2
					if err := os.CopyFS(killed, os.DirFS(whole)); err != nil {
						t.Error(err)
					}
				}
			})
			if err != nil || result.Steps != 6 || len(losses) != 6 {
				t.Fatalf("%+v, %v, losses %v", result, err, losses)
			}
			if way.drop == 0 && !(losses[5] < losses[0]) {
				t.Errorf("the loss did not fall: %v", losses)
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err = fit.Run(ctx, c, data, res, parts, func(p fit.Progress) {
				if p.Stage == "fit" && p.Done == 3 {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want context.Canceled", err)
			}
			for _, dir := range []string{parts, killed} {
				if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(checkpoint(t, whole), checkpoint(t, dir)) {
					t.Error("the resumed run's checkpoint differs from the whole one's")
				}
			}
			picture := must[*os.File](t)(os.Open(filepath.Join(whole, "loss.png")))
			defer picture.Close()
			if _, err := png.Decode(picture); err != nil {
				t.Error(err)
			}
			for dir, files := range map[string]int{whole: 1, parts: 2, killed: 2} {
				checkMetrics(t, dir, losses, files)
			}
			record, tensors, steps, err := fit.Fitted(1, whole)
			if err != nil || steps != 6 || len(tensors) != len(c.Decoder.Tensors()) || record.Base.Rank != 8 {
				t.Errorf("%d tensors after %d steps, %v", len(tensors), steps, err)
			}
		})
	}
}

// metricsOf reads a run's metrics.jsonl, which ends with a whole line.
func metricsOf(t *testing.T, dir string) []fit.Metrics {
	t.Helper()
	var list []fit.Metrics
	for line := range strings.SplitSeq(strings.TrimSuffix(string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "metrics.jsonl")))), "\n"), "\n") {
		var m fit.Metrics
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("metrics.jsonl, line %d: %s: %v", len(list)+1, line, err)
		}
		list = append(list, m)
	}
	return list
}

// checkMetrics compares metrics.jsonl with the losses of all steps, and counts the files of
// TensorBoard's, of which each start of a run makes one.
func checkMetrics(t *testing.T, dir string, losses []float64, files int) {
	t.Helper()
	lines := metricsOf(t, dir)
	if len(lines) != len(losses) {
		t.Fatalf("metrics.jsonl has %d lines, want %d", len(lines), len(losses))
	}
	for i, m := range lines {
		if m.Step != i+1 || m.Loss != losses[i] || !(m.Norm > 0) || !(m.Seconds > 0) {
			t.Errorf("metrics.jsonl, line %d: %+v; want loss %v", i+1, m, losses[i])
		}
	}
	if events := must[[]string](t)(filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))); len(events) != files {
		t.Errorf("event files %q, want %d", events, files)
	}
}

func TestAnotherConfigurationIsRefused(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	res, c, dir := fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, config(true), t.TempDir()
	c.Steps = 2
	if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err != nil {
		t.Fatal(err)
	}
	before := checkpoint(t, dir)
	c.Batch = 1
	if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err == nil || !strings.Contains(err.Error(), "batch is 1, there it is 2") {
		t.Fatalf("got %v", err)
	}
	if err := fit.CheckFolder(dir, &c); err == nil || !strings.Contains(err.Error(), "batch is 1, there it is 2") {
		t.Errorf("before anything is read: %v", err)
	}
	if !bytes.Equal(before, checkpoint(t, dir)) {
		t.Error("the checkpoint was changed")
	}
}

// Checkpoints that do not belong together are all named, with what is wrong.
func TestForeignCheckpoints(t *testing.T) {
	dir := collected(t)
	write := func(set, file string, rank, in, out int, bad float32) {
		base := lora.Base{Model: "x", Rank: rank, Alpha: 4, Targets: []lora.Target{{Name: "model.layers.0.self_attn.q_proj", In: in, Out: out}}}
		a := &lora.Adapter{Base: base, Pairs: []lora.Pair{{A: make([]float32, rank*in), B: make([]float32, rank*out)}}}
		a.Pairs[0].B[0] = bad
		files := must[[]lora.File](t)(lora.Files(a, lora.Options{Format: lora.PEFT, DType: safetensors.F32}))
		for _, f := range files {
			path := map[string]string{"adapter_model.safetensors": filepath.Join("checkpoints", file), "adapter_config.json": "adapter_config.json"}[f.Name]
			if path == "" {
				continue
			}
			var raw bytes.Buffer
			if err := f.Write(&raw); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, set, "checkpoints"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, set, path), raw.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, set, "prompts.json"), []byte(`["p"]`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("shape", "1.safetensors", 2, 4, 6, 0)
	write("rank", "1.safetensors", 3, 4, 4, 0)
	write("infinite", "1.safetensors", 2, 4, 4, 0)
	broken := filepath.Join(dir, "infinite", "checkpoints", "1.safetensors")
	raw := must[[]byte](t)(os.ReadFile(broken))
	copy(raw[len(raw)-4:], []byte{0, 0, 0x80, 0x7f})
	if err := os.WriteFile(broken, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := fit.OpenData(dir, nil, "", tiling)
	for _, want := range []string{"data set shape: 1.safetensors", "data set rank: 1.safetensors: rank 3", "data set infinite", "Inf"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	c := config(false)
	c.Batch, c.Clip, c.Pads, c.Texts = 0, -1, "x", 3
	err := c.Validate()
	for _, want := range []string{"batch 0", "clip is -1", `pads "x"`, "texts 3"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
	dir := collected(t)
	broken := filepath.Join(dir, "one", "checkpoints", "000002.safetensors")
	raw := must[[]byte](t)(os.ReadFile(broken))
	if err := os.WriteFile(broken, raw[:len(raw)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "two", "prompts.json"), []byte("[]"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = fit.OpenData(dir, nil, "", tiling)
	for _, want := range []string{"one", "000002.safetensors", "two", "no prompt"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
}
