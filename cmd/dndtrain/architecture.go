package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// architectureFlags say what decoder fit fits, and with what settings.
type architectureFlags struct {
	flags                     *pflag.FlagSet
	recipe, shape, layout     string
	texts, length, directions int
}

// ofRecipe are the flags that size a recipe's decoder.
var ofRecipe = []string{"texts", "length", "directions"}

func addArchitectureFlags(flags *pflag.FlagSet) *architectureFlags {
	a := &architectureFlags{flags: flags}
	flags.StringVar(&a.recipe, "recipe", "", "settings of a shipped generator, and a decoder like its, sized by --data: "+fit.RecipeBasis+" (adds up directions of the data sets' adapters, as models/inputs; export it with --basis-share 0.7) or "+
		fit.RecipeTokens+" (makes weight tokens, as models/default); both fit by the base model's loss, and flags below change single settings")
	flags.StringVar(&a.shape, "shape", "", "in place of --recipe, decoder and recipe of the reference: "+strings.Join(generator.Shapes(), ", ")+"; flags below change single numbers of it")
	flags.StringVar(&a.layout, "layout", "", "in place of --recipe, JSON file: the decoder's class, features and kernel_size, and the tokenizer")
	flags.IntVar(&a.texts, "texts", 16, "with --recipe: prompts of a condition")
	flags.IntVar(&a.length, "length", 64, "with --recipe: text tokens of a prompt, the rest of which is cut off")
	flags.IntVar(&a.directions, "directions", 0, "with --recipe "+fit.RecipeBasis+": size of the basis (default: nine of 22 data sets; what fit prints at its end tells whether that is right)")
	return a
}

// name says which it is.
func (a *architectureFlags) name() string { return a.recipe + a.shape + a.layout }

// source is what a recipe is sized by.
type source struct {
	data    string
	sets    []string
	encoder string
	joint   bool
}

// configure takes decoder, tiling and settings from a recipe or a named shape, or decoder and
// tiling from a layout file. Settings that a flag gave stay.
func (a *architectureFlags) configure(e *cli.Env, c *fit.Config, from source) error {
	given := 0
	for _, name := range []string{a.recipe, a.shape, a.layout} {
		if name != "" {
			given++
		}
	}
	if given != 1 {
		return cli.Usagef("one of --recipe, --shape and --layout is needed: %s; %s; %s", a.flags.Lookup("recipe").Usage, a.flags.Lookup("shape").Usage, a.flags.Lookup("layout").Usage)
	}
	if a.recipe != "" {
		return a.sized(e, c, from)
	}
	for _, name := range ofRecipe {
		if a.flags.Changed(name) {
			return cli.Usagef("--%s goes with --recipe: a shape or a layout has its own", name)
		}
	}
	if a.layout != "" {
		l, err := generator.ReadLayout(a.layout)
		if err != nil {
			return err
		}
		c.SetDecoder(l.Decoder)
		c.Tiling = l.Tiling
		return nil
	}
	r, err := fit.ForShape(a.shape)
	if err != nil {
		return cli.Usagef("--shape: %w", err)
	}
	return a.replace(c, r)
}

// sized takes a recipe's configuration.
func (a *architectureFlags) sized(e *cli.Env, c *fit.Config, from source) error {
	if err := cli.OneOf("recipe", a.recipe, fit.Recipes...); err != nil {
		return err
	}
	if err := cli.Required(a.flags, "data", "encoder"); err != nil {
		return err
	}
	if a.directions < 0 {
		return cli.Usagef("--directions is %d, expected 1 or more", a.directions)
	}
	s := fit.Sizes{Texts: a.texts, Length: a.length, Directions: a.directions, Joint: from.joint}
	if a.flags.Changed("steps") {
		s.Steps = c.Steps
	}
	text, errText := generator.OpenEncoder(from.encoder, a.texts, a.length)
	if errText == nil {
		s.Width = text.Manifest.Encoder.Config.HiddenSize
		errText = text.Close()
	}
	var errData error
	s.Base, s.Sets, errData = fit.Describe(from.data, from.sets)
	if err := errors.Join(errText, errData); err != nil {
		return err
	}
	r, err := fit.ForRecipe(a.recipe, s)
	if err != nil {
		return err
	}
	out := r.Decoder.Output()
	e.Message("recipe %s: %d weight tokens of %d x %d, in chunks of %d columns", a.recipe, out[0], out[1], out[2], r.Tiling.Chunk)
	if n := r.Decoder.Rank(); n > 0 {
		e.Message("a basis of %d directions for %d data sets", n, s.Sets)
	}
	return a.replace(c, r)
}

// replace sets c to r but for what flags gave.
func (a *architectureFlags) replace(c *fit.Config, r fit.Config) error {
	given := map[string]string{}
	a.flags.Visit(func(f *pflag.Flag) {
		if _, list := f.Value.(pflag.SliceValue); !list { // another Set adds to those
			given[f.Name] = f.Value.String()
		}
	})
	*c = r
	for name, value := range given {
		if err := a.flags.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}
