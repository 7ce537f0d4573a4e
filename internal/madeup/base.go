package madeup

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// BaseOptions are WriteBase's.
type BaseOptions struct {
	// Base says architecture, heads and the sizes of the linear layers.
	Base lora.Base
	// Types are those of the linear layers and of the embeddings, in turn.
	Types []gguf.TensorType
	// Untied gives the base an output matrix of its own.
	Untied bool
	Seed   uint64
}

// baseTokens are the tokens of a made-up base beside the 256 bytes.
var baseTokens = []string{"<|im_start|>", "<|im_end|>", "he", "Ġt", "Ġthe"}

// WriteBase makes a chat model in GGUF with made-up weights whose bytes are the same every
// time. Its vocabulary is the bytes, three merges and ChatML's tokens.
func WriteBase(path string, o BaseOptions) error {
	b := o.Base
	if len(b.Targets)%7 != 0 || len(b.Targets) == 0 || b.Heads < 1 || b.KVHeads < 1 {
		return fmt.Errorf("made-up base: %d targets, %d heads: expected seven a layer", len(b.Targets), b.Heads)
	}
	hidden, q, kv, mlp := b.Targets[0].In, b.Targets[0].Out, b.Targets[1].Out, b.Targets[4].Out
	random := rand.New(rand.NewPCG(o.Seed, 5))
	var tensors []gguf.Tensor
	add := func(name string, kind gguf.TensorType, scale, shift float32, shape ...int) error {
		n, dims := 1, []int64{}
		for _, d := range shape {
			n *= d
			dims = append(dims, int64(d))
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(random.NormFloat64())*scale + shift
		}
		size, err := gguf.Size(kind, n)
		if err != nil {
			return err
		}
		raw := make([]byte, size)
		if err := gguf.Encode(kind, values, raw); err != nil {
			return err
		}
		tensors = append(tensors, gguf.Tensor{Name: name, Type: kind, Shape: dims, Data: func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		}})
		return nil
	}
	next := 0
	matrix := func(name string, scale float32, in, out int) error {
		next++
		return add(name, o.Types[(next-1)%len(o.Types)], scale, 0, in, out)
	}
	tokens := append(byteTokens(), baseTokens...)
	if err := matrix("token_embd.weight", 0.5, hidden, len(tokens)); err != nil {
		return err
	}
	if o.Untied {
		if err := matrix("output.weight", 0.5, hidden, len(tokens)); err != nil {
			return err
		}
	}
	if err := add("output_norm.weight", gguf.F32, 0.1, 1, hidden); err != nil {
		return err
	}
	for layer := range len(b.Targets) / 7 {
		block := fmt.Sprintf("blk.%d.", layer)
		for _, norm := range []string{"attn_norm", "ffn_norm"} {
			if err := add(block+norm+".weight", gguf.F32, 0.1, 1, hidden); err != nil {
				return err
			}
		}
		for _, m := range []struct {
			name    string
			in, out int
			bias    bool
		}{{"attn_q", hidden, q, true}, {"attn_k", hidden, kv, true}, {"attn_v", hidden, kv, true}, {"attn_output", q, hidden, false},
			{"ffn_up", hidden, mlp, false}, {"ffn_gate", hidden, mlp, false}, {"ffn_down", mlp, hidden, false}} {
			if err := matrix(block+m.name+".weight", 0.15, m.in, m.out); err != nil {
				return err
			}
			if m.bias && b.Architecture == "qwen2" {
				if err := add(block+m.name+".bias", gguf.F32, 0.1, 0, m.out); err != nil {
					return err
				}
			}
		}
	}
	arch := b.Architecture
	number := func(key string, n int) gguf.KeyValue {
		return gguf.KeyValue{Key: arch + "." + key, Type: gguf.Uint32, Value: uint64(n)}
	}
	pre := map[string]string{"llama": "smollm", "qwen2": "qwen2"}[arch]
	values := []gguf.KeyValue{
		{Key: "general.architecture", Type: gguf.String, Value: arch}, {Key: "general.type", Type: gguf.String, Value: "model"},
		number("block_count", len(b.Targets)/7), number("embedding_length", hidden), number("feed_forward_length", mlp),
		number("attention.head_count", b.Heads), number("attention.head_count_kv", b.KVHeads), number("context_length", 512),
		{Key: arch + ".attention.layer_norm_rms_epsilon", Type: gguf.Float32, Value: 1e-5},
		{Key: arch + ".rope.freq_base", Type: gguf.Float32, Value: 10000.0},
		{Key: "tokenizer.ggml.model", Type: gguf.String, Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Type: gguf.String, Value: pre},
		Strings("tokenizer.ggml.tokens", tokens), Strings("tokenizer.ggml.merges", []string{"h e", "Ġ t", "Ġt he"}),
		{Key: "tokenizer.ggml.eos_token_id", Type: gguf.Uint32, Value: uint64(257)},
		{Key: "tokenizer.chat_template", Type: gguf.String, Value: "{# ChatML #}"},
	}
	return atomicfile.Write(path, func(w io.Writer) error { return gguf.Write(w, values, tensors) })
}

// Strings is a list of strings in a GGUF file's metadata.
func Strings(key string, list []string) gguf.KeyValue {
	a := gguf.RawArray{Type: gguf.String, Count: int64(len(list))}
	for _, text := range list {
		a.Data = append(binary.LittleEndian.AppendUint64(a.Data, uint64(len(text))), text...)
	}
	return gguf.KeyValue{Key: key, Type: gguf.Array, Value: a}
}

// byteTokens are GPT-2's 256 characters that stand for bytes.
func byteTokens() []string {
	list := make([]string, 256)
	next := rune(256)
	for b := range list {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r, next = next, next+1
		}
		list[b] = string(r)
	}
	return list
}

// SmallBase is a base of two layers that quantised types fit.
func SmallBase(architecture string) lora.Base {
	b := lora.Base{Model: "made-up/small", Architecture: architecture, Heads: 4, KVHeads: 2, Rank: 4, Alpha: 8}
	for layer := range 2 {
		for i, m := range strings.Fields("self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.up_proj mlp.gate_proj mlp.down_proj") {
			size := [7][2]int{{64, 64}, {64, 32}, {64, 32}, {64, 64}, {64, 96}, {64, 96}, {96, 64}}[i]
			b.Targets = append(b.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", layer, m), In: size[0], Out: size[1]})
		}
	}
	return b
}

// Mini is the base that the made-up generator makes adapters for.
func Mini(t testing.TB) lora.Base {
	t.Helper()
	_, base, _, err := generator.Shape("mini")
	if err != nil {
		t.Fatal(err)
	}
	return base
}
