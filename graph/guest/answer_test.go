package guest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// base is a made-up base model's file.
func base(t testing.TB, o madeup.BaseOptions) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.gguf")
	if err := madeup.WriteBase(path, o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// adapter is a GGUF file of an adapter whose values are all 0.01.
func adapter(t testing.TB, b lora.Base) []byte {
	t.Helper()
	a := &lora.Adapter{Base: b}
	for _, target := range b.Targets {
		a.Pairs = append(a.Pairs, lora.Pair{A: slices.Repeat([]float32{0.01}, b.Rank*target.In), B: slices.Repeat([]float32{0.01}, b.Rank*target.Out)})
	}
	files, err := lora.Files(a, lora.Options{Format: lora.GGUF})
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	for _, f := range files {
		if filepath.Ext(f.Name) == ".gguf" {
			if err := f.Write(&raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	return raw.Bytes()
}

var smallLlama = madeup.BaseOptions{Base: madeup.SmallBase("llama"), Types: []gguf.TensorType{gguf.Q8_0, gguf.Q4_1}, Seed: 1}

func TestAnswer(t *testing.T) {
	whole, a := base(t, smallLlama), adapter(t, smallLlama.Base)
	file, err := gguf.Read(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	lora, err := gguf.Read(bytes.NewReader(a), int64(len(a)))
	if err != nil {
		t.Fatal(err)
	}
	// No byte of the tensors is needed.
	head := whole[:file.Tensors[0].Offset]
	out := call(t, guest.Answer, guest.Message{{guest.PartBase, head}, {guest.PartAdapter, a},
		{guest.PartOptions, object(t, guest.AnswerOptions{Prompt: "the hen", System: "s", Length: 80, BaseBytes: int64(len(whole))})}})
	var info guest.AnswerInfo
	if err := json.Unmarshal(get(t, out, guest.PartInfo), &info); err != nil {
		t.Fatal(err)
	}
	tokenizer, err := llama.TokenizerFromGGUF(file)
	if err != nil {
		t.Fatal(err)
	}
	prompt, err := tokenizer.Prompt("s", "the hen")
	if err != nil {
		t.Fatal(err)
	}
	step, err := llama.NewStep(file, lora, llama.StepOptions{Length: 80, Limits: graph.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	want, err := step.Program.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, out, guest.PartProgram), want) {
		t.Error("the program is another than the native one")
	}
	if !slices.Equal(info.Prompt, prompt) || info.Read != llama.ReadTokens || !slices.Equal(info.Factor, []float32{0, 2}) || !slices.Equal(info.Ends, []int32{257}) ||
		!slices.Equal(info.Tensors, step.Tensors) {
		t.Errorf("info %+v", info)
	}
	pieces := get(t, out, guest.PartPieces)
	for id := range tokenizer.Size() {
		n := binary.LittleEndian.Uint32(pieces)
		if string(pieces[4:4+n]) != string(tokenizer.Bytes(int32(id))) {
			t.Fatalf("piece %d is %q", id, pieces[4:4+n])
		}
		pieces = pieces[4+n:]
	}
	if len(pieces) != 0 {
		t.Errorf("%d bytes behind the pieces", len(pieces))
	}
}

func TestAnswerRefuses(t *testing.T) {
	whole, a := base(t, smallLlama), adapter(t, smallLlama.Base)
	good := guest.AnswerOptions{Prompt: "the hen", Length: 80, BaseBytes: int64(len(whole))}
	deeper := smallLlama.Base
	deeper.Targets = slices.Clone(deeper.Targets)
	for _, target := range smallLlama.Base.Targets[:7] {
		target.Name = strings.Replace(target.Name, "layers.0", "layers.2", 1)
		deeper.Targets = append(deeper.Targets, target)
	}
	qwen := madeup.BaseOptions{Base: madeup.SmallBase("qwen2"), Types: []gguf.TensorType{gguf.F32}}
	fives := madeup.BaseOptions{Base: smallLlama.Base, Types: []gguf.TensorType{gguf.Q5_1}}
	sized := func(raw []byte) guest.AnswerOptions {
		return guest.AnswerOptions{Prompt: "p", Length: 80, BaseBytes: int64(len(raw))}
	}
	for _, c := range []struct {
		name          string
		base, adapter []byte
		options       guest.AnswerOptions
		want          string
	}{
		{"no prompt", whole, a, guest.AnswerOptions{Length: 80, BaseBytes: good.BaseBytes}, "the prompt is empty"},
		{"no room", whole, a, guest.AnswerOptions{Prompt: "p", BaseBytes: good.BaseBytes}, "at most 0 are planned for"},
		{"long", whole, a, guest.AnswerOptions{Prompt: strings.Repeat("p", 3000), Length: 80, BaseBytes: good.BaseBytes}, "at most 80 are planned for"},
		{"endless", whole, a, guest.AnswerOptions{Prompt: "p", Length: 1 << 40, BaseBytes: good.BaseBytes}, "expected at most 2048"},
		{"short head", whole[:2000], a, good, "first 2000 bytes"},
		{"size too small", whole, a, guest.AnswerOptions{Prompt: "p", Length: 80, BaseBytes: 100}, "base_bytes is 100"},
		{"truncated", whole, a, guest.AnswerOptions{Prompt: "p", Length: 80, BaseBytes: good.BaseBytes - 1000}, "base_bytes"},
		{"no base", []byte("what?"), a, guest.AnswerOptions{Prompt: "p", Length: 80, BaseBytes: 5}, "the base: gguf"},
		{"adapter as base", a, a, sized(a), "the base"},
		{"base as adapter", whole, whole, good, `general.type is "model"`},
		{"cut adapter", whole, a[:len(a)-8], good, "the adapter: gguf"},
		{"other architecture", base(t, qwen), a, sized(base(t, qwen)), "architecture"},
		{"more layers", whole, adapter(t, deeper), good, "2 layers"},
		{"type", base(t, fives), a, sized(base(t, fives)), "type Q5_1, expected F32"},
	} {
		_, err := answers(t, guest.Answer, guest.Message{{guest.PartBase, c.base}, {guest.PartAdapter, c.adapter}, {guest.PartOptions, object(t, c.options)}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// A Program that comes out is valid, whatever the two files say.
func FuzzAnswer(f *testing.F) {
	whole, a := base(f, smallLlama), adapter(f, smallLlama.Base)
	file, err := gguf.Read(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:file.Tensors[0].Offset], a, object(f, guest.AnswerOptions{Prompt: "the hen", Length: 80, BaseBytes: int64(len(whole))}))
	f.Fuzz(func(t *testing.T, base, adapter, options []byte) {
		out, err := answers(t, guest.Answer, guest.Message{{guest.PartBase, base}, {guest.PartAdapter, adapter}, {guest.PartOptions, options}})
		if err != nil {
			return
		}
		if _, err := graph.Decode(get(t, out, guest.PartProgram)); err != nil {
			t.Error(err)
		}
	})
}
