package lm_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// inGGUF is an adapter as a GGUF file in memory.
func inGGUF(t *testing.T, a *lora.Adapter, o lora.Options) *gguf.File {
	t.Helper()
	o.Format = lora.GGUF
	files, err := lora.Files(a, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name) != ".gguf" {
			continue
		}
		var raw bytes.Buffer
		if err := f.Write(&raw); err != nil {
			t.Fatal(err)
		}
		file, err := gguf.Read(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Fatal("no adapter file")
	return nil
}

// random is an adapter of a base with values large enough to change every answer.
func random(base lora.Base, seed uint64, scale float64) *lora.Adapter {
	rng := rand.New(rand.NewPCG(seed, 7))
	values := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64() * scale)
		}
		return v
	}
	a := &lora.Adapter{Base: base}
	for _, target := range base.Targets {
		a.Pairs = append(a.Pairs, lora.Pair{A: values(base.Rank * target.In), B: values(base.Rank * target.Out)})
	}
	return a
}

// hold plans a step and keeps it on the device.
func hold(t *testing.T, d *gpu.Device, base, adapter *gguf.File, o llama.StepOptions) (*llama.Step, graph.Held) {
	t.Helper()
	o.Limits = d.Limits()
	step, err := llama.NewStep(base, adapter, o)
	if err != nil {
		t.Fatal(err)
	}
	held, err := d.Hold(step.Program, step.Weights(base, adapter))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	return step, held
}

func device(t *testing.T) *gpu.Device {
	t.Helper()
	d, err := gpu.Open(gpu.Options{Device: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// The step that WebGPU runs gives every token of a text the likelihood that this package's
// network gives it, without and with an adapter: both architectures, all types of weights.
func TestStepIsTheModel(t *testing.T) {
	d := device(t)
	mini := madeup.Mini(t)
	for _, c := range []struct {
		name    string
		options madeup.BaseOptions
		dtype   safetensors.DType
	}{
		{"llama", madeup.BaseOptions{Base: madeup.SmallBase("llama"), Types: []gguf.TensorType{gguf.F32}}, safetensors.F32},
		{"qwen2", madeup.BaseOptions{Base: madeup.SmallBase("qwen2"), Types: []gguf.TensorType{gguf.F32}, Untied: true}, safetensors.F32},
		{"llama quantised", madeup.BaseOptions{Base: madeup.SmallBase("llama"), Types: []gguf.TensorType{gguf.Q8_0, gguf.Q4_1, gguf.Q4_0, gguf.F16}, Untied: true}, safetensors.F16},
		{"qwen2 quantised", madeup.BaseOptions{Base: madeup.SmallBase("qwen2"), Types: []gguf.TensorType{gguf.Q4_0, gguf.Q8_0, gguf.BF16, gguf.Q4_1, gguf.F16}}, safetensors.F16},
		{"mini", madeup.BaseOptions{Base: mini, Types: []gguf.TensorType{gguf.F16, gguf.F32}}, safetensors.F32},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "base.gguf")
			c.options.Seed = 3
			if err := madeup.WriteBase(path, c.options); err != nil {
				t.Fatal(err)
			}
			m, err := lm.Load(path, open(t, backend.CPU))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			base, err := gguf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			a := random(m.Config.Base(c.options.Base.Rank, c.options.Base.Alpha), 4, 0.15)
			file := inGGUF(t, a, lora.Options{DType: c.dtype})
			if a, err = lora.DecodeGGUF(file, nil); err != nil { // as F16 rounds it
				t.Fatal(err)
			}
			prompt, err := m.Prompt("be kind", "the theme there")
			if err != nil {
				t.Fatal(err)
			}
			const length = 64
			prompt = prompt[:length-8]
			answer := []int32{1, 200, 256, 258, 260, 97, 98, 257}
			var want [2]float64
			for row, adapter := range []*lora.Adapter{nil, a} {
				score, err := m.Evaluate(t.Context(), []lm.Example{{Prompt: prompt, Answer: answer}}, adapter)
				if err != nil {
					t.Fatal(err)
				}
				want[row] = score.NLL
			}
			step, held := hold(t, d, base, file, llama.StepOptions{Length: length, Logits: true})
			got := likelihood(t, step, held, append(prompt, answer...), len(prompt), false)
			read := likelihood(t, step, held, append(prompt, answer...), len(prompt), true)
			for row := range got {
				if math.Abs(got[row]-want[row]) > 2e-5*want[row] {
					t.Errorf("row %d: %v nats, the network gives %v", row, got[row], want[row])
				}
				if math.Abs(read[row]-want[row]) > 2e-5*want[row] {
					t.Errorf("row %d: %v nats with the prompt read some tokens at a time, the network gives %v", row, read[row], want[row])
				}
			}
			if math.Abs(got[0]-got[1]) < 1e-2 {
				t.Errorf("the adapter changes nothing: %v and %v nats", got[0], got[1])
			}
			// A second text on the same device memory is as if it were the first.
			if again := likelihood(t, step, held, append(prompt, answer...), len(prompt), false); again != got {
				t.Errorf("a second run gave %v, the first %v", again, got)
			}
		})
	}
}

