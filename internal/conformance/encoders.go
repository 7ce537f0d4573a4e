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

// shortText is the text with the states of every layer, its padding not counted.
type shortText struct {
	Text      int
	MaxLength int
	goldenText
}

func (g *goldenTexts) shortText() shortText {
	l := shortText{g.Layers.Text, g.Layers.MaxLength, g.Layers.goldenText}
	l.Tokens = len(l.IDs)
	for l.Tokens > 0 && l.IDs[l.Tokens-1] == 0 {
		l.Tokens--
	}
	return l
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
	pads, err := padsCase(config, weights, info, hidden)
	if err != nil {
		return nil, err
	}
	cases := []Case{layers, pads}
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
	p, err := build(name, bound(0), func(b *graph.Builder) {
		b.Read("condition", encoder.Build(b, config, 1, len(rows), length, encoder.Options{}))
	})
	want := Want{Name: "condition", Tolerance: 2e-4, Width: config.HiddenSize}
	for i, r := range rows {
		for _, position := range r.Positions {
			want.Rows = append(want.Rows, i*length+position)
		}
		want.Values = append(want.Values, hidden[fmt.Sprintf("%s.%d", name, r.Text)]...)
	}
	return Case{Name: name, Program: p, Weights: weights, Inputs: inputs(rows, length), Want: []Want{want}, Slow: length > 100}, err
}

// layersCase compares every layer's hidden states of one short text, which the Program
// has channel-major.
func layersCase(config encoder.Config, weights Tensors, info goldenTexts, hidden Tensors) (Case, error) {
	l := info.shortText()
	p, err := build("layers", bound(0), func(b *graph.Builder) {
		b.Read("condition", encoder.Build(b, config, 1, 1, l.MaxLength, encoder.Options{Intermediates: true}))
	})
	c := Case{Name: "layers", Program: p, Weights: weights, Inputs: inputs([]goldenText{l.goldenText}, l.MaxLength)}
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

// padsCase sets pad positions to zero and has the matrices delivered as F16, which costs
// precision: the official values hold within what rounding 10.6 million weights allows.
func padsCase(config encoder.Config, weights Tensors, info goldenTexts, hidden Tensors) (Case, error) {
	l := info.shortText()
	p, err := build("pads", bound(0), func(b *graph.Builder) {
		b.Read("condition", encoder.Build(b, config, 1, 2, l.MaxLength, encoder.Options{ZeroPads: true, DType: "F16"}))
	})
	want := Want{Name: "condition", Tolerance: 2e-3, Width: config.HiddenSize}
	values := hidden[fmt.Sprintf("layers.text%d.%d", l.Text, config.NumHiddenLayers)]
	for text := range 2 {
		for i, position := range l.Positions {
			row := values[i*config.HiddenSize : (i+1)*config.HiddenSize]
			if position >= l.Tokens {
				row = make([]float32, config.HiddenSize)
			}
			want.Rows = append(want.Rows, text*l.MaxLength+position)
			want.Values = append(want.Values, row...)
		}
	}
	return Case{Name: "pads", Program: p, Weights: weights, Inputs: inputs([]goldenText{l.goldenText, l.goldenText}, l.MaxLength), Want: []Want{want}}, err
}
