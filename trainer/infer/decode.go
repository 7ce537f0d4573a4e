package infer

import (
	"context"
	"errors"
	"fmt"
	"time"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// Decode runs the decoder: condition (batch, N, L, C), the weights "decoder/KEY" of w ->
// weight tokens (batch, T, h, w). report may be nil; it is called from the caller's
// goroutine. The error is ctx's soon after ctx is done.
func (r *Runner) Decode(ctx context.Context, c decoder.Config, w graph.Weights, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	shape := c.Condition()
	if batch < 1 || len(condition) != batch*product(shape[:]...) {
		return nil, fmt.Errorf("infer: condition of %d values, expected (%d, %d, %d, %d)", len(condition), batch, shape[0], shape[1], shape[2])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := decoding{job: job{Runner: r, ctx: ctx, weights: w, report: report}, config: c}
	d.done = graph.Progress{Stage: decoder.Stage, Total: c.MACs(batch)}
	if err := d.advance(0); err != nil {
		return nil, err
	}
	var x *tensors.Tensor
	var err error
	if d.small(batch) {
		x, err = d.whole(condition, batch)
		if err != nil {
			return nil, err
		}
		return d.finish(x, batch)
	}
	if c.Class == decoder.SuperLarge {
		x, err = d.project(condition, batch)
	} else {
		x, err = d.upload(condition, batch, shape[0], shape[1], shape[2])
	}
	if err != nil {
		return nil, err
	}
	for i := range len(c.Features) - 1 {
		y, err := d.layer(i, x)
		free(x)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		x = y
	}
	if c.Rank() > 0 {
		y, err := d.expand(x, batch)
		free(x)
		if err != nil {
			return nil, fmt.Errorf("basis: %w", err)
		}
		x = y
	}
	if c.Affine {
		y, err := d.affine(x)
		free(x)
		if err != nil {
			return nil, err
		}
		x = y
	}
	return d.finish(x, batch)
}

// finish reads the result and frees it.
func (d *decoding) finish(x *tensors.Tensor, batch int) ([]float32, error) {
	to := d.config.Output()
	out := make([]float32, batch*product(to[:]...))
	return out, download(x, out)
}

// small says whether the decoder is about as much as one tile. Then one graph is best: a
// backend that compiles takes a tenth of a second for each.
func (d *decoding) small(batch int) bool {
	var values int64
	for _, t := range d.config.Tensors() {
		values += int64(product(t.Shape...))
	}
	return d.backend.NativeConvolution() && 4*values <= d.limits.weights && 2*d.config.MACs(batch) <= d.limits.flop
}

// layerKey is a name in a layer's part of the state dict.
func layerKey(i int, name string) string {
	return fmt.Sprintf("model.decoder.module_list.%d.%s", i, name)
}

// wholePart describes whole: it reads the condition and all weights, and writes the tokens.
func (d *decoding) wholePart(batch int) graph.PartTime {
	c := d.config
	from, to := c.Condition(), c.Output()
	values := batch * (product(from[:]...) + product(to[:]...))
	for _, t := range c.Tensors() {
		values += product(t.Shape...)
	}
	return graph.PartTime{Stage: decoder.Stage, Label: "decoder", Way: "one graph", MACs: c.MACs(batch), Bytes: 4 * int64(values)}
}

// whole is the decoder as one graph.
func (d *decoding) whole(condition []float32, batch int) (*tensors.Tensor, error) {
	shape, list := d.config.Condition(), d.config.Tensors()
	x, err := d.upload(condition, batch, shape[0], shape[1], shape[2])
	if err != nil {
		return nil, err
	}
	params := []*tensors.Tensor{x}
	defer func() { free(params...) }()
	args := []any{x}
	for _, t := range list {
		p, err := d.load(decoder.Prefix+t.Name, 0, t.Shape...)
		if err != nil {
			return nil, err
		}
		params, args = append(params, p), append(args, p)
	}
	c, begin := d.config, time.Now()
	y, err := d.run(operation{"decoder", fmt.Sprintf("%+v", c)}, func(in []*gomlx.Node) *gomlx.Node {
		p := model.Params{}
		for i, t := range list {
			p[t.Name] = in[1+i]
		}
		return model.Decode(c, p, in[0], nil, true, nil)
	}, args...)
	if err != nil {
		return nil, err
	}
	err = d.traced(y, begin, d.wholePart(batch))
	if err := errors.Join(err, d.advance(d.done.Total)); err != nil {
		free(y)
		return nil, err
	}
	return y, nil
}

type decoding struct {
	job
	config decoder.Config
}

// project is SuperLarge's two linear maps (b.1), item by item, since conditions are
// large there. Both read the memory again with other axes: here as a plane of N·C rows.
func (d *decoding) project(condition []float32, batch int) (*tensors.Tensor, error) {
	n, width := d.config.Features[0][0], d.config.Features[0][2]
	long, short := d.config.MaxLength, d.config.ModifiedLength
	items := make([]*tensors.Tensor, 0, batch)
	defer func() { free(items...) }()
	for i := range batch {
		size := n * long * width
		x, err := d.upload(condition[i*size:(i+1)*size], 1, 1, n*width, long)
		if err != nil {
			return nil, err
		}
		y, err := d.linear(x, "down_proj", short)
		if err != nil {
			return nil, err
		}
		z, err := d.linear(y, "gate_proj", short)
		if err != nil {
			return nil, err
		}
		items = append(items, z)
	}
	args := make([]any, batch)
	for i, t := range items {
		args[i] = t
	}
	return d.run(operation{"projection", [4]int{batch, n, short, width}}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Reshape(concatenate(in, 0), batch, n, short, width)
	}, args...)
}

// linear is x (1,1,rows,in) times the transposed weights, plus the bias; x is freed.
func (d *decoding) linear(x *tensors.Tensor, name string, out int) (*tensors.Tensor, error) {
	y, err := d.convolve(x, decoder.Prefix+name+".weight", model.AxisW, out, 1)
	free(x)
	if err != nil {
		return nil, err
	}
	defer free(y)
	return d.withBias(y, decoder.Prefix+name+".bias", 1, 1, 1, out)
}

func (d *decoding) withBias(y *tensors.Tensor, key string, shape ...int) (*tensors.Tensor, error) {
	bias, err := d.load(key, 0, shape...)
	if err != nil {
		return nil, err
	}
	defer free(bias)
	return d.run(operation{name: "bias"}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Add(in[0], in[1])
	}, y, bias)
}

