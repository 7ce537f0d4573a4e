package lora

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// MLXName are the weights of an adapter of mlx-lm. Its settings lie in ConfigName, as
// PEFT's do.
const MLXName = "adapters.safetensors"

const (
	mlxA = ".lora_a" // (in, rank)
	mlxB = ".lora_b" // (rank, out)
)

// mlxConfig is adapter_config.json as mlx-lm reads it. The module's output changes by
// scale·x·a·b.
type mlxConfig struct {
	Kind string `json:"fine_tune_type"`
	// NumLayers counts from the last block; -1 is all of them.
	NumLayers int `json:"num_layers"`
	LoRA      struct {
		Rank    int      `json:"rank"`
		Scale   *float64 `json:"scale"`
		Dropout float64  `json:"dropout"`
		Keys    []string `json:"keys"` // inside a block: "self_attn.q_proj"
	} `json:"lora_parameters"`
	Model string `json:"model,omitempty"`
}

func mlxFiles(a *Adapter, o Options) ([]File, error) {
	switch o.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		return nil, fmt.Errorf("lora: MLX adapters are written as F32, F16 or BF16, not %s", o.DType)
	}
	c := mlxConfig{Kind: "lora", NumLayers: -1, Model: a.Base.Model}
	r := a.Base.Rank
	gain := a.Base.Alpha / float64(r)
	c.LoRA.Rank, c.LoRA.Scale = r, &gain
	var tensors []safetensors.Tensor
	first, last := maxAxis, 0
	for i, t := range a.Base.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return nil, err
		}
		first, last = min(first, m.layer), max(last, m.layer)
		if key := slots[m.slot].path; !slices.Contains(c.LoRA.Keys, key) {
			c.LoRA.Keys = append(c.LoRA.Keys, key)
		}
		tensors = append(tensors,
			safetensors.FromFloat32s(t.Name+mlxA, o.DType, transposed(a.Pairs[i].A, r, t.In), t.In, r),
			safetensors.FromFloat32s(t.Name+mlxB, o.DType, transposed(a.Pairs[i].B, t.Out, r), r, t.Out))
	}
	switch {
	case o.Layers > 0:
		c.NumLayers = o.Layers - first
	case first == 0: // adapters of all layers are the rule
		c.NumLayers = last + 1
	}
	config, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	sort.Slice(tensors, func(i, j int) bool { return tensors[i].Name < tensors[j].Name })
	metadata := map[string]string{"format": "mlx"}
	for _, kv := range o.Provenance.pairs() {
		metadata[kv[0]] = kv[1]
	}
	return []File{
		text2file(ConfigName, append(config, '\n')),
		{Name: MLXName, Write: func(w io.Writer) error { return safetensors.Write(w, tensors, metadata) }},
	}, nil
}

// transposed turns a (rows, columns) matrix over.
func transposed(m []float32, rows, columns int) []float32 {
	out := make([]float32, len(m))
	for i := range rows {
		for j := range columns {
			out[j*rows+i] = m[i*columns+j]
		}
	}
	return out
}

// ReadMLX reads an adapter's folder as mlx-lm saves it. Only plain LoRA of the seven
// linear modules of a layer is taken.
func ReadMLX(dir string) (*Adapter, error) {
	config, err := readSmall(filepath.Join(dir, ConfigName))
	if err != nil {
		return nil, err
	}
	file, err := safetensors.Open(filepath.Join(dir, MLXName))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	a, err := DecodeMLX(config, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return a, nil
}

// DecodeMLX is ReadMLX for the text of adapter_config.json and an open file.
func DecodeMLX(config []byte, file *safetensors.File) (*Adapter, error) {
	var c mlxConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("lora: %s: not the settings of an MLX adapter: %w", ConfigName, err)
	}
	switch {
	case c.Kind != "lora":
		return nil, fmt.Errorf("lora: %s: fine_tune_type is %q, expected \"lora\"", ConfigName, c.Kind)
	case c.LoRA.Rank < 1 || c.LoRA.Rank > maxAxis:
		return nil, fmt.Errorf("lora: %s: rank is %d, expected 1 or more", ConfigName, c.LoRA.Rank)
	case c.LoRA.Scale == nil || !(*c.LoRA.Scale > 0):
		return nil, fmt.Errorf("lora: %s: scale is missing or not positive", ConfigName)
	}
	a := &Adapter{}
	b := &a.Base
	b.Rank, b.Alpha = c.LoRA.Rank, *c.LoRA.Scale*float64(c.LoRA.Rank)
	if isHubID(c.Model) {
		b.Model = c.Model
	}
	if err := b.collectMLX(file); err != nil {
		return nil, err
	}
	b.recognize()
	if err := b.Validate(); err != nil {
		return nil, err
	}
	for _, t := range b.Targets {
		var p Pair
		for _, m := range []struct {
			name          string
			rows, columns int
			into          *[]float32
		}{{t.Name + mlxA, t.In, b.Rank, &p.A}, {t.Name + mlxB, b.Rank, t.Out, &p.B}} {
			values, err := file.Float32s(m.name)
			if err != nil {
				return nil, err
			}
			if err := finite(m.name, values); err != nil {
				return nil, err
			}
			*m.into = transposed(values, m.rows, m.columns)
		}
		a.Pairs = append(a.Pairs, p)
	}
	return a, nil
}

// collectMLX finds the targets among the tensors, pairs them, and puts them in order.
func (b *Base) collectMLX(file *safetensors.File) error {
	for _, t := range file.Tensors {
		name, isA := strings.CutSuffix(t.Name, mlxA)
		if !isA {
			var isB bool
			if name, isB = strings.CutSuffix(t.Name, mlxB); !isB {
				return fmt.Errorf("lora: tensor %q: expected a name that ends in %s or %s", t.Name, mlxA, mlxB)
			}
		}
		switch t.DType {
		case safetensors.F32, safetensors.F16, safetensors.BF16:
		default:
			return fmt.Errorf("lora: tensor %q: type %s, expected F32, F16 or BF16", t.Name, t.DType)
		}
		other := name + mlxB
		if !isA {
			other = name + mlxA
		}
		partner, ok := file.Lookup(other)
		if !ok {
			return fmt.Errorf("lora: tensor %q: its partner %s is missing", t.Name, other)
		}
		if !isA {
			continue
		}
		if len(t.Shape) != 2 || len(partner.Shape) != 2 || t.Shape[1] != b.Rank || partner.Shape[0] != b.Rank {
			return fmt.Errorf("lora: tensors %q and %q: shapes %v and %v, expected (in,%d) and (%d,out)", t.Name, other, t.Shape, partner.Shape, b.Rank, b.Rank)
		}
		b.Targets = append(b.Targets, Target{Name: name, In: t.Shape[0], Out: partner.Shape[1]})
	}
	return SortTargets(b.Targets)
}
