package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// goldenTexts is minilm/info.json: ids of texts, and the positions whose hidden states
// are in hidden.safetensors.
type goldenTexts struct {
	Cases []struct {
		Name      string
		MaxLength int `json:"max_length"`
		Rows      []goldenText
	}
	Layers struct {
		Text      int
		MaxLength int `json:"max_length"`
		goldenText
	}
}

type goldenText struct {
	Text, Tokens int
	IDs          []uint32
	Positions    []int
}

// encoderCases hold a real encoder, all-MiniLM-L6, to the official hidden states.
func encoderCases() ([]Case, error) {
	dir := golden.Path("..", "..", "..", "build", "deps", "minilm")
	weights, _, err := readAll(filepath.Join(dir, "model.safetensors"), encoder.Prefix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: fetch the text encoder first (make deps)", err)
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	config, err := encoder.ParseConfig(text)
	if err != nil {
		return nil, err
	}
	var info goldenTexts
	text, err = os.ReadFile(golden.Path("minilm", "info.json"))
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	if err != nil {
		return nil, err
	}
	hidden, _, err := readAll(golden.Path("minilm", "hidden.safetensors"), "")
	if err != nil {
		return nil, err
	}
	layers, err := layersCase(config, weights, info, hidden)
	if err != nil {
		return nil, err
	}
	cases := []Case{layers}
	for _, c := range info.Cases {
		built, err := encoderCase(config, weights, c.Name, c.MaxLength, c.Rows, hidden)
		if err != nil {
			return nil, fmt.Errorf("encoder %s: %w", c.Name, err)
		}
		cases = append(cases, built)
	}
	return cases, nil
}

func inputs(rows []goldenText, length int) []graph.Input {
	ids, mask := make([]uint32, len(rows)*length), make([]uint32, len(rows)*length)
	for i, r := range rows {
		for j, id := range r.IDs {
			ids[i*length+j] = id
			if j < r.Tokens {
				mask[i*length+j] = 1
			}
		}
	}
	return []graph.Input{{Name: encoder.InputIDs, Data: Words(ids)}, {Name: encoder.InputMask, Data: Words(mask)}}
}

func encoderCase(config encoder.Config, weights Tensors, name string, length int, rows []goldenText, hidden Tensors) (Case, error) {
	title := "encoder/" + name
	p, err := build(title, 0, func(b *graph.Builder) {
		b.Read("condition", encoder.Build(b, config, 1, len(rows), length, encoder.Options{}))
	})
	want := Want{Name: "condition", Tolerance: 2e-4, Width: config.HiddenSize}
	for i, r := range rows {
		for _, position := range r.Positions {
			want.Rows = append(want.Rows, i*length+position)
		}
		want.Values = append(want.Values, hidden[fmt.Sprintf("%s.%d", name, r.Text)]...)
	}
	return Case{Name: title, Program: p, Weights: weights, Inputs: inputs(rows, length), Want: []Want{want}, Slow: length > 100}, err
}

// layersCase compares every layer's hidden states of one short text, which the Program
// has channel-major.
func layersCase(config encoder.Config, weights Tensors, info goldenTexts, hidden Tensors) (Case, error) {
	l := info.Layers
	l.Tokens = len(l.IDs)
	for l.Tokens > 0 && l.IDs[l.Tokens-1] == 0 {
		l.Tokens--
	}
	p, err := build("encoder/layers", 0, func(b *graph.Builder) {
		b.Read("condition", encoder.Build(b, config, 1, 1, l.MaxLength, encoder.Options{Intermediates: true}))
	})
	c := Case{Name: "encoder/layers", Program: p, Weights: weights, Inputs: inputs([]goldenText{l.goldenText}, l.MaxLength)}
	for i := range config.NumHiddenLayers {
		w := Want{Name: fmt.Sprintf("group.0.hidden.%d", i), Tolerance: 2e-4, Width: 1}
		values := hidden[fmt.Sprintf("layers.text%d.%d", l.Text, i)]
		for j, v := range values {
			w.Rows = append(w.Rows, j%config.HiddenSize*l.MaxLength+l.Positions[j/config.HiddenSize])
			w.Values = append(w.Values, v)
		}
		c.Want = append(c.Want, w)
	}
	c.Want = append(c.Want, Want{Name: "condition", Tolerance: 2e-4, Width: config.HiddenSize, Rows: l.Positions,
		Values: hidden[fmt.Sprintf("layers.text%d.%d", l.Text, config.NumHiddenLayers)]})
	return c, err
}
