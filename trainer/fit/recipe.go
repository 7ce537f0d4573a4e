package fit

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// The recipes of ForRecipe, by what their decoders make.
const (
	RecipeBasis  = "basis"  // coordinates in a basis of weight tokens, as models/inputs
	RecipeTokens = "tokens" // weight tokens, as models/default
)

// Recipes are all of them.
var Recipes = []string{RecipeBasis, RecipeTokens}

// Sizes are what a recipe's decoder is sized by.
type Sizes struct {
	Base          lora.Base // of the checkpoints (Describe)
	Sets          int       // data sets
	Texts, Length int       // prompts of a condition, and text tokens of each
	Width         int       // of the text encoder's outputs
	Directions    int       // of RecipeBasis; 0 is a share of the data sets, and fit prints whether that is as many as they differ in
	Steps         int       // 0 is the recipe's own
	Joint         bool      // whether there is a joint LoRA, half of RecipeTokens' adapters
}

// ForRecipe is the configuration of a shipped generator for other checkpoints: its settings, a decoder
// of the same kind, and the widest chunks that all modules divide into.
func ForRecipe(name string, s Sizes) (Config, error) {
	tiling, err := tilingOf(s.Base)
	if err != nil {
		return Config{}, err
	}
	layout, err := lora.NewLayout(s.Base, tiling)
	if err != nil {
		return Config{}, err
	}
	t, h, w := layout.Shape()
	in := [3]int{s.Texts, s.Length, s.Width}
	c := Defaults()
	c.Tiling, c.Pads, c.WeightDecay, c.TargetNoise, c.Prompts = tiling, generator.PadsZero, 0.01, 0, 320
	d := decoder.Config{Class: decoder.FullCond, Affine: true}
	switch name {
	case RecipeBasis:
		r := s.Directions
		if r == 0 {
			r = max(1, (9*s.Sets+11)/22) // models/inputs has nine, of 22 data sets
		}
		d.Features, d.KernelSize, d.Tokens = [][3]int{in, {1, 1, r}}, 1, [3]int{t, h, w}
		c.Steps, c.Batch, c.LearningRate, c.WarmUp, c.Average = 120, 8, 1e-5, 5, 0.9
		c.LinearStart, c.LinearStrength, c.LeaveOut, c.BasisRate, c.BasisNoise = true, 0.1, true, 0.02, 1
		c.SetLoss(LossTask)
	case RecipeTokens:
		if s.Directions != 0 {
			return Config{}, fmt.Errorf("fit: %d directions, but recipe %s has no basis", s.Directions, name)
		}
		d.Features, d.KernelSize = [][3]int{in, {16, 16, 128}, {32, h, 128}, {64, h, 128}, {t, h, w}}, 3
		c.Steps, c.Batch, c.LearningRate, c.WarmUp, c.Average, c.TokenDrop = 400, 4, 1e-3, 30, 0.99, 0.3
		if s.Joint {
			c.JointShare = 0.5
		}
		c.SetLoss(LossBoth)
		c.Task.Share = 2
	default:
		return Config{}, fmt.Errorf("fit: recipe %q, expected %s", name, strings.Join(Recipes, " or "))
	}
	if s.Steps > 0 {
		c.WarmUp, c.Steps = c.WarmUp*s.Steps/c.Steps, s.Steps
	}
	c.Task.Records, c.Task.BaseDType = 2, lm.BF16
	if name == RecipeTokens {
		c.Task.From = c.Steps / 4
	}
	c.SetDecoder(d)
	return c, c.Decoder.Validate()
}

// The columns of the chunks that tilingOf looks for. Wider ones make a decoder's last layers large,
// narrower ones make many tokens, each with a frame.
const minChunk, maxChunk = 8, 256

// tilingOf cuts a base's modules into chunks that all of them divide into.
func tilingOf(b lora.Base) (lora.Tiling, error) {
	divisor := 0
	for _, t := range b.Targets {
		divisor = gcd(gcd(divisor, t.In), t.Out)
	}
	for chunk := min(divisor, maxChunk); chunk >= minChunk; chunk-- {
		if divisor%chunk == 0 && chunk%2 == 0 {
			return lora.Tiling{Kind: lora.CustomCut, Height: (b.Rank + 3) / 2 * 2, Width: chunk + 2, Chunk: chunk}, nil
		}
	}
	return lora.Tiling{}, fmt.Errorf("fit: the modules' sizes have no even divisor from %d to %d in common (the greatest common one is %d), by which they could be cut into weight tokens: collect LoRAs of fewer kinds of modules, or write a layout",
		minChunk, maxChunk, divisor)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Describe reads of what base the checkpoints in a folder that collect wrote are, and how many data
// sets it has; names are OpenData's, which checks all of them.
func Describe(dir string, names []string) (lora.Base, int, error) {
	names, err := setNames(dir, names)
	if err != nil {
		return lora.Base{}, 0, err
	}
	var all []error
	for _, name := range names {
		a, _, err := collect.Last(filepath.Join(dir, name))
		if err == nil {
			return a.Base, len(names), nil
		}
		all = append(all, fmt.Errorf("data set %s: %w", name, err))
	}
	return lora.Base{}, 0, errors.Join(all...)
}
