package lm

import (
	"context"
	"fmt"
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Model is a loaded base model. It is not safe for concurrent use.
type Model struct {
	Config    Config
	Tokenizer *llama.Tokenizer

	b       backend.Backend
	device  compute.DeviceNum
	half    bool // matrices are in bfloat16, with a transposed copy of each
	names   []string
	weights []*tensors.Tensor // of names, on the device
	answer  *graph.Exec
	score   *graph.Exec
}

// The precisions of Options.DType.
const (
	F32 = "f32"
	// BF16 keeps the base's matrices in bfloat16, and rounds what they are multiplied by;
	// sums, the LoRA and all else stay float32. Processors and GPUs with products of
	// bfloat16 are about twice as fast with it.
	BF16 = "bf16"
)

// Options are how a model is loaded; the zero value is F32 on the backend's first device.
type Options struct {
	DType  string // F32 or BF16; a base in BF16 cannot be trained itself
	Device int    // number of the backend's device
}

// Load reads a model from a Hugging Face folder or a GGUF file (weights dequantised to
// float32) onto a backend.
func Load(path string, b backend.Backend) (*Model, error) { return LoadWith(path, Options{}, b) }

// LoadWith is Load with options.
func LoadWith(path string, o Options, b backend.Backend) (*Model, error) {
	if o.DType == "" {
		o.DType = F32
	}
	if o.DType != F32 && o.DType != BF16 {
		return nil, fmt.Errorf("lm: dtype %q, expected %s or %s", o.DType, F32, BF16)
	}
	if n := b.NumDevices(); o.Device < 0 || o.Device >= n {
		return nil, fmt.Errorf("lm: device %d, but backend %s has %d, counted from 0", o.Device, b.Name, n)
	}
	c, t, weights, err := load(path, b)
	if err != nil {
		return nil, fmt.Errorf("lm: %w", err)
	}
	return newModel(*c, t, weights, o, b)
}

func newModel(c Config, t *llama.Tokenizer, weights map[string][]float32, o Options, b backend.Backend) (*Model, error) {
	half := o.DType == BF16
	m := &Model{Config: c, Tokenizer: t, b: b, device: compute.DeviceNum(o.Device), half: half}
	_, untied := weights[headName]
	add := func(name string, x *tensors.Tensor) { m.names, m.weights = append(m.names, name), append(m.weights, x) }
	for _, w := range weightList(&c, !untied) {
		if v := weights[w.name]; half && len(w.shape) == 2 {
			x, turned := halves(v, w.shape[0], w.shape[1])
			add(w.name, x)
			if w.name != embeddingName || !untied {
				add(transposed(w.name), turned)
			}
		} else {
			add(w.name, tensors.FromFlatDataAndDimensions(v, w.shape...))
		}
		delete(weights, w.name)
	}
	for _, x := range m.weights {
		if err := x.ToDevice(b.Backend, m.device); err != nil {
			return nil, fmt.Errorf("lm: %w", err)
		}
	}
	return m, nil
}

// Close frees the weights.
func (m *Model) Close() {
	for _, x := range m.weights {
		x.MustFinalizeAll()
	}
	for _, e := range []*graph.Exec{m.answer, m.score} {
		if e != nil {
			e.Finalize()
		}
	}
}

// DType is Options.DType of the model.
func (m *Model) DType() string {
	if m.half {
		return BF16
	}
	return F32
}

// exec is a graph of which one a size of batches is compiled.
func (m *Model) exec(f func([]*graph.Node) []*graph.Node) (*graph.Exec, error) {
	e, err := graph.NewExec(m.b.Backend, f)
	if err == nil {
		e.SetMaxCache(-1)
	}
	return e, err
}

// call runs a graph on the model's device.
func (m *Model) call(e *graph.Exec, args []any) ([]*tensors.Tensor, error) {
	out, _, err := e.CallWithGraphOnDevice(m.device, args...)
	return out, err
}

// network is a model's weights, and its adapter's, as nodes of one graph.
type network struct {
	c     *Config
	w     map[string]*graph.Node
	a, b  []*graph.Node // of every LoRA target; nil for none
	scale float64       // alpha/rank
}

func (m *Model) network(weights, a, b []*graph.Node, scale float64) *network {
	n := &network{c: &m.Config, w: make(map[string]*graph.Node, len(weights)), a: a, b: b, scale: scale}
	for i, name := range m.names {
		n.w[name] = weights[i]
	}
	return n
}

// linear is x (T,in) to (T,out): x·Wᵀ + scale·(x·Aᵀ)·Bᵀ + bias. The low-rank path stays
// apart, so that no gradient of W's size is ever made.
func (n *network) linear(x *graph.Node, layer, module int) *graph.Node {
	name := fmt.Sprintf("model.layers.%d.%s", layer, llama.Modules[module])
	y := n.matrix(x, name+".weight")
	if i := layer*len(llama.Modules) + module; n.a != nil {
		y = graph.Add(y, graph.MulScalar(product(product(x, n.a[i]), n.b[i]), n.scale))
	}
	if bias := n.w[name+".bias"]; bias != nil {
		y = graph.Add(y, graph.Reshape(bias, 1, bias.Shape().Size()))
	}
	return y
}

// matrix is x (T,in) times the transpose of a matrix (out,in) of the base.
func (n *network) matrix(x *graph.Node, name string) *graph.Node {
	if wt := n.w[transposed(name)]; wt != nil {
		return frozen(x, n.w[name], wt)
	}
	return product(x, n.w[name])
}

// product is x·Wᵀ of x (T,in) and W (out,in); or of W (groups,out,in), where equal parts
// of x's rows, in their order, have a matrix each.
func product(x, w *graph.Node) *graph.Node {
	if w.Rank() == 2 {
		return graph.Dot(x, graph.Transpose(w, 0, 1)).MatMul()
	}
	d := w.Shape().Dimensions
	rows := x.Shape().Dimensions[0]
	y := graph.Einsum("gni,goi->gno", graph.Reshape(x, d[0], rows/d[0], d[2]), w)
	return graph.Reshape(y, rows, d[1])
}

func (n *network) norm(x *graph.Node, name string) *graph.Node {
	square := graph.ReduceAndKeep(graph.Square(x), graph.ReduceMean, -1)
	return graph.Mul(graph.Div(x, graph.Sqrt(graph.AddScalar(square, n.c.NormEps))), graph.Reshape(n.w[name], 1, n.c.Hidden))
}

// packed are the rows of texts that share their beginning, as nodes (B,T): the position of
// each token in its own text, and 0 for those of the beginning, 1, 2, ... for the rest of
// each text, which the others do not see.
type packed struct{ place, part *graph.Node }

// hidden is ids (B,T) to the final hidden states (B·T, hidden). Texts are padded on the
// right: causal attention never sees the padding. p is nil where a row is one text.
func (n *network) hidden(ids *graph.Node, p *packed) *graph.Node {
	c := n.c
	b, t := ids.Shape().Dimensions[0], ids.Shape().Dimensions[1]
	x := graph.ConvertDType(graph.Gather(n.w[embeddingName], graph.Reshape(ids, b*t, 1)), dtypes.Float32)
	g := ids.Graph()
	cosine, sine := rotary(g, c, t)
	// (1 or B,T,T): minus infinity where the key comes after the query, or in another text.
	order := func(axis int) *graph.Node { return graph.Iota(g, shapes.Make(dtypes.Int32, 1, t, t), axis) }
	hide := graph.GreaterThan(order(2), order(1))
	if p != nil {
		at := func(table *graph.Node) *graph.Node {
			rows := graph.Gather(graph.Reshape(table, t, c.HeadDim), graph.Reshape(p.place, b*t, 1))
			return graph.Reshape(rows, b, t, 1, c.HeadDim)
		}
		cosine, sine = at(cosine), at(sine)
		query, key := graph.BroadcastToDims(graph.Reshape(p.part, b, t, 1), b, t, t), graph.BroadcastToDims(graph.Reshape(p.part, b, 1, t), b, t, t)
		other := graph.LogicalAnd(graph.NotEqual(key, graph.ZerosLike(key)), graph.NotEqual(key, query))
		hide = graph.LogicalOr(graph.BroadcastToDims(hide, b, t, t), other)
	}
	mask := graph.Where(hide, graph.Const(g, float32(-1e30)), graph.Const(g, float32(0)))
	mask = graph.Reshape(mask, -1, 1, 1, t, t)
	groups := c.Heads / c.KVHeads
	for i := range c.Layers {
		name := func(s string) string { return fmt.Sprintf("model.layers.%d.%s.weight", i, s) }
		h := n.norm(x, name("input_layernorm"))
		q := rotate(graph.Reshape(n.linear(h, i, 0), b, t, c.Heads, c.HeadDim), cosine, sine)
		k := rotate(graph.Reshape(n.linear(h, i, 1), b, t, c.KVHeads, c.HeadDim), cosine, sine)
		v := graph.Reshape(n.linear(h, i, 2), b, t, c.KVHeads, c.HeadDim)
		q = graph.Reshape(q, b, t, c.KVHeads, groups, c.HeadDim)
		scores := graph.MulScalar(graph.Einsum("bqkgd,bskd->bkgqs", q, k), 1/math.Sqrt(float64(c.HeadDim)))
		shares := graph.Softmax(graph.Add(scores, mask), -1)
		mixed := graph.TransposeAllAxes(graph.Einsum("bkgqs,bskd->bkgqd", shares, v), 0, 3, 1, 2, 4)
		x = graph.Add(x, n.linear(graph.Reshape(mixed, b*t, c.Heads*c.HeadDim), i, 3))
		h = n.norm(x, name("post_attention_layernorm"))
		up, gate := n.linear(h, i, 4), n.linear(h, i, 5)
		x = graph.Add(x, n.linear(graph.Mul(graph.Mul(gate, graph.Sigmoid(gate)), up), i, 6))
	}
	return n.norm(x, "model.norm.weight")
}

// head names the matrix (vocabulary, hidden) of the output.
func (n *network) head() string {
	if n.w[headName] != nil {
		return headName
	}
	return embeddingName
}

// rotary are the cosines and sines (1,T,1,HeadDim) of the positions.
func rotary(g *graph.Graph, c *Config, t int) (cos, sin *graph.Node) {
	frequencies := c.Frequencies()
	table := func(f func(float64) float64) *graph.Node {
		rows := make([][][]float32, t)
		for p := range t {
			row := make([]float32, c.HeadDim)
			for i := range row {
				row[i] = float32(f(float64(p) * frequencies[i%len(frequencies)]))
			}
			rows[p] = [][]float32{row}
		}
		return graph.Const(g, [][][][]float32{rows})
	}
	return table(math.Cos), table(math.Sin)
}

// rotate applies rotary positions to x (B,T,heads,HeadDim): x·cos + (-x₂,x₁)·sin.
func rotate(x, cos, sin *graph.Node) *graph.Node {
	half := x.Shape().Dimensions[3] / 2
	every := graph.AxisRange()
	first, second := graph.Slice(x, every, every, every, graph.AxisRange(0, half)), graph.Slice(x, every, every, every, graph.AxisRange(half))
	return graph.Add(graph.Mul(x, cos), graph.Mul(graph.Concatenate([]*graph.Node{graph.Neg(second), first}, -1), sin))
}

// pick gathers rows of states (B·T, hidden) at positions (B,P) of each text.
func pick(states, positions *graph.Node, t int) *graph.Node {
	b, p := positions.Shape().Dimensions[0], positions.Shape().Dimensions[1]
	start := graph.MulScalar(graph.Iota(states.Graph(), shapes.Make(dtypes.Int32, b, p), 0), t)
	return graph.Gather(states, graph.Reshape(graph.Add(positions, start), b*p, 1))
}

// Fits is an error for an adapter whose modules are not the model's.
func (m *Model) Fits(a *lora.Adapter) error {
	want := m.Config.Base(a.Base.Rank, a.Base.Alpha).Targets
	if len(a.Base.Targets) != len(want) {
		return fmt.Errorf("lm: the adapter has %d modules, the model %d", len(a.Base.Targets), len(want))
	}
	for i, t := range want {
		if a.Base.Targets[i] != t {
			return fmt.Errorf("lm: the adapter has module %+v where the model has %+v", a.Base.Targets[i], t)
		}
	}
	return nil
}

// adapterArgs are an adapter's matrices as arguments; for nil, zeros of rank 1.
func (m *Model) adapterArgs(a *lora.Adapter) (args []*tensors.Tensor, scale float64, err error) {
	base := m.Config.Base(1, 1)
	if a != nil {
		if err := m.Fits(a); err != nil {
			return nil, 0, err
		}
		base = a.Base
	}
	var second []*tensors.Tensor
	for i, t := range base.Targets {
		x, y := make([]float32, base.Rank*t.In), make([]float32, base.Rank*t.Out)
		if a != nil {
			x, y = a.Pairs[i].A, a.Pairs[i].B
		}
		args = append(args, tensors.FromFlatDataAndDimensions(x, base.Rank, t.In))
		second = append(second, tensors.FromFlatDataAndDimensions(y, t.Out, base.Rank))
	}
	return append(args, second...), base.Alpha / float64(base.Rank), nil
}

// Answers are the model's greedy answers to prompts, with an adapter or, for nil,
// without: at most maxTokens each, less where the turn ends.
func (m *Model) Answers(ctx context.Context, prompts []string, a *lora.Adapter, maxTokens int) ([]string, error) {
	texts := make([][]int32, len(prompts))
	longest := 0
	for i, p := range prompts {
		ids, err := m.Prompt("", p)
		if err != nil {
			return nil, err
		}
		texts[i] = ids
		longest = max(longest, len(ids))
	}
	end, err := m.Tokenizer.End()
	if err != nil {
		return nil, err
	}
	adapter, scale, err := m.adapterArgs(a)
	if err != nil {
		return nil, err
	}
	defer backend.Free(adapter)
	if m.answer == nil {
		if m.answer, err = m.newAnswer(); err != nil {
			return nil, err
		}
	}
	t := bucket(longest + maxTokens)
	starts := make([]int, len(texts))
	for i := range texts {
		starts[i] = len(texts[i])
	}
	for range maxTokens {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ids, last := make([]int32, len(texts)*t), make([]int32, len(texts))
		open := false
		for i, x := range texts {
			copy(ids[i*t:], x)
			last[i] = int32(len(x) - 1)
			open = open || x[len(x)-1] != end || len(x) == starts[i]
		}
		if !open {
			break
		}
		args := []any{tensors.FromFlatDataAndDimensions(ids, len(texts), t), tensors.FromFlatDataAndDimensions(last, len(texts), 1), float32(scale)}
		out, err := m.call(m.answer, m.withWeights(args, adapter))
		if err != nil {
			return nil, fmt.Errorf("lm: answer: %w", err)
		}
		next, err := tensors.CopyFlatData[int32](out[0])
		if err != nil {
			return nil, err
		}
		backend.Free(out)
		for i := range texts {
			if len(texts[i]) == starts[i] || texts[i][len(texts[i])-1] != end {
				texts[i] = append(texts[i], next[i])
			}
		}
	}
	answers := make([]string, len(texts))
	for i, x := range texts {
		x = x[starts[i]:]
		if n := len(x); n > 0 && x[n-1] == end {
			x = x[:n-1]
		}
		answers[i] = m.Tokenizer.Decode(x)
	}
	return answers, nil
}

func (m *Model) withWeights(args []any, adapter []*tensors.Tensor) []any {
	for _, list := range [][]*tensors.Tensor{m.weights, adapter} {
		for _, x := range list {
			args = append(args, x)
		}
	}
	return args
}

// split divides the nodes behind the first skip into weights, A and B.
func (m *Model) split(in []*graph.Node, skip int) (w, a, b []*graph.Node) {
	w, rest := in[skip:skip+len(m.names)], in[skip+len(m.names):]
	targets := m.Config.Layers * len(llama.Modules)
	return w, rest[:targets], rest[targets : 2*targets]
}

func (m *Model) newAnswer() (*graph.Exec, error) {
	return m.exec(func(in []*graph.Node) []*graph.Node {
		w, a, b := m.split(in, 3)
		n := m.network(w, a, scaled(b, in[2]), 1)
		h := pick(n.hidden(in[0], nil), in[1], in[0].Shape().Dimensions[1])
		return []*graph.Node{graph.ArgMax(n.matrix(h, n.head()), -1, dtypes.Int32)}
	})
}

// scaled multiplies every matrix by a scalar that is an input of the graph.
func scaled(list []*graph.Node, by *graph.Node) []*graph.Node {
	out := make([]*graph.Node, len(list))
	for i, x := range list {
		out[i] = graph.Mul(x, by)
	}
	return out
}

// bucket rounds a length up to one of few, from 8 on.
func bucket(n int) int { return 8 * backend.RoundUp((n+7)/8) }
