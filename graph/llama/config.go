// Package llama is a base language model of the Llama or Qwen2 architecture as far as an
// adapter is tried on it: what a GGUF file says of it, its tokenizer and chat template, and
// the Program of one step, which answers with and without an adapter side by side. Weights
// come from the GGUF files of the base and of the adapter (package lora), tokens go to the
// page. Package trainer/lm, which tunes and scores, shares configuration and tokenizer.
package llama

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

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
	// RopeFactors are what the frequencies are divided by (HeadDim/2), nil for none.
	RopeFactors []float64
	NormEps     float64 // RMSNorm's
	System      string  // the chat template's own system prompt, "" for none
}

// Frequencies are the angles (HeadDim/2) by which one position turns a head's pairs.
func (c *Config) Frequencies() []float64 {
	out := make([]float64, c.HeadDim/2)
	for i := range out {
		out[i] = math.Pow(c.RopeTheta, -2*float64(i)/float64(c.HeadDim))
		if c.RopeFactors != nil {
			out[i] /= c.RopeFactors[i]
		}
	}
	return out
}

// ScaleLinear divides all frequencies by factor.
func (c *Config) ScaleLinear(factor float64) {
	c.RopeFactors = slices.Repeat([]float64{factor}, c.HeadDim/2)
}

// RopeFactorsTensor is the GGUF tensor of RopeFactors, which Llama 3.1 and later have. FromGGUF, which
// reads metadata alone, does not know it.
const RopeFactorsTensor = "rope_freqs.weight"

// ScaleLlama3 divides frequencies as Llama 3.1 and later do: those that turn less often than low times
// over the original length by factor, those that turn more than high times not at all, and in between
// by a mean of both.
func (c *Config) ScaleLlama3(factor, low, high, original float64) {
	c.RopeFactors = nil
	var factors []float64
	for _, frequency := range c.Frequencies() {
		turns := original * frequency / (2 * math.Pi)
		kept := min(max((turns-low)/(high-low), 0), 1)
		factors = append(factors, 1/(kept+(1-kept)/factor))
	}
	c.RopeFactors = factors
}

// Modules are the LoRA targets of a block, in the order of weight tokens (reference c.1).
var Modules = [...]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
	"mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"}

// Size is (in, out) of a module.
func (c *Config) Size(module string) (in, out int) {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	switch module {
	case Modules[0]:
		return c.Hidden, q
	case Modules[1], Modules[2]:
		return c.Hidden, kv
	case Modules[3]:
		return q, c.Hidden
	case Modules[6]:
		return c.MLP, c.Hidden
	}
	return c.Hidden, c.MLP
}

// Base describes the model's LoRA targets.
func (c *Config) Base(rank int, alpha float64) lora.Base {
	b := lora.Base{Model: c.Model, Architecture: c.Architecture, Heads: c.Heads, KVHeads: c.KVHeads, Rank: rank, Alpha: alpha}
	for i := range c.Layers {
		for _, m := range Modules {
			in, out := c.Size(m)
			b.Targets = append(b.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", i, m), In: in, Out: out})
		}
	}
	return b
}

// Validate checks every number.
func (c *Config) Validate() error {
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
	if n := len(c.RopeFactors); n > 0 && n != c.HeadDim/2 {
		return fmt.Errorf("%d factors of rotary frequencies, expected %d", n, c.HeadDim/2)
	}
	for _, f := range c.RopeFactors {
		if !(f > 0) || math.IsInf(f, 1) {
			return fmt.Errorf("rotary frequencies divided by %v, expected a positive number", f)
		}
	}
	return nil
}

// FromGGUF reads a GGUF file's metadata.
func FromGGUF(f *gguf.File) (*Config, error) {
	text := func(key string) string {
		v, _ := f.Lookup(key)
		s, _ := v.Value.(string)
		return s
	}
	c := &Config{Architecture: text("general.architecture"), System: SystemIn(text("tokenizer.chat_template"))}
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
	if err := c.Validate(); err != nil {
		return nil, err
	}
	switch kind := text(c.Architecture + ".rope.scaling.type"); kind {
	case "", "none":
	case "linear":
		c.ScaleLinear(number("rope.scaling.factor"))
	default:
		return nil, fmt.Errorf("rotary positions are scaled by %q, expected none or linear", kind)
	}
	return c, c.Validate()
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
