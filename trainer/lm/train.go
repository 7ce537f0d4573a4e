package lm

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Size is the padded shape of a batch's rows: tokens of a text, tokens of an answer. One
// size is compiled once.
type Size struct{ Length, Answers int }

// Inputs are examples padded to a size, as arguments of a graph that calls Losses: ids
// (rows,length); positions, labels and their weight, 1 or 0, (rows,answers).
func Inputs(examples []Example, s Size) ([]any, error) {
	b, err := paddedBatch(examples, s.Length, s.Answers)
	if err != nil {
		return nil, err
	}
	return b.args(), nil
}

// Trainer trains all weights of a model on the answers of examples.
type Trainer struct {
	m             *Model
	c             adamw.Config
	size          Size
	exec          *graph.Exec
	first, second []*tensors.Tensor
	steps         int
}

// NewTrainer prepares training with an optimizer's constants and batches of one size.
func (m *Model) NewTrainer(c adamw.Config, size Size) (*Trainer, error) {
	if m.half {
		return nil, errHalf
	}
	t := &Trainer{m: m, c: c, size: size}
	exec, err := graph.NewExec(m.b.Backend, func(in []*graph.Node) []*graph.Node {
		k := len(m.names)
		params, first, second := in[7:7+k], in[7+k:7+2*k], in[7+2*k:]
		nll, _ := m.Losses(params, nil, nil, 0, in[0], in[1], in[2])
		loss := masked(nll, in[3])
		next := adamw.Update(c, params, graph.Gradient(loss, params...), first, second, in[4], in[5], in[6])
		return slices.Concat([]*graph.Node{loss}, next.Params, next.First, next.Second)
	})
	if err != nil {
		return nil, fmt.Errorf("lm: build the training step: %w", err)
	}
	t.exec = exec
	for _, list := range []*[]*tensors.Tensor{&t.first, &t.second} {
		for _, w := range m.weights {
			*list = append(*list, tensors.FromShape(w.Shape()))
		}
	}
	return t, nil
}

// masked is the mean of nll (rows·answers) where valid (rows,answers) is 1.
func masked(nll, valid *graph.Node) *graph.Node {
	mask := graph.Reshape(valid, valid.Shape().Size())
	return graph.Div(graph.ReduceAllSum(graph.Mul(nll, mask)), graph.ReduceAllSum(mask))
}

// Close frees the optimizer's state; the model keeps its trained weights.
func (t *Trainer) Close() {
	backend.Free(t.first, t.second)
	t.exec.Finalize()
}

// Step makes one step and returns the mean loss of an answer's token.
func (t *Trainer) Step(examples []Example, rate float64) (float64, error) {
	args, err := Inputs(examples, t.size)
	if err != nil {
		return 0, err
	}
	t.steps++
	args = append(args, t.c.Scalars(rate, t.steps)...)
	for _, list := range [][]*tensors.Tensor{t.m.weights, t.first, t.second} {
		for _, x := range list {
			args = append(args, x)
		}
	}
	out, err := t.m.call(t.exec, args)
	if err != nil {
		return 0, fmt.Errorf("lm: training step %d: %w", t.steps, err)
	}
	k := len(t.first)
	backend.Free(t.m.weights, t.first, t.second)
	t.m.weights, t.first, t.second = out[1:1+k], out[1+k:1+2*k], out[1+2*k:]
	return finiteLoss(out[0], t.steps)
}

// finiteLoss reads a loss and frees it.
func finiteLoss(x *tensors.Tensor, step int) (float64, error) {
	loss := float64(tensors.ToScalar[float32](x))
	backend.Free([]*tensors.Tensor{x})
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("lm: the loss is %v at step %d: lower the learning rate", loss, step)
	}
	return loss, nil
}
