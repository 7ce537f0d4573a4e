package fit

import (
	"context"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// conditions encodes the first prompts of each data set with a text encoder, one row (L,C) a
// prompt, and sums up where the data sets lie. The reference's dropout in the frozen encoder
// is not reproduced (RATIONALE.md).
func conditions(ctx context.Context, c *Config, d *Data, e *generator.Package, b backend.Backend, report func(done, total int)) (all [][][]float32, coverage *generator.Coverage, err error) {
	tokenizer, err := e.Tokenizer()
	if err != nil {
		return nil, nil, err
	}
	// All prompts at once, so that those of similar length are encoded together.
	var prompts, names []string
	for i := range d.Sets {
		names = append(names, d.Sets[i].Name)
		prompts = append(prompts, d.Sets[i].Prompts[:pool(c, &d.Sets[i])]...)
	}
	in, err := tokenizer.Encode(prompts, c.Length)
	if err != nil {
		return nil, nil, err
	}
	runner := infer.New(b)
	defer runner.Close()
	config := e.Manifest.Encoder.Config
	values, err := runner.Encode(ctx, config, e.Weights(), in.IDs, in.Mask, in.Texts, in.Length, c.Pads, func(p graph.Progress) {
		report(int(p.Done*int64(in.Texts)/max(p.Total, 1)), in.Texts)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("fit: encode prompts: %w", err)
	}
	size := c.Length * config.HiddenSize
	all = make([][][]float32, len(d.Sets))
	centers := make([][]float32, len(d.Sets))
	at := 0
	for i := range d.Sets {
		var pooled generator.Pool
		for range pool(c, &d.Sets[i]) {
			row := values[at*size : (at+1)*size : (at+1)*size]
			all[i] = append(all[i], row)
			pooled.Add(row, in.Mask[at*c.Length:(at+1)*c.Length])
			at++
		}
		centers[i] = pooled.Vector()
	}
	coverage, err = generator.NewCoverage(names, centers)
	return all, coverage, err
}

func pool(c *Config, s *DataSet) int {
	if c.Prompts == 0 {
		return len(s.Prompts)
	}
	return min(c.Prompts, len(s.Prompts))
}
