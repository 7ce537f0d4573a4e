// Package lora converts between weight tokens and LoRA adapters (reference section c):
// the order of modules, the tilings of the reference and any other that divides the
// matrices, tokens both ways in float32 or bit for bit in bfloat16, and adapter files
// in and out (PEFT, GGUF, MLX). Tokens come from package decoder; files go to the user.
//
// A Base says which linear layers have a LoRA pair, a Tiling how their matrices are cut,
// a Layout is the two together, checked. Everything read from a file is untrusted:
// names, shapes and values are checked, and errors name the file, tensor or module.
package lora

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// Base is a base model as far as LoRA sees it: its LoRA targets, in the order of the
// weight tokens.
type Base struct {
	Model        string   `json:"model"`        // Hugging Face id
	Architecture string   `json:"architecture"` // GGUF's general.architecture: "llama", "qwen2"
	Heads        int      `json:"heads"`        // attention heads; 0 if unknown
	KVHeads      int      `json:"kv_heads"`     // key/value heads; 0 if unknown
	Rank         int      `json:"rank"`
	Alpha        float64  `json:"alpha"`
	Targets      []Target `json:"targets"`
}

// Target is one linear layer with a LoRA pair: A (rank, In) and B (Out, rank).
type Target struct {
	// Name is the module's path in the base model: "model.layers.0.self_attn.q_proj".
	Name string `json:"name"`
	In   int    `json:"in"`
	Out  int    `json:"out"`
}

// maxAxis bounds every axis of a matrix: far above real models, far below overflow.
const maxAxis = 1 << 24

// Validate checks rank, alpha, names, sizes and the order of the targets.
func (b Base) Validate() error {
	if b.Rank < 1 || b.Rank > maxAxis {
		return fmt.Errorf("lora: rank %d, expected 1 or more", b.Rank)
	}
	// GGUF files hold it as float32, where 0 would mean that nothing is scaled.
	if f := float64(float32(b.Alpha)); !(f > 0) || math.IsInf(f, 0) {
		return fmt.Errorf("lora: alpha %v, expected a positive number that float32 holds", b.Alpha)
	}
	if len(b.Targets) == 0 {
		return fmt.Errorf("lora: the base model has no LoRA targets")
	}
	before := module{layer: -1}
	for i, t := range b.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return err
		}
		if t.In < 1 || t.Out < 1 || t.In > maxAxis || t.Out > maxAxis {
			return fmt.Errorf("lora: module %s: size (out %d, in %d) is out of range", t.Name, t.Out, t.In)
		}
		if i > 0 && m.prefix != before.prefix {
			return fmt.Errorf("lora: module %s: expected it under %q as the modules before it", t.Name, before.prefix)
		}
		if !before.less(m) {
			return fmt.Errorf("lora: module %s: out of order or twice: the order is by layer, then q, k, v, o, up, gate, down", t.Name)
		}
		before = m
	}
	return nil
}

// SortTargets puts targets into the order of the weight tokens (reference c.1): by
// layer, inside a layer q, k, v, o, up, gate, down. Another module is an error.
func SortTargets(targets []Target) error {
	modules := make(map[string]module, len(targets))
	for _, t := range targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return err
		}
		modules[t.Name] = m
	}
	sort.SliceStable(targets, func(i, j int) bool { return modules[targets[i].Name].less(modules[targets[j].Name]) })
	return nil
}

// slot is the place of a module inside its layer.
type slot int

const (
	slotQ slot = iota
	slotK
	slotV
	slotO
	slotUp
	slotGate
	slotDown
)

// slots are the modules that the reference knows: path inside a layer, and llama.cpp's
// name of the same matrix.
var slots = [...]struct{ path, gguf string }{
	slotQ:    {"self_attn.q_proj", "attn_q"},
	slotK:    {"self_attn.k_proj", "attn_k"},
	slotV:    {"self_attn.v_proj", "attn_v"},
	slotO:    {"self_attn.o_proj", "attn_output"},
	slotUp:   {"mlp.up_proj", "ffn_up"},
	slotGate: {"mlp.gate_proj", "ffn_gate"},
	slotDown: {"mlp.down_proj", "ffn_down"},
}

// leaf is the last part of the module's name: "q_proj".
func (s slot) leaf() string { return slots[s].path[strings.IndexByte(slots[s].path, '.')+1:] }

// module is a target's name taken apart: prefix "model.layers.", layer, slot.
type module struct {
	prefix string
	layer  int
	slot   slot
}

func (m module) less(n module) bool {
	return m.layer < n.layer || m.layer == n.layer && m.slot < n.slot
}

func parseModule(name string) (module, error) {
	const mark = "layers."
	if i := strings.Index(name, mark); i >= 0 && (i == 0 || name[i-1] == '.') {
		m := module{prefix: name[:i+len(mark)]}
		number, rest, _ := strings.Cut(name[i+len(mark):], ".")
		layer, err := strconv.Atoi(number)
		if err == nil && layer >= 0 && layer < maxAxis && strconv.Itoa(layer) == number {
			m.layer = layer
			for k := range slots {
				if rest == slots[k].path {
					m.slot = slot(k)
					return m, nil
				}
			}
		}
	}
	return module{}, fmt.Errorf("lora: module %s: expected the name of a layer's self_attn.{q,k,v,o}_proj or mlp.{up,gate,down}_proj, as model.layers.0.self_attn.q_proj", strconv.Quote(name))
}
