package lora

import (
	"fmt"
	"io"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// The endings of the names of a module's two tensors.
const (
	ggufA = ".lora_a"
	ggufB = ".lora_b"
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
	if a.Base.Architecture == "" {
		return nil, fmt.Errorf("lora: a GGUF adapter needs the base model's architecture, which is not known: name the base, or set \"architecture\" (%s) in the generator's manifest", architectureNames())
	}
	if err := knownArchitecture(a.Base.Architecture); err != nil {
		return nil, err
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
		b, err := a.Base.rotary(m.slot, t, a.Pairs[i].B, false)
		if err != nil {
			return nil, err
		}
		name := m.inGGUF() + ".weight"
		add(name+ggufA, t.In, r, a.Pairs[i].A)
		add(name+ggufB, r, t.Out, b)
	}
	values := []gguf.KeyValue{
		{Key: "general.architecture", Type: gguf.String, Value: a.Base.Architecture},
		{Key: "general.type", Type: gguf.String, Value: "adapter"},
		{Key: "general.file_type", Type: gguf.Uint32, Value: fileType},
		{Key: "adapter.type", Type: gguf.String, Value: "lora"},
		{Key: "adapter.lora.alpha", Type: gguf.Float32, Value: a.Base.Alpha},
	}
	if a.Base.permuted() && a.Base.Heads > 0 && a.Base.KVHeads > 0 {
		// llama.cpp does not look for them; ReadGGUF needs them to undo the order of rows.
		values = append(values,
			gguf.KeyValue{Key: a.Base.Architecture + keyHeads, Type: gguf.Uint32, Value: uint64(a.Base.Heads)},
			gguf.KeyValue{Key: a.Base.Architecture + keyKVHeads, Type: gguf.Uint32, Value: uint64(a.Base.KVHeads)})
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

// The number of heads, and of key/value heads, behind the architecture's name.
const (
	keyHeads   = ".attention.head_count"
	keyKVHeads = ".attention.head_count_kv"
)

// rotary is B (out, rank) with its rows in llama.cpp's order: row (head, half, k) becomes
// (head, k, half). With back, the other way.
func (b Base) rotary(s slot, t Target, m []float32, back bool) ([]float32, error) {
	if !b.permuted() || s != slotQ && s != slotK {
		return m, nil
	}
	heads := b.Heads
	if s == slotK {
		heads = b.KVHeads
	}
	if heads < 1 || t.Out%(2*heads) != 0 {
		return nil, fmt.Errorf("lora: module %s: %d rows do not divide into two halves for each of %d heads: name the base, or set \"heads\" and \"kv_heads\" in the generator's manifest",
			t.Name, t.Out, heads)
	}
	half, r := t.Out/heads/2, b.Rank
	out := make([]float32, len(m))
	for head := range heads {
		for k := range half {
			for side := range 2 {
				from, to := (head*2+side)*half+k, (head*half+k)*2+side
				if back {
					from, to = to, from
				}
				copy(out[to*r:(to+1)*r], m[from*r:(from+1)*r])
			}
		}
	}
	return out, nil
}

// InGGUF is the matrix B (out, rank) of a target with its rows in the order in which
// llama.cpp keeps those of the base's weight, and the name of that weight's tensor.
func (b Base) InGGUF(t Target, m []float32) (name string, rows []float32, err error) {
	module, err := parseModule(t.Name)
	if err != nil {
		return "", nil, err
	}
	rows, err = b.rotary(module.slot, t, m, false)
	return module.inGGUF() + ".weight", rows, err
}

// inGGUF is llama.cpp's name of the module.
func (m module) inGGUF() string { return fmt.Sprintf("blk.%d.%s", m.layer, slots[m.slot].gguf) }