// layer is one layer of section b.2: x (B,N,H,W) -> (B,N',H',W'). x stays the caller's.
func (d *decoding) layer(i int, x *tensors.Tensor) (*tensors.Tensor, error) {
	from, to := d.config.Features[i], d.config.Features[i+1]
	key := func(name string) string { return decoder.Prefix + layerKey(i, name) }
	conv := func(x *tensors.Tensor, name string, axis model.Axis, out int) (*tensors.Tensor, error) {
		y, err := d.convolve(x, key(name+".weight"), axis, out, d.config.KernelSize)
		d.collect()
		return y, err
	}
	// branch frees the result of its first convolution after the second.
	branch := func(x *tensors.Tensor, name1 string, axis1 model.Axis, out1 int, name2 string, axis2 model.Axis, out2 int) (*tensors.Tensor, error) {
		y, err := conv(x, name1, axis1, out1)
		if err != nil {
			return nil, err
		}
		defer free(y)
		return conv(y, name2, axis2, out2)
	}

	norm, err := d.norm(x, key("linear1.norm"), from)
	if err != nil {
		return nil, err
	}
	wide, err := branch(norm, "linear1.conv1w", model.AxisW, to[2], "linear1.conv1h", model.AxisH, to[1])
	if err != nil {
		free(norm)
		return nil, err
	}
	defer free(wide)
	high, err := branch(norm, "linear1.conv2h", model.AxisH, to[1], "linear1.conv2w", model.AxisW, to[2])
	free(norm)
	if err != nil {
		return nil, err
	}
	defer free(high)
	bias, err := d.load(key("linear1.bias"), 0, 1, 1, to[1], to[2])
	if err != nil {
		return nil, err
	}
	defer free(bias)
	z, err := d.run(operation{name: "branches"}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.DivScalar(gomlx.Add(gomlx.Add(in[0], gomlx.Tanh(in[1])), in[2]), 3)
	}, wide, high, bias)
	if err != nil {
		return nil, err
	}
	defer free(z)
	y, err := conv(z, "linear2", model.AxisN, to[0])
	if err != nil {
		return nil, err
	}
	defer free(y)
	out, err := d.withBias(y, key("linear2.bias"), 1, to[0], 1, 1)
	if err != nil || !d.config.Residual(i) {
		return out, err
	}
	defer free(out)
	return d.run(operation{name: "residual"}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Add(in[0], in[1])
	}, x, out)
}

func (d *decoding) norm(x *tensors.Tensor, key string, from [3]int) (*tensors.Tensor, error) {
	weight, err := d.load(key+".weight", 0, 1, 1, from[1], from[2])
	if err != nil {
		return nil, err
	}
	defer free(weight)
	bias, err := d.load(key+".bias", 0, 1, 1, from[1], from[2])
	if err != nil {
		return nil, err
	}
	defer free(bias)
	return d.run(operation{name: "norm"}, func(in []*gomlx.Node) *gomlx.Node {
		return model.LayerNorm(in[0], in[1], in[2], decoder.Eps, 2, 3)
	}, x, weight, bias)
}

// expand makes weight tokens of their coordinates in the basis. x stays the caller's.
func (d *decoding) expand(x *tensors.Tensor, batch int) (*tensors.Tensor, error) {
	to := d.config.Output()
	reshape := func(x *tensors.Tensor, shape ...int) (*tensors.Tensor, error) {
		return d.run(operation{"reshape", [4]int(shape)}, func(in []*gomlx.Node) *gomlx.Node {
			return gomlx.Reshape(in[0], shape...)
		}, x)
	}
	flat, err := reshape(x, batch, 1, 1, d.config.Rank())
	if err != nil {
		return nil, err
	}
	defer free(flat)
	y, err := d.convolve(flat, decoder.Prefix+decoder.BasisKey, model.AxisW, product(to[:]...), 1)
	if err != nil {
		return nil, err
	}
	defer free(y)
	return reshape(y, batch, to[0], to[1], to[2])
}

func (d *decoding) affine(x *tensors.Tensor) (*tensors.Tensor, error) {
	to := d.config.Output()
	scale, err := d.load(decoder.Prefix+"output.scale", 0, 1, to[0], 1, 1)
	if err != nil {
		return nil, err
	}
	defer free(scale)
	offset, err := d.load(decoder.Prefix+"output.offset", 0, 1, to[0], to[1], to[2])
	if err != nil {
		return nil, err
	}
	defer free(offset)
	return d.run(operation{name: "affine"}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Add(gomlx.Mul(in[0], in[1]), in[2])
	}, x, scale, offset)
}
