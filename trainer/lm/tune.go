package lm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Example is a tokenised prompt with its answer.
type Example struct{ Prompt, Answer []int32 }

// Tokens is the length of the model's input: the answer's last token is only predicted.
func (e Example) Tokens() int { return len(e.Prompt) + len(e.Answer) - 1 }

// batch is choices as arrays: ids (B,T), positions, labels and their weight (B,P); and the
// place and part (B,T) of packed.
type batch struct {
	ids, positions, labels []int32
	valid                  []float32
	place, part            []int32
	rows, length, answers  int
}

// SizeOf is the size that a batch of examples is padded to; each size is compiled once.
func SizeOf(examples []Example) Size {
	return sizeOf(alone(examples))
}

// paddedBatch pads examples to a size.
func paddedBatch(examples []Example, length, answers int) (batch, error) {
	return packedBatch(alone(examples), length, answers)
}

// packedBatch pads choices to a size, a row each.
func packedBatch(list []Choice, length, answers int) (batch, error) {
	b := batch{rows: len(list), length: length, answers: answers}
	if b.rows == 0 {
		return b, errors.New("lm: no examples, expected at least one")
	}
	for i, c := range list {
		if len(c.Prompt) == 0 || len(c.Answers) == 0 {
			return b, fmt.Errorf("lm: example %d has %d prompt tokens and %d answers, expected at least one of each", i, len(c.Prompt), len(c.Answers))
		}
		for _, answer := range c.Answers {
			if len(answer) == 0 {
				return b, fmt.Errorf("lm: example %d has an answer of no tokens, expected at least one", i)
			}
		}
		if s := c.size(); s.Length > length || s.Answers > answers {
			return b, fmt.Errorf("lm: example %d has %d tokens and an answer of %d, expected at most %d and %d", i, s.Length, s.Answers, length, answers)
		}
	}
	b.ids, b.place, b.part = make([]int32, b.rows*b.length), make([]int32, b.rows*b.length), make([]int32, b.rows*b.length)
	n := b.rows * b.answers
	b.positions, b.labels, b.valid = make([]int32, n), make([]int32, n), make([]float32, n)
	for i, c := range list {
		at, label := i*b.length, i*b.answers
		for j, id := range c.Prompt {
			b.ids[at+j], b.place[at+j] = id, int32(j)
		}
		end := len(c.Prompt)
		for part, answer := range c.Answers {
			for j, id := range answer {
				b.positions[label], b.labels[label], b.valid[label] = int32(end+j-1), id, 1
				if j == 0 { // the prompt's last token predicts the first of each answer
					b.positions[label] = int32(len(c.Prompt) - 1)
				}
				label++
			}
			for j, id := range answer[:len(answer)-1] {
				k := at + end + j
				b.ids[k], b.place[k], b.part[k] = id, int32(len(c.Prompt)+j), int32(part+1)
			}
			end += len(answer) - 1
		}
	}
	return b, nil
}

func (b *batch) args() []any {
	return []any{tensors.FromFlatDataAndDimensions(b.ids, b.rows, b.length), tensors.FromFlatDataAndDimensions(b.positions, b.rows, b.answers),
		tensors.FromFlatDataAndDimensions(b.labels, b.rows, b.answers), tensors.FromFlatDataAndDimensions(b.valid, b.rows, b.answers)}
}

// packing are the arrays of packed.
func (b *batch) packing() []any {
	return []any{tensors.FromFlatDataAndDimensions(b.place, b.rows, b.length), tensors.FromFlatDataAndDimensions(b.part, b.rows, b.length)}
}

// losses are the negative log-likelihoods (B·P) of the labels, and the logits.
func (n *network) losses(ids, positions, labels *graph.Node, p *packed) (nll, logits *graph.Node) {
	h := pick(n.hidden(ids, p), positions, ids.Shape().Dimensions[1])
	count := labels.Shape().Size()
	logits = n.matrix(h, n.head())
	peak := graph.StopGradient(graph.ReduceAndKeep(logits, graph.ReduceMax, -1))
	total := graph.Add(graph.Log(graph.ReduceSum(graph.Exp(graph.Sub(logits, peak)), -1)), graph.Reshape(peak, count))
	// A label's logit is its row of the head times the state: cheaper than a gather from
	// the logits, whose gradient would be a scatter of their size.
	row := graph.ConvertDType(graph.Gather(n.w[n.head()], graph.Reshape(labels, count, 1)), h.DType())
	return graph.Sub(total, graph.ReduceSum(graph.Mul(h, row), -1)), logits
}

