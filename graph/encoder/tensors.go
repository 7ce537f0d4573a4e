package encoder

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// Tensor is one tensor of the encoder's weights by its Hugging Face name.
type Tensor struct {
	Name  string
	Shape []int
}

const (
	maxConfig   = 1 << 20
	maxLayers   = 256
	maxElements = 1 << 34 // of one tensor
)

// ParseConfig reads a config.json. Encoders of another kind than BERT with absolute
// positions and erf GELU are errors.
func ParseConfig(text []byte) (Config, error) {
	var c struct {
		Config
		Positions string `json:"position_embedding_type"`
		IsDecoder bool   `json:"is_decoder"`
		CrossAttn bool   `json:"add_cross_attention"`
	}
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("encoder: config of %d bytes, at most %d are read", len(text), maxConfig)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return Config{}, fmt.Errorf("encoder: config: %w", err)
	}
	if c.Positions != "" && c.Positions != "absolute" {
		return Config{}, fmt.Errorf("encoder: position_embedding_type %.64q is not supported, expected absolute", c.Positions)
	}
	if c.IsDecoder || c.CrossAttn {
		return Config{}, fmt.Errorf("encoder: the config describes a decoder, expected an encoder")
	}
	return c.Config, c.Config.Validate()
}

// Validate checks the architecture.
func (c Config) Validate() error {
	if c.ModelType != "bert" {
		return fmt.Errorf("encoder: model_type %.64q is not supported, expected bert", c.ModelType)
	}
	if c.HiddenAct != "gelu" {
		return fmt.Errorf("encoder: hidden_act %.64q is not supported, expected gelu", c.HiddenAct)
	}
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"hidden_size", c.HiddenSize, 1 << 16},
		{"num_hidden_layers", c.NumHiddenLayers, maxLayers},
		{"num_attention_heads", c.NumAttentionHeads, 1 << 12},
		{"intermediate_size", c.IntermediateSize, 1 << 18},
		{"max_position_embeddings", c.MaxPositionEmbeddings, 1 << 20},
		{"type_vocab_size", c.TypeVocabSize, 1 << 16},
		{"vocab_size", c.VocabSize, 1 << 24},
	} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("encoder: %s %d, expected 1 to %d", f.name, f.value, f.max)
		}
	}
	if c.HiddenSize%c.NumAttentionHeads != 0 || c.HiddenSize/c.NumAttentionHeads > wgsl.MaxHeadWidth {
		return fmt.Errorf("encoder: %d heads for hidden_size %d, expected a divisor with heads of at most %d values",
			c.NumAttentionHeads, c.HiddenSize, wgsl.MaxHeadWidth)
	}
	if !(c.LayerNormEps > 0 && c.LayerNormEps < 1) {
		return fmt.Errorf("encoder: layer_norm_eps %g, expected a small positive number", c.LayerNormEps)
	}
	for _, t := range c.Tensors() {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		if n > maxElements {
			return fmt.Errorf("encoder: tensor %s of shape %v is too large", t.Name, t.Shape)
		}
	}
	return nil
}

// Tensors lists the tensors that the encoder reads, by their names in a BertModel. The
// pooler is not among them.
func (c Config) Tensors() []Tensor {
	var list []Tensor
	add := func(name string, shape ...int) { list = append(list, Tensor{name, shape}) }
	norm := func(name string) {
		add(name+".weight", c.HiddenSize)
		add(name+".bias", c.HiddenSize)
	}
	dense := func(name string, out, in int) {
		add(name+".weight", out, in)
		add(name+".bias", out)
	}
	add("embeddings.word_embeddings.weight", c.VocabSize, c.HiddenSize)
	add("embeddings.position_embeddings.weight", c.MaxPositionEmbeddings, c.HiddenSize)
	add("embeddings.token_type_embeddings.weight", c.TypeVocabSize, c.HiddenSize)
	norm("embeddings.LayerNorm")
	for i := range c.NumHiddenLayers {
		for _, name := range []string{"query", "key", "value"} {
			dense(LayerKey(i, "attention.self."+name), c.HiddenSize, c.HiddenSize)
		}
		dense(LayerKey(i, "attention.output.dense"), c.HiddenSize, c.HiddenSize)
		norm(LayerKey(i, "attention.output.LayerNorm"))
		dense(LayerKey(i, "intermediate.dense"), c.IntermediateSize, c.HiddenSize)
		dense(LayerKey(i, "output.dense"), c.HiddenSize, c.IntermediateSize)
		norm(LayerKey(i, "output.LayerNorm"))
	}
	return list
}

// LayerKey is the name of a layer's tensor: LayerKey(0, "output.dense.bias").
func LayerKey(layer int, name string) string { return fmt.Sprintf("encoder.layer.%d.%s", layer, name) }

// StripPrefix is a checkpoint's tensor name as Tensors lists it: some files name the
// tensors of a model that a BertModel is part of.
func StripPrefix(name string) string { return strings.TrimPrefix(name, "bert.") }
