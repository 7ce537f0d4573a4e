package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// FeedOptions are Feed's.
type FeedOptions struct {
	// Name of the prompts' file: its ending gives the format, as docs/formats.md says.
	Name string `json:"name"`
	// Field is the key of a record's prompt, "prompt" if empty.
	Field string `json:"field"`
	// Seed and Draw choose the prompts, see text.Draw.
	Seed int64 `json:"seed"`
	Draw int   `json:"draw"`
}

// FeedInfo is what Feed found out.
type FeedInfo struct {
	Prompts int    `json:"prompts"` // in the file
	Texts   int    `json:"texts"`   // that the generator reads
	Cycled  bool   `json:"cycled"`  // there are fewer prompts than texts, so they are repeated
	SHA256  string `json:"sha256"`  // text.Hash of all prompts
}

// FinishOptions are Finish's: the adapter's format, lora.PEFT, GGUF or MLX, and the
// provenance that its files carry. Generator and GeneratorSHA256 are the manifest's,
// whatever stands there.
type FinishOptions struct {
	Format string `json:"format"`
	lora.Provenance
}

// Report is what Finish made: the Frobenius norms of what the adapter adds to the base
// model's weights.
type Report struct {
	Layers []Layer `json:"layers"`
	// Nearest is how far the prompts are from the generator's training tasks; nil where the
	// manifest has no Coverage or Finish was given no condition.
	Nearest *generator.Nearest `json:"nearest,omitempty"`
}

// Layer is the norms of one layer: the root of the sum of its modules' squares, and each.
type Layer struct {
	Layer   int      `json:"layer"`
	Norm    float64  `json:"norm"`
	Modules []Module `json:"modules"`
}

// Module is the norm ‖(alpha/rank)·B·A‖ of one module, by its name inside the layer:
// "self_attn.q_proj".
type Module struct {
	Name string  `json:"name"`
	Norm float64 `json:"norm"`
}

func feed(m Message) (Message, error) {
	manifest, err := m.manifest(PartManifest, PartTokenizer, PartVocab, PartTokenizerConfig, PartPrompts, PartOptions)
	if err != nil {
		return nil, err
	}
	var o FeedOptions
	if err := m.options(&o); err != nil {
		return nil, err
	}
	var v generator.Vocabulary
	var isJSON, isText bool
	v.JSON, isJSON = m.Get(PartTokenizer)
	v.Text, isText = m.Get(PartVocab)
	v.Config, _ = m.Get(PartTokenizerConfig)
	if isJSON == isText {
		return nil, fmt.Errorf("message: expected one of the parts %q and %q", PartTokenizer, PartVocab)
	}
	tokenizer, err := manifest.Tokenizer(v)
	if err != nil {
		return nil, err
	}
	raw, err := m.need(PartPrompts)
	if err != nil {
		return nil, err
	}
	prompts, err := text.ParsePrompts(raw, strings.ToLower(path.Ext(o.Name)), o.Field)
	if err != nil {
		return nil, fmt.Errorf("%.200s: %w", o.Name, err)
	}
	info := FeedInfo{Prompts: len(prompts), Texts: manifest.Condition.Texts, SHA256: text.Hash(prompts)}
	var texts []string
	texts, info.Cycled = text.Draw(prompts, info.Texts, o.Seed, o.Draw)
	batch, err := tokenizer.Encode(texts, manifest.Condition.Length)
	if err != nil {
		return nil, err
	}
	inputs, err := generator.Feed(manifest, batch)
	if err != nil {
		return nil, err
	}
	var out Message
	for _, in := range inputs {
		out = append(out, Part{in.Name, in.Data})
	}
	return out.with(PartInfo, info)
}

func finish(m Message) (Message, error) {
	manifest, err := m.manifest(PartManifest, PartTokens, PartCondition, PartMask, PartOptions)
	if err != nil {
		return nil, err
	}
	var o FinishOptions
	if err := m.options(&o); err != nil {
		return nil, err
	}
	tokens, err := m.need(PartTokens)
	if err != nil {
		return nil, err
	}
	shape := manifest.Decoder.Output()
	if values := int64(shape[0]) * int64(shape[1]) * int64(shape[2]); int64(len(tokens)) != 4*values {
		return nil, fmt.Errorf("part %s has %d bytes, expected %d float32 values of shape %v", PartTokens, len(tokens), values, shape)
	}
	var nearest *generator.Nearest
	if condition, ok := m.Get(PartCondition); ok {
		mask, err := m.need(PartMask)
		if err != nil {
			return nil, err
		}
		words := make([]uint32, len(mask)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(mask[4*i:])
		}
		if nearest, err = manifest.Nearest(generator.Float32s(condition), words); err != nil {
			return nil, err
		}
	}
	adapter, err := generator.Finish(manifest, generator.Float32s(tokens), nearest)
	if err != nil {
		return nil, err
	}
	raw, err := m.need(PartManifest)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	o.Generator, o.GeneratorSHA256 = manifest.Name, hex.EncodeToString(sum[:])
	files, err := lora.Files(adapter, lora.Options{Format: o.Format, Provenance: o.Provenance})
	if err != nil {
		return nil, err
	}
	var out Message
	for _, f := range files {
		var buf bytes.Buffer
		if err := f.Write(&buf); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out = append(out, Part{PartFile + f.Name, buf.Bytes()})
	}
	report, err := NewReport(adapter)
	if err != nil {
		return nil, err
	}
	report.Nearest = nearest
	return out.with(PartReport, report)
}

// NewReport measures an adapter.
func NewReport(a *lora.Adapter) (*Report, error) {
	modules, layers, err := a.Norms()
	if err != nil {
		return nil, err
	}
	r := &Report{Layers: make([]Layer, len(layers))}
	for i, l := range layers {
		r.Layers[i] = Layer{Layer: l.Layer, Norm: l.Value}
		for len(modules) > 0 && modules[0].Layer == l.Layer {
			_, name, _ := strings.Cut(modules[0].Name, fmt.Sprintf("layers.%d.", l.Layer))
			r.Layers[i].Modules = append(r.Layers[i].Modules, Module{name, modules[0].Value})
			modules = modules[1:]
		}
	}
	return r, nil
}

// with adds a part of JSON.
func (m Message) with(name string, v any) (Message, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return append(m, Part{name, raw}), nil
}
