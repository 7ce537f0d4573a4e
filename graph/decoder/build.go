package decoder

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// Stage is the stage of the decoder's dispatches.
const Stage = "decode"

// Prefix comes before the state-dict keys in the names of a Program's weights.
const Prefix = "decoder/"

// BasisKey is the key of the tensor that Config.Tokens adds.
const BasisKey = "output.basis.weight"

// Eps is LayerNorm's (reference section b.2).
const Eps = 1e-5

// Options choose how a decoder is built.
type Options struct {
	// DType is the storage type in which weights of convolutions and projections are
	// delivered, F32 or F16; empty is F32. The other tensors are F32.
	DType string
	// Intermediates also reads back every layer's norm, width_first, height_first (before
	// tanh), linear1, linear2 and out as "layer.I.NAME", and condition.projected: for
	// comparisons with other implementations.
	Intermediates bool
}

type builder struct {
	*graph.Builder
	config  Config
	options Options
}

// Build adds the dispatches from the condition (B, N, L, C) to the weight tokens
// (B, T, h, w), reference section b, and returns those. The condition's memory is
// released. Errors stay in b.
func Build(b *graph.Builder, c Config, condition *graph.Tensor, o Options) *graph.Tensor {
	if o.DType == "" {
		o.DType = "F32"
	}
	if err := c.Validate(); err != nil {
		b.Fail(err)
		return condition
	}
	batch, want := condition.Shape[0], c.Condition()
	if condition.Shape != [4]int{batch, want[0], want[1], want[2]} {
		b.Fail(fmt.Errorf("decoder: condition of shape %v, expected (batch, %d, %d, %d)", condition.Shape, want[0], want[1], want[2]))
		return condition
	}
	b.Stage(Stage)
	d := builder{b, c, o}
	x := condition
	if c.Class == SuperLarge {
		x = d.project(x)
		d.read("condition.projected", x)
	}
	for i := range len(c.Features) - 1 {
		x = d.layer(i, x)
	}
	if r := c.Rank(); r > 0 {
		x = d.expand(x, r)
	}
	if c.Affine {
		y := b.Affine("output", x, Prefix+"output.scale", Prefix+"output.offset")
		b.Release(x)
		x = y
	}
	return x
}

func (d *builder) read(name string, t *graph.Tensor) {
	if d.options.Intermediates {
		d.Read(name, t)
	}
}

// project is the two linear layers before SuperLarge's decoder (section b.1). c (B,N,L,C)
// is read again, without moving anything, as rows of L values, and so is the result.
func (d *builder) project(c *graph.Tensor) *graph.Tensor {
	batch, n, width := c.Shape[0], c.Shape[1], c.Shape[3]
	long, short := d.config.MaxLength, d.config.ModifiedLength
	rows := batch * n * width
	linear := func(x *graph.Tensor, name string) *graph.Tensor {
		y := d.Conv(x, graph.Conv{Label: name, Weight: Prefix + name + ".weight", DType: d.options.DType,
			Bias: Prefix + name + ".bias", Axis: graph.AxisW, Out: short, K: 1})
		d.Release(x)
		return y
	}
	x := linear(d.Reshape(c, [4]int{1, rows, 1, long}), "down_proj")
	x = linear(x, "gate_proj")
	return d.Reshape(x, [4]int{batch, n, short, width})
}

// expand makes weight tokens of their coordinates in the basis; x is released.
func (d *builder) expand(x *graph.Tensor, rank int) *graph.Tensor {
	batch, out := x.Shape[0], d.config.Output()
	x = d.Reshape(x, [4]int{batch, 1, 1, rank})
	y := d.Conv(x, graph.Conv{Label: "basis", Weight: Prefix + BasisKey, DType: d.options.DType, Axis: graph.AxisW, Out: int(volume(out)), K: 1})
	d.Release(x)
	return d.Reshape(y, [4]int{batch, out[0], out[1], out[2]})
}

// layer is one layer of section b.2; x is released.
func (d *builder) layer(i int, x *graph.Tensor) *graph.Tensor {
	label := func(name string) string { return fmt.Sprintf("layer.%d.%s", i, name) }
	key := func(name string) string { return Prefix + layerKey(i, name) }
	conv := func(x *graph.Tensor, name string, axis graph.Axis, out int, bias string) *graph.Tensor {
		return d.Conv(x, graph.Conv{Label: label(name), Weight: key(name + ".weight"), DType: d.options.DType, Bias: bias,
			Axis: axis, Out: out, K: d.config.KernelSize})
	}
	to := d.config.Features[i+1]

	norm := d.LayerNorm(label("norm"), x, key("linear1.norm.weight"), key("linear1.norm.bias"), Eps)
	d.read(label("norm"), norm)
	residual := d.config.Residual(i)
	if !residual {
		d.Release(x)
	}

	u := conv(norm, "linear1.conv1w", graph.AxisW, to[2], "")
	width := conv(u, "linear1.conv1h", graph.AxisH, to[1], "")
	d.read(label("width_first"), width)
	d.Release(u)

	v := conv(norm, "linear1.conv2h", graph.AxisH, to[1], "")
	d.Release(norm)
	height := conv(v, "linear1.conv2w", graph.AxisW, to[2], "")
	d.read(label("height_first"), height)
	d.Release(v)

	z := d.Combine(label("linear1"), width, height, key("linear1.bias"))
	d.read(label("linear1"), z)
	d.Release(width)
	d.Release(height)

	y := conv(z, "linear2", graph.AxisN, to[0], key("linear2.bias"))
	d.read(label("linear2"), y)
	d.Release(z)
	if residual {
		sum := d.Add(label("residual"), x, y)
		d.Release(x)
		d.Release(y)
		y = sum
	}
	d.read(label("out"), y)
	return y
}
