// Package lm is a base language model of the Llama or Qwen2 architecture in GoMLX, with
// LoRA on its seven linear layers: what package collect tunes, and what answers prompts
// with and without a generated adapter. It reads a Hugging Face folder or a GGUF file.
// It knows nothing of generators.
package lm

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Config is a model's architecture.
type Config struct {
	Architecture string  // "llama" or "qwen2"
	Model        string  // Hugging Face id, "" if the files do not say
	Layers       int     // transformer blocks
	Hidden       int     // width
	Heads        int     // query heads
	KVHeads      int     // key/value heads
	HeadDim      int     // width of a head
	MLP          int     // width of the MLP
	Vocab        int     // tokens
	RopeTheta    float64 // base of the rotary frequencies
	NormEps      float64 // RMSNorm's
	System       string  // the chat template's own system prompt, "" for none
}

// modules are the LoRA targets of a block, in the order of weight tokens (reference c.1).
var modules = [...]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
	"mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"}

// size is (in, out) of a module.
func (c *Config) size(module string) (in, out int) {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	switch module {
	case modules[0]:
		return c.Hidden, q
	case modules[1], modules[2]:
		return c.Hidden, kv
	case modules[3]:
		return q, c.Hidden
	case modules[6]:
		return c.MLP, c.Hidden
	}
	return c.Hidden, c.MLP
}

// Base describes the model's LoRA targets.
func (c *Config) Base(rank int, alpha float64) lora.Base {
	b := lora.Base{Model: c.Model, Architecture: c.Architecture, Heads: c.Heads, KVHeads: c.KVHeads, Rank: rank, Alpha: alpha}
	for i := range c.Layers {
		for _, m := range modules {
			in, out := c.size(m)
			b.Targets = append(b.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", i, m), In: in, Out: out})
		}
	}
	return b
}

func (c *Config) validate() error {
	switch c.Architecture {
	case "llama", "qwen2":
	default:
		return fmt.Errorf("architecture %q, expected llama or qwen2", c.Architecture)
	}
	for _, v := range []struct {
		name string
		n    int
	}{{"layers", c.Layers}, {"hidden size", c.Hidden}, {"heads", c.Heads}, {"key/value heads", c.KVHeads},
		{"head width", c.HeadDim}, {"MLP width", c.MLP}, {"vocabulary", c.Vocab}} {
		if v.n < 1 || v.n > 1<<20 {
			return fmt.Errorf("%s is %d, expected a positive number", v.name, v.n)
		}
	}
	// The list of tensors grows with the blocks before any tensor is looked for.
	if c.Layers > 1024 {
		return fmt.Errorf("layers is %d, expected at most 1024", c.Layers)
	}
	if c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 {
		return fmt.Errorf("%d heads of width %d over %d key/value heads do not fit", c.Heads, c.HeadDim, c.KVHeads)
	}
	if !(c.RopeTheta > 1) || !(c.NormEps > 0) {
		return fmt.Errorf("rope theta %v and norm epsilon %v, expected positive numbers", c.RopeTheta, c.NormEps)
	}
	return nil
}

// weights lists the tensors by their Hugging Face names, with shapes. The head is absent
// where it is tied to the embeddings.
func (c *Config) weights(tied bool) []weight {
	list := []weight{{"model.embed_tokens.weight", []int{c.Vocab, c.Hidden}}, {"model.norm.weight", []int{c.Hidden}}}
	if !tied {
		list = append(list, weight{headName, []int{c.Vocab, c.Hidden}})
	}
	for i := range c.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		list = append(list, weight{prefix + "input_layernorm.weight", []int{c.Hidden}},
			weight{prefix + "post_attention_layernorm.weight", []int{c.Hidden}})
		for j, m := range modules {
			in, out := c.size(m)
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

const headName = "lm_head.weight"

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
		Scaling  any     `json:"rope_scaling"`
		AttnBias bool    `json:"attention_bias"`
		RopePars struct {
			Theta float64 `json:"rope_theta"`
			Type  string  `json:"rope_type"`
		} `json:"rope_parameters"`
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
	case f.Scaling != nil || f.RopePars.Type != "" && f.RopePars.Type != "default":
		err = fmt.Errorf("scaled rotary positions are not supported")
	default:
		err = c.validate()
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	template, err := folderTemplate(dir)
	c.System = systemIn(template)
	return c, f.Tied, err
}

// ggufConfig reads a GGUF file's metadata.
func ggufConfig(f *gguf.File) (*Config, error) {
	text := func(key string) string {
		v, _ := f.Lookup(key)
		s, _ := v.Value.(string)
		return s
	}
	c := &Config{Architecture: text("general.architecture"), System: systemIn(text("tokenizer.chat_template"))}
	number := func(key string) float64 {
		v, _ := f.Lookup(c.Architecture + "." + key)
		return toFloat(v.Value)
	}
	if f := text("general.base_model.0.repo_url"); f != "" {
		c.Model = filepath.Base(filepath.Dir(f)) + "/" + filepath.Base(f)
	}
	c.Layers, c.Hidden = int(number("block_count")), int(number("embedding_length"))
	c.Heads, c.KVHeads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
	c.MLP, c.RopeTheta, c.NormEps = int(number("feed_forward_length")), number("rope.freq_base"), number("attention.layer_norm_rms_epsilon")
	if c.RopeTheta == 0 {
		c.RopeTheta = 10000
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim = int(number("attention.key_length")); c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	embed, ok := f.Tensor("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return nil, fmt.Errorf("no matrix token_embd.weight")
	}
	c.Vocab = int(embed.Shape[1])
	return c, c.validate()
}

// toFloat reads a metadata number, 0 if it is none.
func toFloat(v any) float64 {
	switch x := v.(type) {
	case uint64:
		return float64(x)
	case int64:
		return float64(x)
	case float64:
		return x
	}
	return 0
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
