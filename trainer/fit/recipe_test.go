package fit_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// The recipes are what the shipped generators were fitted by: settings of the plans, layouts and
// bases of the packages.
func TestForRecipe(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	for name, files := range map[string][3]string{fit.RecipeBasis: {"inputs", "layout-linear.json", "tier-m-inputs.json"}, fit.RecipeTokens: {"default", "layout.json", "tier-m-short.json"}} {
		p := must[*generator.Package](t)(generator.Open(filepath.Join(models, files[0])))
		defer p.Close()
		got := must[fit.Config](t)(fit.ForRecipe(name, fit.Sizes{Base: *p.Manifest.Base, Sets: len(p.Manifest.Provenance.DataSets), Texts: 16, Length: 64, Width: 384, Joint: name == fit.RecipeTokens}))

		var plan struct{ Fit json.RawMessage }
		if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(models, files[2]))), &plan); err != nil {
			t.Fatal(err)
		}
		want, layout := fit.Defaults(), must[generator.Layout](t)(generator.ReadLayout(filepath.Join(models, files[1])))
		if err := json.Unmarshal(plan.Fit, &want); err != nil {
			t.Fatal(err)
		}
		want.SetDecoder(layout.Decoder)
		want.Tiling = layout.Tiling
		if !reflect.DeepEqual(got, want) {
			t.Errorf("recipe %s is\n%+v, want\n%+v", name, got, want)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("recipe %s: %v", name, err)
		}
	}
}

func baseOf(rank int, sizes ...int) lora.Base {
	b := lora.Base{Rank: rank, Alpha: 2 * float64(rank)}
	for i, name := range []string{"self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"}[:len(sizes)/2] {
		b.Targets = append(b.Targets, lora.Target{Name: "model.layers.0." + name, In: sizes[2*i], Out: sizes[2*i+1]})
	}
	return b
}

// A recipe's decoder is sized by what it is fitted on.
func TestRecipeSizes(t *testing.T) {
	for _, x := range []struct {
		name       string
		base       lora.Base
		sets, want int // directions
		chunk      int
		tokens     [3]int
		directions int
	}{
		{"Llama 3.2 1B", baseOf(16, 2048, 2048, 2048, 512, 8192, 2048), 30, 12, 256, [3]int{16 + 10 + 40, 18, 258}, 0},
		{"Qwen2.5 0.5B", baseOf(8, 896, 896, 896, 128), 2, 1, 128, [3]int{14 + 8, 10, 130}, 0},
		{"odd rank", baseOf(3, 64, 64), 20, 8, 64, [3]int{2, 6, 66}, 0},
		{"asked for", baseOf(4, 96, 144), 20, 3, 48, [3]int{5, 6, 50}, 3},
	} {
		s := fit.Sizes{Base: x.base, Sets: x.sets, Texts: 8, Length: 32, Width: 384, Directions: x.directions, Steps: 24}
		c, err := fit.ForRecipe(fit.RecipeBasis, s)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		if c.Decoder.Rank() != x.want || c.Tiling.Chunk != x.chunk || c.Decoder.Output() != x.tokens || c.Texts != 8 || c.Length != 32 || c.Steps != 24 || c.WarmUp != 1 {
			t.Errorf("%s: %d directions, chunks of %d, tokens %v, %+v", x.name, c.Decoder.Rank(), c.Tiling.Chunk, c.Decoder.Output(), c)
		}
		s.Directions = 0
		if c, err = fit.ForRecipe(fit.RecipeTokens, s); err != nil || c.Decoder.Output() != x.tokens || c.JointShare != 0 || c.Task.From != 6 {
			t.Errorf("%s: weight tokens %v, share of a joint LoRA %v, %+v, %v", x.name, c.Decoder.Output(), c.JointShare, c.Task, err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	for want, change := range map[string]func(*fit.Sizes) string{
		"greatest common one is 4":       func(s *fit.Sizes) string { s.Base = baseOf(4, 20, 64); return fit.RecipeBasis },
		"recipe tokens has no basis":     func(s *fit.Sizes) string { s.Directions = 2; return fit.RecipeTokens },
		"expected basis or tokens":       func(s *fit.Sizes) string { return "soup" },
		"features 0: shape [0 32 384] i": func(s *fit.Sizes) string { s.Texts = 0; return fit.RecipeBasis },
	} {
		s := fit.Sizes{Base: baseOf(4, 64, 64), Sets: 20, Texts: 8, Length: 32, Width: 384}
		if _, err := fit.ForRecipe(change(&s), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