// likelihood is the negative log-likelihood of ids from the index first on, in each row.
// With read, what is before is read some tokens at a time.
func likelihood(t *testing.T, s *llama.Step, h graph.Held, ids []int32, first int, read bool) (nll [2]float64) {
	t.Helper()
	word := binary.LittleEndian.AppendUint32
	run := func(stage, input string, at int, tokens ...int32) *graph.Result {
		var raw []byte
		for range 2 {
			for _, id := range tokens {
				raw = word(raw, uint32(id))
			}
		}
		result, err := h.Run(t.Context(), stage, []graph.Input{{Name: input, Data: raw}, {Name: llama.InputPosition, Data: word(nil, uint32(at))},
			{Name: llama.InputFactor, Data: word(word(nil, math.Float32bits(s.Factor[0])), math.Float32bits(s.Factor[1]))}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	start := 0
	for ; read && start < first-1; start += llama.ReadTokens {
		run(llama.StageRead, llama.InputPrompt, start, ids[start:start+llama.ReadTokens]...)
	}
	for at := min(start, first-1); at < len(ids)-1; at++ {
		result := run(llama.StageAnswer, llama.InputTokens, at, ids[at])
		if at < first-1 {
			continue
		}
		raw, ok := result.Output(llama.OutputLogits)
		if !ok {
			t.Fatal("no logits")
		}
		for row := range nll {
			part := raw[row*len(raw)/2 : (row+1)*len(raw)/2]
			sum, mine := 0.0, 0.0
			for i := 0; i < len(part); i += 4 {
				v := float64(math.Float32frombits(binary.LittleEndian.Uint32(part[i:])))
				sum += math.Exp(v)
				if i/4 == int(ids[at+1]) {
					mine = v
				}
			}
			nll[row] += (math.Log(sum) - mine)
		}
	}
	return nll
}

// SmolLM2's answers are those of the trainer's network, which knows no cache.
func TestStepAnswers(t *testing.T) {
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	m, err := lm.Load(path, open(t, backend.PJRT))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	base, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	a := random(m.Config.Base(8, 16), 1, 0.1)
	file := inGGUF(t, a, lora.Options{})
	const question = "What is the capital of France?"
	prompt, err := m.Prompt("", question)
	if err != nil {
		t.Fatal(err)
	}
	const tokens = 8
	step, held := hold(t, device(t), base, file, llama.StepOptions{Length: len(prompt) + tokens - 1})
	ends, err := llama.Ends(base, m.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	var ids [2][]int32
	if err := step.Answer(t.Context(), held, prompt, ends, func(row int, id int32) error {
		ids[row] = append(ids[row], id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for row, adapter := range []*lora.Adapter{nil, a} {
		want, err := m.Answers(t.Context(), []string{question}, adapter, tokens)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%q", m.Tokenizer.Decode(ids[row]))
		t.Log(got)
		if got != fmt.Sprintf("%q", want[0]) {
			t.Errorf("row %d: %s, the network answers %q", row, got, want[0])
		}
	}
	if slices.Equal(ids[llama.RowBase], ids[llama.RowAdapter]) {
		t.Error("the adapter changes nothing")
	}
}
