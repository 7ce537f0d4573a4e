package lora

import (
	"fmt"
	"io"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// ggufFiles is a LoRA adapter as llama.cpp loads it (its src/llama-adapter.cpp): blocks
// named blk.N, A with ne [in, rank], B with ne [rank, out].
func ggufFiles(a *Adapter, o Options) ([]File, error) {
	var dtype gguf.TensorType
	var fileType uint64 // llama.cpp's llama_ftype
	switch o.DType {
	case safetensors.F32:
		dtype = gguf.F32
	case safetensors.F16:
		dtype, fileType = gguf.F16, 1
	default:
		return nil, fmt.Errorf("lora: GGUF adapters are written as F32 or F16, not %s", o.DType)
	}
	switch a.Base.Architecture {
	case "llama", "qwen2", "qwen2vl":
	case "":
		return nil, fmt.Errorf("lora: a GGUF adapter needs the base model's architecture, which is not known: set \"architecture\" (llama, qwen2 or qwen2vl) in the generator's manifest")
	default:
		return nil, fmt.Errorf("lora: architecture %q has no GGUF names here, expected llama, qwen2 or qwen2vl", a.Base.Architecture)
	}
	var tensors []gguf.Tensor
	add := func(name string, ne0, ne1 int, values []float32) {
		tensors = append(tensors, gguf.Tensor{
			Name: name, Type: dtype, Shape: []int64{int64(ne0), int64(ne1)},
			// A safetensors tensor's data are the same bytes.
			Data: safetensors.FromFloat32s(name, o.DType, values, ne1, ne0).Data,
		})
	}
	r := a.Base.Rank
	for i, t := range a.Base.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return nil, err
		}
		b, err := a.Base.rotary(m.slot, t, a.Pairs[i].B)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("blk.%d.%s.weight.lora_", m.layer, slots[m.slot].gguf)
		add(name+"a", t.In, r, a.Pairs[i].A)
		add(name+"b", r, t.Out, b)
	}
	values := []gguf.KeyValue{
		{Key: "general.architecture", Type: gguf.String, Value: a.Base.Architecture},
		{Key: "general.type", Type: gguf.String, Value: "adapter"},
		{Key: "general.file_type", Type: gguf.Uint32, Value: fileType},
		{Key: "adapter.type", Type: gguf.String, Value: "lora"},
		{Key: "adapter.lora.alpha", Type: gguf.Float32, Value: a.Base.Alpha},
	}
	if a.Base.Model != "" {
		values = append(values,
			gguf.KeyValue{Key: "general.base_model.count", Type: gguf.Uint32, Value: uint64(1)},
			gguf.KeyValue{Key: "general.base_model.0.name", Type: gguf.String, Value: a.Base.Model})
	}
	for _, kv := range o.Provenance.pairs() {
		values = append(values, gguf.KeyValue{Key: kv[0], Type: gguf.String, Value: kv[1]})
	}
	return []File{{Name: GGUFName, Write: func(w io.Writer) error { return gguf.Write(w, values, tensors) }}}, nil
}

// rotary is B (out, rank) with its rows in llama.cpp's order. For the architecture
// "llama" its converter interleaves the two halves of every head of q and k, which its
// rotary embedding takes in pairs: row (head, half, k) becomes (head, k, half).
func (b Base) rotary(s slot, t Target, m []float32) ([]float32, error) {
	heads := b.Heads
	if s == slotK {
		heads = b.KVHeads
	}
	if b.Architecture != "llama" || s != slotQ && s != slotK {
		return m, nil
	}
	if heads < 1 || t.Out%(2*heads) != 0 {
		return nil, fmt.Errorf("lora: module %s: %d rows do not divide into two halves for each of %d heads: set \"heads\" and \"kv_heads\" in the generator's manifest",
			t.Name, t.Out, heads)
	}
	half, r := t.Out/heads/2, b.Rank
	out := make([]float32, 0, len(m))
	for head := range heads {
		for k := range half {
			for side := range 2 {
				row := (head*2+side)*half + k
				out = append(out, m[row*r:(row+1)*r]...)
			}
		}
	}
	return out, nil
}
