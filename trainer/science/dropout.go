package science

import (
	"context"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// dropper is the text encoder with its dropout on, as the reference leaves it in training
// (reference section a.2).
type dropper struct {
	r       *reader
	exec    *graph.Exec
	weights []*tensors.Tensor
}

// dropRows is how many prompts are encoded at a time.
const dropRows = 128

func (r *reader) dropper(b backend.Backend, share float64) (*dropper, error) {
	d := &dropper{r: r}
	c := r.p.Manifest.Encoder.Config
	list := c.Tensors()
	for _, t := range list {
		w := tensors.FromShape(shapes.Make(dtypes.Float32, t.Shape...))
		d.weights = append(d.weights, w)
		var failed error
		if err := w.MutableBytes(func(p []byte) { failed = r.p.Weights().ReadWeights(encoder.Prefix+t.Name, "F32", 0, p) }); err != nil {
			failed = err
		}
		if failed != nil {
			d.close()
			return nil, fmt.Errorf("science: tensor %s: %w", t.Name, failed)
		}
	}
	var err error
	d.exec, err = graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
		ids, mask, random := in[0], in[1], in[2]
		p := model.Params{}
		for i, t := range list {
			p[t.Name] = in[3+i]
		}
		drop := func(x *graph.Node) *graph.Node {
			var u *graph.Node
			random, u = graph.RandomUniform(random, x.Shape())
			kept := graph.ConvertDType(graph.GreaterOrEqual(u, graph.Scalar(x.Graph(), dtypes.Float32, share)), dtypes.Float32)
			return graph.MulScalar(graph.Mul(x, kept), 1/(1-share))
		}
		x := model.Embed(c, p, ids, drop)
		for i := range c.NumHiddenLayers {
			x = model.EncoderLayer(c, p, i, x, mask, drop)
		}
		return x
	})
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dropper) close() {
	backend.Free(d.weights)
	if d.exec != nil {
		d.exec.Finalize()
	}
}

// read is reader.read with dropout from a seed, and zeros at padding.
func (d *dropper) read(ctx context.Context, prompts []string, seed int64) ([]float32, int, error) {
	length, width := d.r.length, d.r.p.Manifest.Encoder.Config.HiddenSize
	in, err := d.r.tokenizer.Encode(prompts, length)
	if err != nil {
		return nil, 0, err
	}
	out := make([]float32, len(prompts)*length*width)
	for from := 0; from < len(prompts); from += dropRows {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		ids, mask := make([]int32, dropRows*length), make([]int32, dropRows*length)
		n := min(dropRows, len(prompts)-from) * length
		for i := range n {
			ids[i], mask[i] = int32(in.IDs[from*length+i]), int32(in.Mask[from*length+i])
		}
		random, err := graph.RNGStateFromSeed(seed*1_000_003 + int64(from))
		if err != nil {
			return nil, 0, err
		}
		own := []*tensors.Tensor{tensors.FromFlatDataAndDimensions(ids, dropRows, length), tensors.FromFlatDataAndDimensions(mask, dropRows, length), random}
		var args []any
		for _, t := range append(own[:3:3], d.weights...) {
			args = append(args, t)
		}
		result, err := d.exec.Call(args...)
		backend.Free(own)
		if err != nil {
			return nil, 0, fmt.Errorf("science: encode with dropout: %w", err)
		}
		err = tensors.ConstFlatData(result[0], func(v []float32) { copy(out[from*length*width:], v[:n*width]) })
		backend.Free(result)
		if err != nil {
			return nil, 0, err
		}
		for i := range n {
			if mask[i] == 0 {
				clear(out[(from*length+i)*width:][:width])
			}
		}
	}
	return out, width, nil
}

// dropVariants is how often a prompt is encoded, with other values dropped: fitting draws
// among them, where the reference encodes anew in each step.
const dropVariants = 8

func droppedName(t Task) string { return t.String() + ".dropped" }

// encodeDropped encodes the prompts that generators are fitted on, dropVariants times.
func (r *reader) encodeDropped(ctx context.Context, c *Config, b backend.Backend, report func(done, total int)) ([]safetensors.Tensor, error) {
	d, err := r.dropper(b, c.Generator.EncoderDropout)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var list []safetensors.Tensor
	known := tasks(c.Values)
	for i, t := range known {
		x := seenPrompts(c, i, t)
		prompts := slices.Repeat(x.prompts(), dropVariants)
		v, width, err := d.read(ctx, prompts, x.seed)
		if err != nil {
			return nil, err
		}
		list = append(list, safetensors.FromFloat32s(droppedName(t), safetensors.F16, v, len(prompts), c.Generator.Length, width))
		report(i+1, len(known))
	}
	return list, nil
}

func (d *conditions) readDropped(f *safetensors.File, c *Config) (err error) {
	d.dropped = map[Task][][]float32{}
	for _, t := range tasks(c.Values) {
		if d.dropped[t], _, err = readPrompts(f, droppedName(t)); err != nil {
			return err
		}
	}
	return nil
}
