package science

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// conditions are prompts of every task as the text encoder reads them, (length, width)
// each, with zeros at padding.
type conditions struct {
	length, width int
	seen, unseen  map[Task][][]float32 // by wording
}

// encodePrompts encodes each task's prompts in both wordings. They are no records of the
// corpus, so that a test task's prompts are not those that it is scored on.
func encodePrompts(ctx context.Context, c *Config, dir string, b backend.Backend, report func(done, total int)) ([]safetensors.Tensor, error) {
	p, err := generator.OpenEncoder(dir, c.Generator.Texts, c.Generator.Length)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	tokenizer, err := p.Tokenizer()
	if err != nil {
		return nil, err
	}
	r := infer.New(b)
	defer r.Close()
	var list []safetensors.Tensor
	all := tasks(c.Values)
	config := p.Manifest.Encoder.Config
	row := c.Prompts * c.Generator.Length * config.HiddenSize
	// A call reads the encoder's weights, so it gets the prompts of several tasks.
	for from := 0; from < len(all); from += encodeTasks {
		group := all[from:min(from+encodeTasks, len(all))]
		var prompts []string
		for i, t := range group {
			for wording, unseen := range []bool{false, true} {
				for _, record := range t.records(seedPrompts+int64(1000*wording+from+i), c.Prompts, unseen) {
					prompts = append(prompts, record.Prompt)
				}
			}
		}
		in, err := tokenizer.Encode(prompts, c.Generator.Length)
		if err != nil {
			return nil, err
		}
		v, err := r.Encode(ctx, config, p.Weights(), in.IDs, in.Mask, len(prompts), c.Generator.Length, pads, nil)
		if err != nil {
			return nil, err
		}
		for i, t := range group {
			for wording, unseen := range []bool{false, true} {
				at := (2*i + wording) * row
				list = append(list, safetensors.FromFloat32s(conditionName(t, unseen), safetensors.F16, v[at:at+row], c.Prompts, c.Generator.Length, config.HiddenSize))
			}
		}
		report(from+len(group), len(all))
	}
	return list, nil
}

// encodeTasks is how many tasks' prompts are encoded at a time.
const encodeTasks = 12

func conditionName(t Task, unseen bool) string {
	if unseen {
		return t.String() + ".unseen"
	}
	return t.String()
}

func readConditions(f *safetensors.File, list []Task) (*conditions, error) {
	d := &conditions{seen: map[Task][][]float32{}, unseen: map[Task][][]float32{}}
	for _, t := range list {
		for _, part := range []struct {
			to     map[Task][][]float32
			unseen bool
		}{{d.seen, false}, {d.unseen, true}} {
			name := conditionName(t, part.unseen)
			info, ok := f.Lookup(name)
			if !ok || len(info.Shape) != 3 {
				return nil, fmt.Errorf("science: conditions lack tensor %s of three axes", name)
			}
			v, err := f.Float32s(name)
			if err != nil {
				return nil, err
			}
			d.length, d.width = info.Shape[1], info.Shape[2]
			n := d.length * d.width
			for at := 0; at < len(v); at += n {
				part.to[t] = append(part.to[t], v[at:at+n:at+n])
			}
		}
	}
	return d, nil
}

// drawn appends n of a task's prompts as a condition (n, length, width).
func drawn(to []float32, prompts [][]float32, n int, rng *rand.Rand) []float32 {
	for _, i := range rng.Perm(len(prompts))[:n] {
		to = append(to, prompts[i]...)
	}
	return to
}

// pooled is the mean over the tokens of the prompts of a condition (prompts, length,
// width); a token of zeros is padding.
func (d *conditions) pooled(condition []float32) []float64 {
	mean := make([]float64, d.width)
	count := 0.0
	for at := 0; at < len(condition); at += d.width {
		token := condition[at : at+d.width]
		if token[0] == 0 && token[1] == 0 {
			continue
		}
		for i, v := range token {
			mean[i] += float64(v)
		}
		count++
	}
	for i := range mean {
		mean[i] /= max(count, 1)
	}
	return mean
}

// dropTokens sets a share of a condition's tokens to zero, as padding is: what a generator
// reads must not hang on single words.
func dropTokens(condition []float32, width int, share float64, rng *rand.Rand) {
	for at := 0; at < len(condition); at += width {
		if rng.Float64() < share {
			clear(condition[at : at+width])
		}
	}
}
