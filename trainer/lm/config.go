// Package lm is a base language model of the Llama or Qwen2 architecture in GoMLX, with
// LoRA on its seven linear layers: what package collect tunes, and what answers prompts
// with and without a generated adapter. It reads a Hugging Face folder or a GGUF file.
// It knows nothing of generators.
package lm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/llama"
)

// Config is a model's architecture.
type Config = llama.Config

// weightList lists the tensors by their Hugging Face names, with shapes. The head is absent
// where it is tied to the embeddings.
func weightList(c *Config, tied bool) []weight {
	list := []weight{{embeddingName, []int{c.Vocab, c.Hidden}}, {"model.norm.weight", []int{c.Hidden}}}
	if !tied {
		list = append(list, weight{headName, []int{c.Vocab, c.Hidden}})
	}
	for i := range c.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		list = append(list, weight{prefix + "input_layernorm.weight", []int{c.Hidden}},
			weight{prefix + "post_attention_layernorm.weight", []int{c.Hidden}})
		for j, m := range llama.Modules {
			in, out := c.Size(m)
			list = append(list, weight{prefix + m + ".weight", []int{out, in}})
			if c.Architecture == "qwen2" && j < 3 {
				list = append(list, weight{prefix + m + ".bias", []int{out}})
			}
		}
	}
	return list
}

type weight struct {
	name  string
	shape []int
}

// values is how many the tensor has.
func (w weight) values() int64 {
	n := int64(1)
	for _, d := range w.shape {
		n *= int64(d)
	}
	return n
}

const (
	embeddingName = "model.embed_tokens.weight"
	headName      = "lm_head.weight"
)

// folderConfig reads a Hugging Face config.json.
func folderConfig(dir string) (*Config, bool, error) {
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	var f struct {
		Model    string  `json:"_name_or_path"`
		Type     string  `json:"model_type"`
		Layers   int     `json:"num_hidden_layers"`
		Hidden   int     `json:"hidden_size"`
		Heads    int     `json:"num_attention_heads"`
		KVHeads  int     `json:"num_key_value_heads"`
		HeadDim  int     `json:"head_dim"`
		MLP      int     `json:"intermediate_size"`
		Vocab    int     `json:"vocab_size"`
		Theta    float64 `json:"rope_theta"`
		Eps      float64 `json:"rms_norm_eps"`
		Act      string  `json:"hidden_act"`
		Tied     bool    `json:"tie_word_embeddings"`
		Sliding  bool    `json:"use_sliding_window"`
		AttnBias bool    `json:"attention_bias"`
		// Of later versions of transformers the second one alone.
		Scaling  ropeScaling `json:"rope_scaling"`
		RopePars ropeScaling `json:"rope_parameters"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	c := &Config{Architecture: f.Type, Model: f.Model, Layers: f.Layers, Hidden: f.Hidden, Heads: f.Heads, KVHeads: f.KVHeads,
		HeadDim: f.HeadDim, MLP: f.MLP, Vocab: f.Vocab, RopeTheta: f.Theta, NormEps: f.Eps}
	if c.RopeTheta == 0 {
		c.RopeTheta = f.RopePars.Theta
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	switch {
	case f.Act != "silu":
		err = fmt.Errorf("hidden_act %q, expected silu", f.Act)
	case f.Sliding || f.AttnBias:
		err = fmt.Errorf("sliding windows and llama's attention biases are not supported")
	default:
		err = errors.Join(f.Scaling.scale(c), f.RopePars.scale(c))
		if err == nil {
			err = c.Validate()
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	template, err := folderTemplate(dir)
	c.System = llama.SystemIn(template)
	return c, f.Tied, err
}

// isDir says whether path is a folder, and so a Hugging Face model.
func isDir(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return false, &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	}
	return st.IsDir(), nil
}

// ropeScaling is what a config.json says of rotary positions beside their base.
type ropeScaling struct {
	Theta    float64 `json:"rope_theta"`
	Type     string  `json:"rope_type"`
	OldType  string  `json:"type"`
	Factor   float64 `json:"factor"`
	Low      float64 `json:"low_freq_factor"`
	High     float64 `json:"high_freq_factor"`
	Original float64 `json:"original_max_position_embeddings"`
}

// scale gives a model whose heads are known the frequencies.
func (r ropeScaling) scale(c *Config) error {
	if c.HeadDim < 1 || c.HeadDim > 1<<20 {
		return nil // refused by Validate
	}
	switch kind := cmp.Or(r.Type, r.OldType); kind {
	case "", "default":
	case "linear":
		c.ScaleLinear(r.Factor)
	case "llama3":
		if !(r.Factor > 0) || !(r.High > r.Low) || !(r.Low > 0) || !(r.Original > 0) {
			return fmt.Errorf("rotary positions scaled by %+v, expected positive numbers and a high_freq_factor above low_freq_factor", r)
		}
		c.ScaleLlama3(r.Factor, r.Low, r.High, r.Original)
	default:
		return fmt.Errorf("rotary positions are scaled by %q, expected default, linear or llama3", kind)
	}
	return nil
}
