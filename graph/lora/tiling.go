package lora

import (
	"fmt"
	"strings"
)

// Tiling is the size of a weight token and of the chunk of a matrix in it.
type Tiling struct {
	// Kind is the reference's tokenizer class, or "custom".
	Kind   string `json:"kind"`
	Height int    `json:"height"` // h, two frame rows included
	Width  int    `json:"width"`  // w, two frame columns included
	// Chunk is the number of columns of a chunk (its rows are the rank). 0 where the
	// reference's fixed chunk counts decide (reference c.2), see ChunkCounts.
	Chunk int `json:"chunk"`
}

// The tilings: the reference's four tokenizer classes, and equal chunks of Tiling.Chunk
// columns everywhere.
const (
	Qwen05B   = "Qwen2505LoRA_Tokenizer2D"
	Qwen15B   = "Qwen2515LoRA_Tokenizer2D"
	Qwen3BVL  = "Qwen253BVL_LoRA_Tokenizer2D"
	Qwen7B    = "Qwen257BLoRA_Tokenizer2D"
	CustomCut = "custom"
)

// chunks are the fixed numbers of chunks by the axis that is cut, and the real base
// model of a tokenizer class.
type chunks struct {
	kind, alias       string
	hidden, kv, inter int // numbers of chunks
	layers, rank      int
	width             int // columns of a chunk in the real model
	model, arch       string
	heads, kvHeads    int
}

// Reference c.2: chunk counts, layers, rank and sizes. Heads are the models' own.
var reference = []chunks{
	{Qwen05B, "0.5B", 7, 1, 38, 24, 8, 128, "Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 14, 2},
	{Qwen15B, "1.5B", 6, 1, 35, 28, 16, 256, "Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 12, 2},
	{Qwen3BVL, "3B-VL", 8, 1, 43, 36, 16, 256, "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2vl", 16, 2},
	{Qwen7B, "7B", 7, 1, 37, 28, 16, 512, "Qwen/Qwen2.5-7B-Instruct", "qwen2", 28, 4},
}

// Kind is the full name of a tiling's kind: a tokenizer class by its name or by its
// alias (0.5B, 1.5B, 3B-VL, 7B), or "custom".
func Kind(name string) (string, error) {
	if name == CustomCut {
		return name, nil
	}
	c, err := lookup(name)
	if err != nil {
		return "", err
	}
	return c.kind, nil
}

func lookup(name string) (chunks, error) {
	known := make([]string, 0, len(reference))
	for _, c := range reference {
		if name == c.kind || strings.EqualFold(name, c.alias) {
			return c, nil
		}
		known = append(known, c.kind+" ("+c.alias+")")
	}
	return chunks{}, fmt.Errorf("lora: unknown tiling %q, expected %s or %s", name, strings.Join(known, ", "), CustomCut)
}

// ChunkCounts are the numbers of chunks of A and of the transposed B of a module under
// a tokenizer class of the reference. name is a target's name, kind as for Kind.
func ChunkCounts(kind, name string) (a, b int, err error) {
	c, err := lookup(kind)
	if err != nil {
		return 0, 0, err
	}
	m, err := parseModule(name)
	if err != nil {
		return 0, 0, err
	}
	a, b = c.counts(m.slot)
	return a, b, nil
}

func (c chunks) counts(s slot) (a, b int) {
	switch s {
	case slotK, slotV:
		return c.hidden, c.kv
	case slotUp, slotGate:
		return c.hidden, c.inter
	case slotDown:
		return c.inter, c.hidden
	}
	return c.hidden, c.hidden
}

// ReferenceBase is the base model that a tokenizer class of the reference is made for,
// with its tiling. Alpha is twice the rank, as in all adapters of the reference.
func ReferenceBase(kind string) (Base, Tiling, error) {
	c, err := lookup(kind)
	if err != nil {
		return Base{}, Tiling{}, err
	}
	b := Base{Model: c.model, Architecture: c.arch, Heads: c.heads, KVHeads: c.kvHeads, Rank: c.rank, Alpha: 2 * float64(c.rank)}
	for layer := range c.layers {
		for k := range slots {
			in, out := c.counts(slot(k))
			b.Targets = append(b.Targets, Target{
				Name: fmt.Sprintf("model.layers.%d.%s", layer, slots[k].path),
				In:   in * c.width, Out: out * c.width,
			})
		}
	}
	return b, Tiling{Kind: c.kind, Height: c.rank + 2, Width: c.width + 2}, nil
}

// WithoutFrame is the token size that the reference computes the importance weights of
// its 1.5B, 3B and 7B sets with: no room for the frame, which overwrites data there.
func (t Tiling) WithoutFrame() Tiling {
	t.Height -= 2
	t.Width -= 2
	return t
}

// cut is the number of columns of a chunk of each of a target's two matrices.
func (t Tiling) cut(target Target) (a, b int, err error) {
	if t.Kind == CustomCut {
		if t.Chunk < 1 {
			return 0, 0, fmt.Errorf("lora: a custom tiling needs chunk, the columns of a chunk; it is %d", t.Chunk)
		}
		if target.In%t.Chunk != 0 || target.Out%t.Chunk != 0 {
			axis, size := "in", target.In
			if size%t.Chunk == 0 {
				axis, size = "out", target.Out
			}
			return 0, 0, fmt.Errorf("lora: module %s: axis %s of size %d does not divide into chunks of %d", target.Name, axis, size, t.Chunk)
		}
		return t.Chunk, t.Chunk, nil
	}
	na, nb, err := ChunkCounts(t.Kind, target.Name)
	if err != nil {
		return 0, 0, err
	}
	if t.Chunk != 0 {
		return 0, 0, fmt.Errorf("lora: tiling %s has fixed chunk counts: leave chunk out, it is %d", t.Kind, t.Chunk)
	}
	if target.In%na != 0 {
		return 0, 0, fmt.Errorf("lora: module %s: axis in of size %d does not divide into %d chunks", target.Name, target.In, na)
	}
	if target.Out%nb != 0 {
		return 0, 0, fmt.Errorf("lora: module %s: axis out of size %d does not divide into %d chunks", target.Name, target.Out, nb)
	}
	return target.In / na, target.Out / nb, nil
}