// Tuner fits one LoRA at a time to a frozen model: answer-only loss, AdamW without
// decay, gradients clipped to norm 1. The step is compiled once for all data sets.
type Tuner struct{ loras }

var optimizer = adamw.Config{Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8, Clip: 1}

// NewTuner prepares LoRA of a rank and alpha. With trainA false, A keeps its first
// values and only B is tuned.
func (m *Model) NewTuner(rank int, alpha float64, trainA bool) (*Tuner, error) {
	t := &Tuner{loras{m: m, optimizer: optimizer, base: m.Config.Base(rank, alpha), trainA: trainA}}
	if err := t.base.Validate(); err != nil {
		return nil, err
	}
	targets := len(t.base.Targets)
	exec, err := m.exec(func(in []*graph.Node) []*graph.Node {
		ids, positions, labels, valid, rate, correct1, correct2 := in[0], in[1], in[2], in[3], in[4], in[5], in[6]
		w, a, b := m.split(in, 7)
		trained := b
		if trainA {
			trained = append(append([]*graph.Node{}, a...), b...)
		}
		moments := in[7+len(m.names)+2*targets:]
		first, second := moments[:len(trained)], moments[len(trained):]
		n := m.network(w, a, b, alpha/float64(rank))
		nll, _ := n.losses(ids, positions, labels, nil)
		mask := graph.Reshape(valid, valid.Shape().Size())
		loss := graph.Div(graph.ReduceAllSum(graph.Mul(nll, mask)), graph.ReduceAllSum(mask))
		grads := graph.Gradient(loss, trained...)
		next := adamw.Update(optimizer, trained, grads, first, second, rate, correct1, correct2)
		return slices.Concat([]*graph.Node{loss}, next.Params, next.First, next.Second)
	})
	if err != nil {
		return nil, fmt.Errorf("lm: build the tuning step: %w", err)
	}
	t.exec = exec
	return t, nil
}

// Reset starts a new LoRA as PEFT does: A uniform in ±1/√in, from the seed alone, and B
// zero. All data sets of one seed share their A.
func (t *Tuner) Reset(seed int64) { t.reset(seed) }

// Continue starts from an adapter of the tuner's rank and alpha, in place of Reset's LoRA.
func (t *Tuner) Continue(a *lora.Adapter) error {
	if err := t.fits(a); err != nil {
		return err
	}
	args, _, err := t.m.adapterArgs(a)
	if err != nil {
		return err
	}
	t.Reset(0)
	backend.Free(t.a, t.b)
	t.a, t.b = args[:len(t.a)], args[len(t.a):]
	return nil
}

// Step makes one step on examples and returns their mean loss a token.
func (t *Tuner) Step(examples []Example, rate float64) (float64, error) {
	size := SizeOf(examples)
	in, err := paddedBatch(examples, size.Length, size.Answers)
	if err != nil {
		return 0, err
	}
	return t.step(in.args(), rate)
}

// State copies what Restore needs to go on to the bit: matrices and AdamW's moments.
func (t *Tuner) State() ([]safetensors.Tensor, error) {
	var all []safetensors.Tensor
	for _, l := range t.lists() {
		for i, x := range l.tensors {
			v, err := tensors.CopyFlatData[float32](x)
			if err != nil {
				return nil, err
			}
			all = append(all, safetensors.FromFloat32s(l.name(i), safetensors.F32, v, x.Shape().Dimensions...))
		}
	}
	return all, nil
}

// Restore takes the tuner, after Reset, to a State that is so many steps from there.
func (t *Tuner) Restore(f *safetensors.File, steps int) error {
	for _, l := range t.lists() {
		for i, x := range l.tensors {
			v, err := f.Shaped(l.name(i), x.Shape().Dimensions...)
			if err != nil {
				return err
			}
			l.tensors[i] = tensors.FromFlatDataAndDimensions(v, x.Shape().Dimensions...)
			backend.Free([]*tensors.Tensor{x})
		}
	}
	t.steps = steps
	return nil
}

// Adapter copies the LoRA as it is now.
func (t *Tuner) Adapter() (*lora.Adapter, error) {
	a := &lora.Adapter{Base: t.base, Pairs: make([]lora.Pair, len(t.a))}
	for i := range t.a {
		var err error
		if a.Pairs[i].A, err = tensors.CopyFlatData[float32](t.a[i]); err != nil {
			return nil, err
		}
		if a.Pairs[i].B, err = tensors.CopyFlatData[float32](t.b[i]); err != nil {
			return nil, err
		}
	}
	return a, nil
}
