// Package madeup makes a whole generator package that any test can afford: the decoder
// "mini" (a base of two layers) and a text encoder of one layer with a vocabulary of a few
// words, all with made-up weights. Only tests import it.
package madeup

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// vocabulary is the encoder's, one token a line of vocab.txt.
var vocabulary = strings.Fields(`[PAD] [UNK] [CLS] [SEP] [MASK] what is the capital of france name a colour
	one two three four five six seven eight nine ten prompt number question ? . , ##s ##er ##ing add and`)

// Open makes the package in a folder of the test's and opens it.
func Open(t testing.TB) *generator.Package {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "generator")
	if err := Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	p, err := generator.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Write makes the package as the folder dir. Its bytes are the same every time.
func Write(ctx context.Context, dir string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "encoder-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bert := filepath.Join(tmp, "madeup-bert")
	if err := WriteEncoder(bert); err != nil {
		return err
	}
	return generator.MadeUp(ctx, dir, generator.MadeUpOptions{Shape: "mini", Seed: 1, Encoder: bert})
}

// WriteTiny is Write for a generator that takes a hundredth of the time: for tests that make
// very many adapters.
func WriteTiny(ctx context.Context, dir string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "encoder-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	const rank, chunk, texts, length, width, heads = 2, 8, 2, 8, 48, 4
	bert := filepath.Join(tmp, "madeup-bert")
	if err := writeEncoder(bert, width, heads); err != nil {
		return err
	}
	base := lora.Base{Model: "made-up/tiny", Architecture: "llama", Heads: 2, KVHeads: 2, Rank: rank, Alpha: 4, Targets: []lora.Target{
		{Name: "model.layers.0.self_attn.q_proj", In: 16, Out: 16}, {Name: "model.layers.0.self_attn.v_proj", In: 16, Out: 16},
	}}
	tiling := lora.Tiling{Kind: "custom", Height: rank + 2, Width: chunk + 2, Chunk: chunk}
	layout, err := lora.NewLayout(base, tiling)
	if err != nil {
		return err
	}
	t, h, w := layout.Shape()
	config := decoder.Config{Class: decoder.FullCond, KernelSize: 3, Features: [][3]int{{texts, length, width}, {4, 6, 12}, {t, h, w}}}
	m := generator.Manifest{
		Name: "made-up tiny", Base: &base, Tiling: tiling, Decoder: config,
		Condition:  generator.Condition{Texts: texts, Length: length, Width: width, Pads: generator.PadsEncoded},
		Provenance: generator.Provenance{Source: "made-up weights, not trained", Seed: 1},
	}
	return generator.Write(ctx, dir, m, generator.MadeUpTensors(config, 1), bert, generator.WriteOptions{})
}

// WriteEncoder makes the text encoder alone, as a folder in Hugging Face layout.
func WriteEncoder(dir string) error { return writeEncoder(dir, 384, 12) }

func writeEncoder(dir string, width, heads int) error {
	c := encoder.Config{
		HiddenSize: width, NumHiddenLayers: 1, NumAttentionHeads: heads, IntermediateSize: 64, MaxPositionEmbeddings: 32,
		TypeVocabSize: 2, VocabSize: len(vocabulary), LayerNormEps: 1e-12, HiddenAct: "gelu", ModelType: "bert",
	}
	if err := c.Validate(); err != nil {
		return err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"config.json": string(config), "vocab.txt": strings.Join(vocabulary, "\n") + "\n", "tokenizer_config.json": `{"do_lower_case": true}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	var tensors []safetensors.Tensor
	for _, x := range c.Tensors() {
		n := 1
		for _, d := range x.Shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(random.NormFloat64()) * 0.05
			if strings.HasSuffix(x.Name, "LayerNorm.weight") {
				values[i]++
			}
		}
		tensors = append(tensors, safetensors.FromFloat32s(x.Name, safetensors.F32, values, x.Shape...))
	}
	if err := safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		return fmt.Errorf("made-up encoder: %w", err)
	}
	return nil
}
