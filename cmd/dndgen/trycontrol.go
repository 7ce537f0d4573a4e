package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// The controls of try.
const (
	controlShuffled = "shuffled" // made of the same words, in an order that asks nothing
	controlMean     = "mean"     // what all adapters of the generator have in common
)

// controls are the flags that name what try makes adapters of.
type controls struct {
	prompts, field, generator string
	keys                      *generators.Keys
	kinds                     []string
}

func (c *controls) check(adapters []string) error {
	if len(adapters) == 0 && c.prompts == "" {
		return cli.Usagef("--adapter and --prompts are missing: expected an adapter, or the prompts to make one of")
	}
	seen := map[string]bool{}
	for _, kind := range c.kinds {
		if err := cli.OneOf("control", kind, controlShuffled, controlMean); err != nil {
			return err
		}
		if kind == controlShuffled && c.prompts == "" {
			return cli.Usagef("--control %s: expected --prompts, too: those that the adapter was made of", kind)
		}
		if seen[kind] {
			return cli.Usagef("--control %s is there twice", kind)
		}
		seen[kind] = true
	}
	if len(c.kinds) == 0 && len(adapters) > 0 && (c.prompts != "" || c.generator != "" || c.field != "") {
		return cli.Usagef("--prompts, --field and --generator with --adapter are for --control: expected that, too")
	}
	return nil
}

// make makes the adapters that were asked for: of the prompts, unless adapters are there
// already, and the controls. Their seed and draw are the first adapter's.
func (c *controls) make(ctx context.Context, e *cli.Env, there []*candidate, device int) ([]*candidate, error) {
	if len(there) > 0 && len(c.kinds) == 0 {
		return nil, nil
	}
	p, err := openPackage(ctx, e, c.generator, c.keys)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Manifest.Complete(); err != nil {
		return nil, err
	}
	var from lora.Provenance
	if len(there) > 0 {
		if info, err := lora.ReadInfo(there[0].name); err == nil {
			from = info.Provenance
		}
		if from.GeneratorSHA256 != p.SHA256 {
			e.Message("note: %s is not known to be of generator %s: a control of another generator says little about it", there[0].name, p.Manifest.Name)
		}
	}
	var texts []string
	if c.prompts != "" {
		list, err := readPrompts(c.prompts, c.field)
		if err != nil {
			return nil, err
		}
		if len(there) > 0 && from.PromptsSHA256 != text.Hash(list) {
			e.Message("note: %s is not known to be made of %s: a control of other prompts says little about it", there[0].name, c.prompts)
		}
		texts, _ = text.Draw(list, p.Manifest.Condition.Texts, from.Seed, from.Draw)
	}
	var made []*candidate
	if len(there) == 0 {
		made = append(made, &candidate{name: generatedName})
	}
	for _, kind := range c.kinds {
		made = append(made, &candidate{name: kind, control: true})
	}
	m := &maker{e: e, p: p, device: device}
	defer m.close()
	for _, x := range made {
		switch {
		case x.name == controlMean && x.control:
			x.adapter, err = meanAdapter(p)
		case x.control:
			x.adapter, err = m.make(ctx, shuffle(texts, from.Seed))
		default:
			x.adapter, err = m.make(ctx, texts)
		}
		if err != nil {
			return nil, err
		}
	}
	// A control is as strong as what it is the control of, however far its own texts may be.
	first := slices.Concat(there, made)[0].adapter.Base
	for _, x := range made {
		if x.control {
			x.adapter.Base.Alpha = first.Alpha / float64(first.Rank) * float64(x.adapter.Base.Rank)
		}
	}
	return made, nil
}

// shuffle spreads the words of all texts over them in random order; each text keeps its
// number of words. Texts without spaces are taken apart by characters.
func shuffle(texts []string, seed int64) []string {
	split, glue := strings.Fields, " "
	words := func() (all []string) {
		for _, t := range texts {
			all = append(all, split(t)...)
		}
		return all
	}
	all := words()
	if len(all) < 2*len(texts) {
		split, glue = func(s string) []string { return strings.Split(s, "") }, ""
		all = words()
	}
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	out := make([]string, len(texts))
	for i, t := range texts {
		n := len(split(t))
		out[i], all = strings.Join(all[:n], glue), all[n:]
	}
	return out
}

// meanAdapter is what a generator's decoder gives for a condition that tells it nothing: the
// mean of the weight tokens that it was fitted on, averaged with the joint LoRA if it has a share of one.
func meanAdapter(p *generator.Package) (*lora.Adapter, error) {
	m := &p.Manifest
	if !m.Decoder.Affine {
		return nil, cli.Usagef("--control %s: generator %s does not carry the mean of the adapters that it was trained on", controlMean, m.Name)
	}
	shape := m.Decoder.Output()
	raw := make([]byte, 4*shape[0]*shape[1]*shape[2])
	if err := p.Weights().ReadWeights(decoder.Prefix+"output.offset", string(safetensors.F32), 0, raw); err != nil {
		return nil, err
	}
	return generator.Finish(m, generator.Float32s(raw), nil)
}

// maker makes adapters of texts, on a backend that it opens when the first is asked for.
type maker struct {
	e      *cli.Env
	p      *generator.Package
	device int
	runner generator.Runner
}

func (m *maker) make(ctx context.Context, texts []string) (a *lora.Adapter, err error) {
	if m.runner == nil {
		b := &backendFlags{backends.Options{Backend: backends.Auto, Device: m.device, Weights: "f32"}}
		if m.runner, err = b.open(m.e); err != nil {
			return nil, err
		}
	}
	watch := stopwatch{e: m.e}
	tokens, nearest, err := generator.WeightTokens(ctx, m.p, m.runner, texts, watch.time)
	if err != nil {
		return nil, err
	}
	return generator.Finish(&m.p.Manifest, tokens, nearest)
}

func (m *maker) close() {
	if m.runner != nil {
		m.runner.Close()
	}
}
