package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// architecture is what there is to know of an architecture that llama.cpp names, if its
// blocks have the seven modules.
type architecture struct {
	types []string // config.json's model_type
	// permuted says that llama.cpp keeps the rows of q and k in an order of its own: its
	// converter interleaves the two halves of every head, which the rotary embedding takes in
	// pairs.
	permuted bool
	// sees says that models may have a vision tower, whose modules have the same last names.
	sees bool
}

// architectures are those known, by their names in GGUF files.
var architectures = map[string]architecture{
	"llama":   {types: []string{"llama", "mistral"}, permuted: true},
	"granite": {types: []string{"granite"}, permuted: true},
	"qwen2":   {types: []string{"qwen2"}},
	"qwen2vl": {types: []string{"qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"}, sees: true},
	"qwen3":   {types: []string{"qwen3"}},
	"gemma":   {types: []string{"gemma"}},
	"gemma2":  {types: []string{"gemma2"}},
	"gemma3":  {types: []string{"gemma3", "gemma3_text"}, sees: true},
}

// architectureOf is llama.cpp's architecture of a model_type, "" if it is not known.
func architectureOf(modelType string) string {
	for name, a := range architectures {
		if slices.Contains(a.types, modelType) {
			return name
		}
	}
	return ""
}

// knownArchitecture refuses an architecture whose order of rows is not known.
func knownArchitecture(name string) error {
	if _, ok := architectures[name]; ok {
		return nil
	}
	return fmt.Errorf("lora: architecture %q has no GGUF names here, expected one of %s", name, architectureNames())
}

func architectureNames() string {
	return strings.Join(slices.Sorted(maps.Keys(architectures)), ", ")
}

// permuted says whether q and k need another order of rows in GGUF files.
func (b Base) permuted() bool { return architectures[b.Architecture].permuted }
