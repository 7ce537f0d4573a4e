package science

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// conditions are prompts of every task as the text encoder reads them, (length, width)
// each, with zeros at padding.
type conditions struct {
	length, width int
	seen, unseen  map[Task][][]float32 // by wording
	dropped       map[Task][][]float32 // of seen, with the encoder's dropout; nil without
}

// reader is the text encoder.
type reader struct {
	p         *generator.Package
	tokenizer *text.Tokenizer
	runner    *infer.Runner
	length    int
	pads      string
}

func openReader(c *Config, dir string, b backend.Backend) (*reader, error) {
	p, err := generator.OpenEncoder(dir, c.Generator.Texts, c.Generator.Length)
	if err != nil {
		return nil, err
	}
	r := &reader{p: p, runner: infer.New(b), length: c.Generator.Length, pads: c.Generator.Pads}
	if r.tokenizer, err = p.Tokenizer(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) close() {
	r.runner.Close()
	r.p.Close()
}

// read is the prompts as the encoder reads them, (prompts, length, width), and the width.
func (r *reader) read(ctx context.Context, prompts []string) ([]float32, int, error) {
	in, err := r.tokenizer.Encode(prompts, r.length)
	if err != nil {
		return nil, 0, err
	}
	config := r.p.Manifest.Encoder.Config
	v, err := r.runner.Encode(ctx, config, r.p.Weights(), in.IDs, in.Mask, len(prompts), r.length, r.pads, nil)
	return v, config.HiddenSize, err
}

// encode encodes each task's prompts in both wordings, and those of the outsiders in
// training's. They are no records of the corpus, so that a test task's prompts are not those
// that it is scored on.
func (r *reader) encode(ctx context.Context, c *Config, report func(done, total int)) ([]safetensors.Tensor, error) {
	sets := promptSets(c)
	var list []safetensors.Tensor
	done := 0
	// A call reads the encoder's weights, so it gets the prompts of several tasks.
	for group := range slices.Chunk(sets, encodeSets) {
		var prompts []string
		for _, x := range group {
			prompts = append(prompts, x.prompts()...)
		}
		v, width, err := r.read(ctx, prompts)
		if err != nil {
			return nil, err
		}
		for _, x := range group {
			n := x.n * c.Generator.Length * width
			list = append(list, safetensors.FromFloat32s(x.name(), safetensors.F16, v[:n], x.n, c.Generator.Length, width))
			v = v[n:]
		}
		done += len(group)
		report(done, len(sets))
	}
	return list, nil
}

// promptSet are a task's n prompts in one wording.
type promptSet struct {
	task   Task
	unseen bool
	n      int
	seed   int64
}

// promptSets are all: of each task in both wordings, of the outsiders in training's.
func promptSets(c *Config) []promptSet {
	var sets []promptSet
	known := tasks(c.Values)
	for i, t := range append(known, outsiders(c.Values)...) {
		sets = append(sets, seenPrompts(c, i, t))
		if i < len(known) {
			sets = append(sets, promptSet{t, true, c.UnseenPrompts, seedPrompts + 1000 + int64(i)})
		}
	}
	return sets
}

// seenPrompts are those of task i in the training's wording.
func seenPrompts(c *Config, i int, t Task) promptSet {
	return promptSet{t, false, c.Prompts, seedPrompts + int64(i)}
}

func (x promptSet) prompts() []string {
	var list []string
	for _, record := range x.task.records(x.seed, x.n, x.unseen) {
		list = append(list, record.Prompt)
	}
	return list
}

// name is the tensor's.
func (x promptSet) name() string {
	if x.unseen {
		return x.task.String() + ".unseen"
	}
	return x.task.String()
}

// encodeSets is how many of them are encoded at a time.
const encodeSets = 24

// outsiders are tasks of an operation that is none of the experiment's, in every vocabulary
// and style: none for an experiment of all operations.
func outsiders(values [3]int) []Task {
	if values[0] == len(operations) {
		return nil
	}
	var list []Task
	for _, t := range tasks([3]int{1, values[1], values[2]}) {
		list = append(list, Task{values[0], t[1], t[2]})
	}
	return list
}

func readConditions(f *safetensors.File, c *Config) (*conditions, error) {
	d := &conditions{seen: map[Task][][]float32{}, unseen: map[Task][][]float32{}}
	for _, x := range promptSets(c) {
		list, shape, err := readPrompts(f, x.name())
		if err != nil {
			return nil, err
		}
		d.length, d.width = shape[1], shape[2]
		if x.unseen {
			d.unseen[x.task] = list
		} else {
			d.seen[x.task] = list
		}
	}
	return d, nil
}

// readPrompts reads a tensor of prompts, (prompts, length, width).
func readPrompts(f *safetensors.File, name string) (list [][]float32, shape []int, err error) {
	info, ok := f.Lookup(name)
	if !ok || len(info.Shape) != 3 || info.Shape[1]*info.Shape[2] < 1 {
		return nil, nil, fmt.Errorf("science: conditions lack tensor %s of three axes", name)
	}
	v, err := f.Float32s(name)
	if err != nil {
		return nil, nil, err
	}
	return slices.Collect(slices.Chunk(v, info.Shape[1]*info.Shape[2])), info.Shape, nil
}

// training are the prompts that a task's conditions consist of in fitting.
func (d *conditions) training(t Task) [][]float32 {
	if d.dropped != nil {
		return d.dropped[t]
	}
	return d.seen[t]
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
