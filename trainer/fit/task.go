package fit

import (
	"errors"
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// Task is what the loss on answers needs: the base model and, for each data set by its
// name, records as the model's tokens.
type Task struct {
	Model    *lm.Model
	Examples map[string][]lm.Example
}

// answers is the loss on answers for one run: the base model's negative log-likelihood of
// the records' answers, through the adapters that the decoder's output stands for.
type answers struct {
	task     *Task
	layout   *lora.Layout
	size     lm.Size
	examples [][]lm.Example // of each data set, in the order of Data.Sets

	// Copies for each device: the base's weights and, for an Affine decoder, scale
	// (1,T,1,1) and offset (1,T,h,w) that undo the standardisation.
	constants [][]*tensors.Tensor
	own       []*tensors.Tensor // what close frees

	start *regression // what data sets are left out of, with Config.LeaveOut; nil without
}

// sizeStep rounds the length of rows up, so that similar data sets compile alike.
const sizeStep = 16

// newAnswers checks the records against the data sets.
func newAnswers(c *Config, t *Task, d *Data) (*answers, error) {
	if t == nil || t.Model == nil {
		return nil, errors.New("the loss on answers needs the base model and records")
	}
	a := &answers{task: t, layout: d.layout}
	all := []error{d.layout.Reversible()}
	if err := same(d.Base, t.Model.Config.Base(d.Base.Rank, d.Base.Alpha)); err != nil {
		all = append(all, fmt.Errorf("the base model: %w", err))
	}
	if have := t.Model.DType(); have != c.Task.BaseDType {
		all = append(all, fmt.Errorf("the base model is in %s, the configuration says %s", have, c.Task.BaseDType))
	}
	for _, s := range d.Sets {
		list := t.Examples[s.Name]
		if len(list) == 0 {
			all = append(all, fmt.Errorf("data set %s: no record for the loss on answers", s.Name))
		}
		a.examples = append(a.examples, list)
		for _, e := range list {
			a.size.Length, a.size.Answers = max(a.size.Length, e.Tokens()), max(a.size.Answers, len(e.Answer))
		}
	}
	a.size.Length = (a.size.Length + sizeStep - 1) / sizeStep * sizeStep
	return a, errors.Join(all...)
}

// place puts what every step reads on the devices.
func (a *answers) place(c *Config, st *Standard, devices int) error {
	if c.LeaveOut {
		a.start = st.start
	}
	for d := range devices {
		weights := a.task.Model.Weights()
		if d > 0 {
			var err error
			if weights, err = copied(weights); err != nil {
				return err
			}
			a.own = append(a.own, weights...)
		}
		list := append([]*tensors.Tensor(nil), weights...)
		if st != nil {
			t, h, w := a.layout.Shape()
			standard := []*tensors.Tensor{tensors.FromFlatDataAndDimensions(st.Scale, 1, t, 1, 1), tensors.FromFlatDataAndDimensions(st.Offset, 1, t, h, w)}
			a.own = append(a.own, standard...)
			list = append(list, standard...)
		}
		a.constants = append(a.constants, list)
	}
	return nil
}

func (a *answers) close() { backend.Free(a.own) }

// batch are a shard's records as arguments of the graph: ids, positions, labels and their
// weight, Config.Task.Records rows an item.
func (a *answers) batch(items []pick) ([]*tensors.Tensor, error) {
	var list []lm.Example
	for _, item := range items {
		for _, i := range item.records {
			list = append(list, a.examples[item.set][i])
		}
	}
	in, err := lm.Inputs(list, a.size)
	if err != nil {
		return nil, err
	}
	out := make([]*tensors.Tensor, len(in))
	for i, x := range in {
		out[i] = x.(*tensors.Tensor)
	}
	if a.start != nil {
		var h, z []float32
		for _, item := range items {
			h = append(h, a.start.leverage[item.set])
			z = append(z, a.start.coordinates[item.set]...)
		}
		out = append(out, tensors.FromFlatDataAndDimensions(h, len(h), 1, 1, 1), tensors.FromFlatDataAndDimensions(z, len(h), len(z)/len(h)))
	}
	return out, nil
}

// inputs is the number of batch's tensors.
func (a *answers) inputs() int {
	if a.start != nil {
		return 6
	}
	return 4
}

// tokens is the number of tokens that a step's answers have.
func (a *answers) tokens(items []pick) int {
	n := 0
	for _, item := range items {
		for _, i := range item.records {
			n += len(a.examples[item.set][i].Answer)
		}
	}
	return n
}

// loss is the sum of the negative log-likelihoods of all answers' tokens. output is the
// decoder's (items,T,h,w), target the checkpoints', basis the regression's (T·h·w,r) or nil, batch as
// batch makes it, constants as place does.
func (a *answers) loss(output, target, basis *graph.Node, batch, constants []*graph.Node) *graph.Node {
	if a.start != nil {
		// Without a point, a regression misses it by the residual over 1-h: h/(1-h) residuals more
		// than with it. What the fit has changed since is not of the regression: it stays as an unseen
		// data set would get it. Padding, NaN, belongs to no matrix.
		h, z := batch[4], batch[5]
		target = graph.Where(graph.Equal(target, target), target, graph.ZerosLike(target))
		residual := graph.Sub(model.Expand(basis, z, [3]int(output.Shape().Dimensions[1:])), target)
		output = graph.Add(output, graph.Mul(graph.Div(h, graph.OneMinus(h)), residual))
	}
	n := len(a.task.Model.Weights())
	base, standard := constants[:n], constants[n:]
	if len(standard) > 0 {
		output = graph.Add(graph.Mul(output, standard[0]), standard[1])
	}
	x, y := model.Matrices(a.layout, output)
	b := a.layout.Base()
	nll, _ := a.task.Model.Losses(base, x, y, b.Alpha/float64(b.Rank), batch[0], batch[1], batch[2])
	return graph.ReduceAllSum(graph.Mul(nll, graph.Reshape(batch[3], nll.Shape().Size())))
}

// copied are tensors of equal values.
func copied(list []*tensors.Tensor) ([]*tensors.Tensor, error) {
	out := make([]*tensors.Tensor, len(list))
	for i, x := range list {
		var err error
		if out[i], err = x.LocalClone(); err != nil {
			return nil, fmt.Errorf("fit: copy to another device: %w", err)
		}
	}
	return out, nil
}
