package lora

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

// ReadGGUF reads a LoRA adapter as llama.cpp loads it. Only LoRA of the seven linear
// modules of a block is taken, as F32, F16, BF16 or Q8_0. Modules of different ranks get
// the largest of all, as in ReadPEFT.
//
// llama.cpp keeps the rows of q and k of some architectures (llama) in an order of its own, which
// is undone; how many heads there are is in files that this package wrote, else spec must
// say it. spec may be nil.
func ReadGGUF(path string, spec *Spec) (*Adapter, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := DecodeGGUF(f, spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// DecodeGGUF is ReadGGUF for a file that is open already.
func DecodeGGUF(f *gguf.File, spec *Spec) (*Adapter, error) {
	text := func(key string) string {
		kv, _ := f.Lookup(key)
		s, _ := kv.Value.(string)
		return s
	}
	if kind := text("general.type"); kind != "adapter" {
		return nil, fmt.Errorf("lora: general.type is %q, expected \"adapter\": this file is no adapter", kind)
	}
	if kind := text("adapter.type"); kind != "lora" {
		return nil, fmt.Errorf("lora: adapter.type is %q, expected \"lora\"", kind)
	}
	if _, ok := f.Lookup("adapter.alora.invocation_tokens"); ok {
		return nil, fmt.Errorf("lora: the adapter has invocation tokens: only plain LoRA is read")
	}
	a := &Adapter{}
	b := &a.Base
	b.Architecture = text("general.architecture")
	if err := knownArchitecture(b.Architecture); err != nil {
		return nil, err
	}
	b.Model = ggufModel(f, "general.base_model.0.repo_url", "general.repo_url", "general.base_model.0.name")
	b.Heads, b.KVHeads = ggufNumber(f, b.Architecture+keyHeads), ggufNumber(f, b.Architecture+keyKVHeads)
	ranks, err := b.collectGGUF(f)
	if err != nil {
		return nil, err
	}
	alpha, _ := f.Lookup("adapter.lora.alpha")
	var ok bool
	if b.Alpha, ok = alpha.Value.(float64); !ok {
		return nil, fmt.Errorf("lora: adapter.lora.alpha is %v, expected a float", alpha.Value)
	}
	stored := make([]inFile, len(ranks))
	for i, rank := range ranks {
		stored[i] = inFile{rank: rank, factor: float64(b.Rank) / float64(rank)}
		if b.Alpha == 0 { // llama.cpp's way to say that nothing is scaled
			stored[i].factor = 1
		}
	}
	if b.Alpha == 0 {
		b.Alpha = float64(b.Rank)
	}
	if err := bounded(*b, stored); err != nil {
		return nil, fmt.Errorf("lora: %w", err)
	}
	if err := b.Validate(); err != nil {
		return nil, err
	}
	if spec != nil {
		if err := spec.Fit(b); err != nil {
			return nil, err
		}
	}
	return a, a.readGGUF(f, stored)
}

// collectGGUF finds the targets among the tensors, pairs them, and puts them in order. It
// gives the rank of each.
func (b *Base) collectGGUF(f *gguf.File) ([]int, error) {
	ranks := map[string]int{}
	paths := map[string]string{}
	for _, s := range slots {
		paths[s.gguf] = s.path
	}
	if len(f.Tensors) == 0 {
		return nil, fmt.Errorf("lora: the adapter has no tensors")
	}
	for _, t := range f.Tensors {
		whole, isA := strings.CutSuffix(t.Name, ggufA)
		if !isA {
			var isB bool
			if whole, isB = strings.CutSuffix(t.Name, ggufB); !isB {
				return nil, fmt.Errorf("lora: tensor %q: expected a name that ends in %s or %s", t.Name, ggufA, ggufB)
			}
		}
		name := strings.TrimSuffix(whole, ".weight")
		rest, _ := strings.CutPrefix(name, "blk.")
		number, leaf, _ := strings.Cut(rest, ".")
		path, known := paths[leaf]
		layer, err := strconv.Atoi(number)
		if !known || err != nil || layer < 0 || layer >= maxAxis || whole != fmt.Sprintf("blk.%d.%s.weight", layer, leaf) {
			return nil, fmt.Errorf("lora: tensor %q: expected the name of a block's attn_{q,k,v,output} or ffn_{up,gate,down}, as blk.0.attn_q.weight%s", t.Name, ggufA)
		}
		if len(t.Shape) != 2 {
			return nil, fmt.Errorf("lora: tensor %q: shape %v, expected a matrix", t.Name, t.Shape)
		}
		switch t.Type {
		case gguf.F32, gguf.F16, gguf.BF16, gguf.Q8_0:
		default:
			return nil, fmt.Errorf("lora: tensor %q: type %s, expected F32, F16, BF16 or Q8_0", t.Name, t.Type)
		}
		if !isA {
			if _, ok := f.Tensor(whole + ggufA); !ok {
				return nil, fmt.Errorf("lora: tensor %q: its partner %s is missing", t.Name, ggufA)
			}
			continue
		}
		partner, ok := f.Tensor(whole + ggufB)
		if !ok {
			return nil, fmt.Errorf("lora: tensor %q: its partner %s is missing", t.Name, ggufB)
		}
		if t.Shape[1] < 1 || t.Shape[1] > maxAxis || len(partner.Shape) != 2 || partner.Shape[0] != t.Shape[1] {
			return nil, fmt.Errorf("lora: tensors %q and %q: shapes %v and %v, expected [in,rank] and [rank,out]", t.Name, partner.Name, t.Shape, partner.Shape)
		}
		name = fmt.Sprintf("model.layers.%d.%s", layer, path)
		ranks[name], b.Rank = int(t.Shape[1]), max(b.Rank, int(t.Shape[1]))
		b.Targets = append(b.Targets, Target{Name: name, In: int(t.Shape[0]), Out: int(partner.Shape[1])})
	}
	if err := SortTargets(b.Targets); err != nil {
		return nil, err
	}
	list := make([]int, len(b.Targets))
	for i, t := range b.Targets {
		list[i] = ranks[t.Name]
	}
	return list, nil
}

// readGGUF reads the matrices of the targets.
func (a *Adapter) readGGUF(f *gguf.File, stored []inFile) error {
	read := func(name string) ([]float32, error) {
		t, _ := f.Tensor(name)
		raw := make([]byte, t.Bytes)
		if err := f.ReadRange(name, 0, raw); err != nil {
			return nil, err
		}
		values := make([]float32, t.Shape[0]*t.Shape[1])
		if err := gguf.Decode(t.Type, raw, values); err != nil {
			return nil, err
		}
		return values, finite(name, values)
	}
	a.Pairs = make([]Pair, len(a.Base.Targets))
	for i, t := range a.Base.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return err
		}
		p := &a.Pairs[i]
		if p.A, err = read(m.inGGUF() + ".weight" + ggufA); err != nil {
			return err
		}
		if p.B, err = read(m.inGGUF() + ".weight" + ggufB); err != nil {
			return err
		}
		p.widen(t, stored[i], a.Base.Rank)
		if err := finite(m.inGGUF()+".weight"+ggufB, p.B); err != nil {
			return err
		}
		if p.B, err = a.Base.rotary(m.slot, t, p.B, true); err != nil {
			return err
		}
	}
	return nil
}

// ggufNumber is a whole number among the metadata, 0 if it is not there or absurd.
func ggufNumber(f *gguf.File, key string) int {
	kv, _ := f.Lookup(key)
	switch v := kv.Value.(type) {
	case uint64:
		if v <= maxAxis {
			return int(v)
		}
	case int64:
		if v > 0 && v <= maxAxis {
			return int(v)
		}
	}
	return 0
}

// ggufModel is the Hugging Face id that the first of the metadata's keys gives that has one.
func ggufModel(f *gguf.File, keys ...string) string {
	for _, key := range keys {
		kv, _ := f.Lookup(key)
		name, _ := kv.Value.(string)
		name = strings.TrimPrefix(name, "https://huggingface.co/")
		if strings.Contains(name, "/") && isHubID(name) {
			return name
		}
	}
	return ""
}
