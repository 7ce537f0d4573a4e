package generator_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// counting is a Runner of constant networks, which notes what it is given.
type counting struct {
	generator.Runner
	texts  []int
	failed error
}

func (c *counting) Encode(_ context.Context, p *generator.Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	c.texts = append(c.texts, b.Texts)
	in := p.Manifest.Decoder.Condition()
	out := make([]float32, in[0]*in[1]*in[2])
	for i := range out {
		out[i] = float32(i%7) - 3
	}
	return out, c.failed
}

func (c *counting) Decode(_ context.Context, p *generator.Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	to := p.Manifest.Decoder.Output()
	out := make([]float32, batch*to[0]*to[1]*to[2])
	for i := range out {
		out[i] = condition[i%len(condition)] + float32(i%11)/100
	}
	return out, nil
}

// Generate draws the condition's texts, encodes, decodes and finishes, each stage once; the error of
// one ends it.
func TestGenerate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "generator")
	if err := madeup.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	p, err := generator.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, stages := &counting{}, []string{}
	stage := func(name string, run func(func(graph.Progress)) error) error {
		stages = append(stages, name)
		return run(nil)
	}
	prompts := []string{"one", "two", "three"}
	a, _, err := generator.Generate(t.Context(), p, r, prompts, 5, 1, stage)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(stages, []string{"encode", "decode"}) || !slices.Equal(r.texts, []int{p.Manifest.Condition.Texts}) {
		t.Errorf("stages %q with conditions of %v texts", stages, r.texts)
	}
	texts, _ := text.Draw(prompts, p.Manifest.Condition.Texts, 5, 1)
	tokens, _, err := generator.WeightTokens(t.Context(), p, r, texts, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := generator.Finish(&p.Manifest, tokens, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Pairs {
		if !slices.Equal(a.Pairs[i].A, b.Pairs[i].A) || !slices.Equal(a.Pairs[i].B, b.Pairs[i].B) {
			t.Fatalf("module %d differs from that of its stages", i)
		}
	}
	one, err := p.Tokenizer()
	if two, again := p.Tokenizer(); err != nil || again != nil || one != two {
		t.Errorf("the tokenizer was read twice, or %v, %v", err, again)
	}

	r.failed = errors.New("no such device")
	if _, _, err := generator.Generate(t.Context(), p, r, prompts, 5, 1, stage); !errors.Is(err, r.failed) || len(stages) != 3 {
		t.Errorf("error %v after stages %q", err, stages)
	}
}
