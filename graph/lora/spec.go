package lora

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

// Spec describes a base model by its config.json or its GGUF metadata: what an adapter
// must fit.
type Spec struct {
	Path         string // where it was read
	Model        string // Hugging Face id, "" if the files do not say
	Type         string // config.json's model_type, or GGUF's general.architecture
	Architecture string // as GGUF's general.architecture; "" if llama.cpp's names are not known here
	Layers       int
	Hidden       int
	Heads        int
	KVHeads      int
	HeadDim      int
	MLP          int
}

// ReadSpec describes the base model at path: a Hugging Face folder, its config.json, or a
// GGUF file.
func ReadSpec(path string) (*Spec, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() && strings.EqualFold(filepath.Ext(path), ".gguf") {
		f, err := gguf.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return GGUFSpec(f)
	}
	if st.IsDir() {
		path = filepath.Join(path, "config.json")
	}
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	s, err := ParseSpec(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.Path = path
	return s, nil
}

// specFields are the settings of config.json that give a model's sizes.
type specFields struct {
	Model   string      `json:"_name_or_path"`
	Type    string      `json:"model_type"`
	Layers  int         `json:"num_hidden_layers"`
	Hidden  int         `json:"hidden_size"`
	Heads   int         `json:"num_attention_heads"`
	KVHeads *int        `json:"num_key_value_heads"`
	HeadDim *int        `json:"head_dim"`
	MLP     int         `json:"intermediate_size"`
	Text    *specFields `json:"text_config"` // of models that see
}

// ParseSpec reads the text of a config.json.
func ParseSpec(config []byte) (*Spec, error) {
	var f specFields
	if err := json.Unmarshal(config, &f); err != nil {
		return nil, fmt.Errorf("not the config.json of a model: %w", err)
	}
	s := &Spec{Type: f.Type}
	if isHubID(f.Model) && strings.Contains(f.Model, "/") {
		s.Model = f.Model
	}
	if f.Text != nil && f.Layers == 0 {
		f = *f.Text
	}
	s.Architecture = architectureOf(s.Type)
	s.Layers, s.Hidden, s.Heads, s.KVHeads, s.MLP = f.Layers, f.Hidden, f.Heads, f.Heads, f.MLP
	if f.KVHeads != nil {
		s.KVHeads = *f.KVHeads
	}
	if f.HeadDim != nil {
		s.HeadDim = *f.HeadDim
	} else if s.Heads > 0 {
		s.HeadDim = s.Hidden / s.Heads
	}
	return s, s.check("config.json lacks num_hidden_layers, hidden_size, num_attention_heads or intermediate_size")
}

// GGUFSpec describes the base model in a GGUF file. Errors name the file.
func GGUFSpec(f *gguf.File) (*Spec, error) {
	kind, _ := f.Lookup("general.type")
	if kind.Value == "adapter" {
		return nil, fmt.Errorf("%s: is an adapter, expected a base model", f.Path)
	}
	kv, _ := f.Lookup("general.architecture")
	arch, _ := kv.Value.(string)
	number := func(key string) int { return ggufNumber(f, arch+key) }
	// A model's own base_model is what it was tuned from: another.
	s := &Spec{Path: f.Path, Model: ggufModel(f, "general.repo_url"), Type: arch, Architecture: arch, Layers: number(".block_count"), Hidden: number(".embedding_length"),
		Heads: number(keyHeads), KVHeads: number(keyKVHeads), HeadDim: number(".attention.key_length"), MLP: number(".feed_forward_length")}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.HeadDim == 0 && s.Heads > 0 {
		s.HeadDim = s.Hidden / s.Heads
	}
	if err := s.check(fmt.Sprintf("metadata lack a size of architecture %q", arch)); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return s, nil
}

func (s *Spec) check(lacks string) error {
	for _, n := range []int{s.Layers, s.Hidden, s.Heads, s.KVHeads, s.HeadDim, s.MLP} {
		if n < 1 || n > maxAxis {
			return errors.New(lacks)
		}
	}
	if s.Heads%s.KVHeads != 0 {
		return fmt.Errorf("%d attention heads over %d key/value heads", s.Heads, s.KVHeads)
	}
	return nil
}

// size is (in, out) of a module.
func (s *Spec) size(p slot) (in, out int) {
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	switch p {
	case slotQ:
		return s.Hidden, q
	case slotK, slotV:
		return s.Hidden, kv
	case slotO:
		return q, s.Hidden
	case slotDown:
		return s.MLP, s.Hidden
	}
	return s.Hidden, s.MLP
}

// Fit checks that an adapter for b can be one of this model, and fills in what b does not
// say of it: architecture, heads, and the model's id.
func (s *Spec) Fit(b *Base) error {
	base := s.Path
	if s.Model != "" {
		base = s.Model
	}
	if b.Architecture != "" && s.Architecture != "" && b.Architecture != s.Architecture {
		return fmt.Errorf("lora: the adapter is for architecture %s, the base %s is %s", b.Architecture, base, s.Architecture)
	}
	for _, t := range b.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return err
		}
		if m.layer >= s.Layers {
			return fmt.Errorf("lora: the adapter has module %s, the base %s has %d layers", t.Name, base, s.Layers)
		}
		if in, out := s.size(m.slot); in != t.In || out != t.Out {
			return fmt.Errorf("lora: the adapter's module %s is (out %d, in %d), in the base %s it is (out %d, in %d)", t.Name, t.Out, t.In, base, out, in)
		}
	}
	if b.Heads != 0 && b.Heads != s.Heads || b.KVHeads != 0 && b.KVHeads != s.KVHeads {
		return fmt.Errorf("lora: the adapter is for %d heads and %d key/value heads, the base %s has %d and %d", b.Heads, b.KVHeads, base, s.Heads, s.KVHeads)
	}
	b.Heads, b.KVHeads = s.Heads, s.KVHeads
	if b.Architecture == "" {
		b.Architecture = s.Architecture
	}
	if b.Model == "" {
		b.Model = s.Model
	}
	return nil
}
