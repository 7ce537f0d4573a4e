package generator

import (
	"context"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// Stage runs a step of WeightTokens, "encode" or "decode", and returns its error: where progress is
// shown and time is taken. nil runs each as it is.
type Stage func(name string, run func(report func(graph.Progress)) error) error

func (s Stage) do(name string, run func(report func(graph.Progress)) error) error {
	if s == nil {
		return run(nil)
	}
	return s(name, run)
}

// Generate makes an adapter of a task's prompts, whole: which of them make the condition, seed and
// draw say (text.Draw). nearest is how far they are from the training tasks, nil where the package
// does not know these.
func Generate(ctx context.Context, p *Package, r Runner, prompts []string, seed int64, draw int, stage Stage) (a *lora.Adapter, nearest *Nearest, err error) {
	texts, _ := text.Draw(prompts, p.Manifest.Condition.Texts, seed, draw)
	tokens, nearest, err := WeightTokens(ctx, p, r, texts, stage)
	if err != nil {
		return nil, nil, err
	}
	a, err = Finish(&p.Manifest, tokens, nearest)
	return a, nearest, err
}

// WeightTokens is Generate up to the weight tokens (T,h,w), of the texts of one condition; Finish
// makes an adapter of them.
func WeightTokens(ctx context.Context, p *Package, r Runner, texts []string, stage Stage) (tokens []float32, nearest *Nearest, err error) {
	condition, batch, err := Encode(ctx, p, r, texts, stage)
	if err != nil {
		return nil, nil, err
	}
	if nearest, err = p.Manifest.Nearest(condition, batch.Mask); err != nil {
		return nil, nil, err
	}
	err = stage.do("decode", func(report func(graph.Progress)) (err error) {
		tokens, err = r.Decode(ctx, p, condition, 1, report)
		return err
	})
	return tokens, nearest, err
}

// Encode is WeightTokens up to the condition (N,L,C); batch is what it was made of.
func Encode(ctx context.Context, p *Package, r Runner, texts []string, stage Stage) (condition []float32, batch text.Batch, err error) {
	tokenizer, err := p.Tokenizer()
	if err != nil {
		return nil, batch, err
	}
	if batch, err = tokenizer.Encode(texts, p.Manifest.Condition.Length); err != nil {
		return nil, batch, err
	}
	err = stage.do("encode", func(report func(graph.Progress)) (err error) {
		condition, err = r.Encode(ctx, p, batch, report)
		return err
	})
	return condition, batch, err
}
