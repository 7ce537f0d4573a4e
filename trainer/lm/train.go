package lm

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
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
		loss := masked(m.network(params, nil, nil, 0).divergence(in[0], in[1], in[2]), in[3])
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
	free(t.first, t.second)
	t.exec.Finalize()
}

// Step makes one step. next says how likely every token is at every place of the examples'
// answers, (examples, Size.Answers, vocabulary), its rows summing to 1 where an answer has a
// token: so one example teaches all answers that its prompt may have, not just the one that
// was drawn. It returns the mean divergence from next in nats a token, whose least is 0.
func (t *Trainer) Step(examples []Example, next []float32, rate float64) (float64, error) {
	args, err := Inputs(examples, t.size)
	if err != nil {
		return 0, err
	}
	if want := len(examples) * t.size.Answers * t.m.Config.Vocab; len(next) != want {
		return 0, fmt.Errorf("lm: %d likelihoods of next tokens, expected %d", len(next), want)
	}
	args[2] = tensors.FromFlatDataAndDimensions(next, len(examples)*t.size.Answers, t.m.Config.Vocab)
	t.steps++
	args = append(args, float32(rate), float32(1-math.Pow(t.c.Beta1, float64(t.steps))), float32(1-math.Pow(t.c.Beta2, float64(t.steps))))
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
	free(t.m.weights, t.first, t.second)
	t.m.weights, t.first, t.second = out[1:1+k], out[1+k:1+2*k], out[1+2*k:]
	return finiteLoss(out[0], t.steps)
}

// divergence is, for each of the positions (B,P) of ids, by how many nats the model's
// distribution of the next token exceeds next (B·P,vocabulary): (B·P).
func (n *network) divergence(ids, positions, next *graph.Node) *graph.Node {
	h := pick(n.hidden(ids), positions, ids.Shape().Dimensions[1])
	logits := n.matrix(h, n.head())
	peak := graph.StopGradient(graph.ReduceAndKeep(logits, graph.ReduceMax, -1))
	total := graph.Add(graph.Log(graph.ReduceSum(graph.Exp(graph.Sub(logits, peak)), -1)), graph.Reshape(peak, next.Shape().Dimensions[0]))
	entropy := graph.ReduceSum(graph.Mul(next, graph.Log(graph.MaxScalar(next, 1e-30))), -1)
	return graph.Add(graph.Sub(total, graph.ReduceSum(graph.Mul(logits, next), -1)), entropy)
}

// finiteLoss reads a loss and frees it.
func finiteLoss(x *tensors.Tensor, step int) (float64, error) {
	loss := float64(tensors.ToScalar[float32](x))
	free([]*tensors.Tensor{x})
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("lm: the loss is %v at step %d: lower the learning rate", loss, step)
	}
	return loss, nil
}
