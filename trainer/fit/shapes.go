package fit

import (
	"fmt"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// recipe is what the reference's runs differ in beside their decoders (d.4): pairs a step
// and steps. Those of 0.5B have 1000 to 4000 steps; ARC-c's stand here.
type recipe struct{ batch, steps int }

var recipes = map[string]recipe{
	"0.5b":        {64, 4000},
	"1.5b-coding": {48, 2500},
	"1.5b-math":   {128, 5000},
	"7b-coding":   {48, 5000},
	"7b-math":     {48, 5000},
	"3b-vl":       {64, 5000},
}

// ForShape is the reference's recipe for a decoder of generator.Shapes: architecture,
// tiling, batch and steps. The small decoder for trials, which the reference lacks, gets
// Defaults.
func ForShape(name string) (Config, error) {
	c := Defaults()
	d, _, tiling, err := generator.Shape(name)
	if err != nil {
		return Config{}, fmt.Errorf("fit: %w", err)
	}
	c.SetDecoder(d)
	c.Tiling = tiling
	if r, ok := recipes[strings.ToLower(name)]; ok {
		c.Batch, c.Steps = r.batch, r.steps
	}
	return c, nil
}

// SetDecoder takes an architecture, and the texts and their length from it.
func (c *Config) SetDecoder(d decoder.Config) {
	c.Decoder = d
	in := d.Condition()
	c.Texts, c.Length = in[0], in[1]
}
