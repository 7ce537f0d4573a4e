package lora

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sort"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// peftOut is adapter_config.json: only settings that PEFT has long known, since a
// release may refuse keys that it does not know. vLLM reads r, lora_alpha and
// target_modules.
type peftOut struct {
	AlphaPattern  struct{} `json:"alpha_pattern"`
	AutoMapping   *string  `json:"auto_mapping"`
	BaseModel     *string  `json:"base_model_name_or_path"`
	Bias          string   `json:"bias"`
	FanInFanOut   bool     `json:"fan_in_fan_out"`
	InferenceMode bool     `json:"inference_mode"`
	InitWeights   bool     `json:"init_lora_weights"`
	LayersPattern *string  `json:"layers_pattern"`
	Layers        []int    `json:"layers_to_transform"`
	Alpha         any      `json:"lora_alpha"`
	Dropout       float64  `json:"lora_dropout"`
	ModulesToSave []string `json:"modules_to_save"`
	PeftType      string   `json:"peft_type"`
	Rank          int      `json:"r"`
	RankPattern   struct{} `json:"rank_pattern"`
	Revision      *string  `json:"revision"`
	TargetModules []string `json:"target_modules"`
	TaskType      string   `json:"task_type"`
}

func peftFiles(a *Adapter, o Options) ([]File, error) {
	switch o.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		return nil, fmt.Errorf("lora: PEFT adapters are written as F32, F16 or BF16, not %s", o.DType)
	}
	c := peftOut{
		Bias: "none", InferenceMode: true, InitWeights: true, PeftType: "LORA", TaskType: "CAUSAL_LM",
		Rank: a.Base.Rank, Alpha: a.Base.Alpha, TargetModules: a.Base.targetModules(),
	}
	// PEFT's lora_alpha is an int; 16.0 would pass, but not everywhere.
	if a.Base.Alpha == math.Trunc(a.Base.Alpha) && a.Base.Alpha < 1<<31 {
		c.Alpha = int(a.Base.Alpha)
	}
	if a.Base.Model != "" {
		c.BaseModel = &a.Base.Model
	}
	config, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	r := a.Base.Rank
	var tensors []safetensors.Tensor
	for i, t := range a.Base.Targets {
		tensors = append(tensors,
			safetensors.FromFloat32s(prefix+t.Name+suffixA, o.DType, a.Pairs[i].A, r, t.In),
			safetensors.FromFloat32s(prefix+t.Name+suffixB, o.DType, a.Pairs[i].B, t.Out, r))
	}
	sort.Slice(tensors, func(i, j int) bool { return tensors[i].Name < tensors[j].Name })
	metadata := map[string]string{"format": "pt"}
	for _, kv := range o.Provenance.pairs() {
		metadata[kv[0]] = kv[1]
	}
	return []File{
		text2file(ConfigName, append(config, '\n')),
		{Name: WeightsName, Write: func(w io.Writer) error { return safetensors.Write(w, tensors, metadata) }},
	}, nil
}

// targetModules are the shortest names under which PEFT finds these modules and no
// others: their last parts ("q_proj") where all layers from 0 on have them all, else
// full names. Vision models have layers of the same last parts outside the language
// model, so they get full names too.
func (b Base) targetModules() []string {
	var full, leaves []string
	layers := map[int]int{} // layer to number of its modules
	seen := map[slot]bool{}
	last := 0
	for _, t := range b.Targets {
		full = append(full, t.Name)
		m, err := parseModule(t.Name)
		if err != nil {
			return full
		}
		if !seen[m.slot] {
			seen[m.slot] = true
			leaves = append(leaves, m.slot.leaf())
		}
		layers[m.layer]++
		last = max(last, m.layer)
	}
	if _, known := architectures[b.Architecture]; b.Architecture != "" && !known || architectures[b.Architecture].sees || len(layers) != last+1 {
		return full
	}
	for _, n := range layers {
		if n != len(leaves) {
			return full
		}
	}
	return leaves
}
