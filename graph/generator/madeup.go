package generator

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// shape is a decoder of the reference (b.4), or the small one for trials.
type shape struct {
	name      string
	tokenizer string
	config    decoder.Config
}

var shapes = []shape{
	{"0.5b", lora.Qwen05B, decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{
		{128, 384, 384}, {128, 200, 300}, {128, 100, 256}, {256, 50, 200}, {512, 50, 200},
		{1024, 25, 200}, {1024, 10, 200}, {2048, 10, 200}, {4296, 10, 130}}}},
	{"1.5b-coding", lora.Qwen15B, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 26624, ModifiedLength: 1000, Features: [][3]int{
		{16, 1000, 384}, {64, 500, 300}, {256, 125, 300}, {512, 64, 300}, {1024, 64, 256}, {2048, 32, 256}, {4508, 18, 258}}}},
	{"1.5b-math", lora.Qwen15B, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 4608, ModifiedLength: 1000, Features: [][3]int{
		{32, 1000, 384}, {64, 500, 300}, {256, 500, 300}, {512, 125, 300}, {1024, 64, 256}, {2048, 32, 256}, {4508, 18, 258}}}},
	{"7b-coding", lora.Qwen7B, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 26624, ModifiedLength: 1000, Features: features7B}},
	{"7b-math", lora.Qwen7B, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 4608, ModifiedLength: 1000, Features: features7B}},
	{"3b-vl", lora.Qwen3BVL, decoder.Config{Class: decoder.FullCond, KernelSize: 11, Features: [][3]int{
		{16, 1536, 384}, {64, 500, 300}, {256, 125, 300}, {1024, 64, 300}, {2048, 16, 256}, {7308, 18, 258}}}},
	{mini, lora.Qwen05B, decoder.Config{Class: decoder.FullCond, KernelSize: 3, Features: [][3]int{
		{4, 16, 384}, {16, 12, 24}, {2 * 179, 10, 10}}}},
}

var features7B = [][3]int{
	{16, 1000, 384}, {64, 500, 384}, {256, 125, 400}, {512, 64, 400}, {1024, 64, 400}, {2048, 32, 400}, {4928, 18, 514}}

const mini = "mini"

// Shapes lists the names that MadeUp knows: the decoders of the reference, and "mini",
// which is made in no time and fits a base of two layers.
func Shapes() []string {
	names := make([]string, len(shapes))
	for i, s := range shapes {
		names[i] = s.name
	}
	return names
}

// Shape is the decoder of a name in Shapes, with the base model and tiling it is for.
func Shape(name string) (decoder.Config, lora.Base, lora.Tiling, error) {
	i := slices.IndexFunc(shapes, func(s shape) bool { return strings.EqualFold(s.name, name) })
	if i < 0 {
		return decoder.Config{}, lora.Base{}, lora.Tiling{}, fmt.Errorf("unknown shape %q, expected one of %s", clip(name), strings.Join(Shapes(), ", "))
	}
	s := shapes[i]
	s.config.Features = slices.Clone(s.config.Features)
	base, tiling, err := lora.ReferenceBase(s.tokenizer)
	if err != nil || s.name != mini {
		return s.config, base, tiling, err
	}
	// The same modules and numbers of chunks in two layers, with chunks of 8 columns.
	const layers, chunk = 2, 8
	a := tiling.Width - 2
	base.Model, base.Heads, base.KVHeads = "made-up/mini", 7, 1
	base.Targets = slices.Clone(base.Targets[:layers*7])
	for i := range base.Targets {
		t := &base.Targets[i]
		t.In, t.Out = t.In/a*chunk, t.Out/a*chunk
	}
	tiling.Height, tiling.Width = base.Rank+2, chunk+2
	return s.config, base, tiling, nil
}

// MadeUpOptions say what MadeUp makes.
type MadeUpOptions struct {
	Shape   string // a name of Shapes
	Seed    uint64
	Encoder string // folder of a text encoder, "" for none
	WriteOptions
}

// MadeUp writes a package with made-up weights: the size and speed of a real generator,
// without its knowledge. Weights are uniform with variance 1/fan-in, norms are the
// identity, biases zero, so that activations stay of order one. Equal options make equal
// bytes. Values go straight to the file, in pieces.
func MadeUp(ctx context.Context, dir string, o MadeUpOptions) error {
	config, base, tiling, err := Shape(o.Shape)
	if err != nil {
		return err
	}
	c := config.Condition()
	m := Manifest{
		Name: "made-up " + o.Shape, Base: &base, Tiling: tiling, Decoder: config,
		Condition:  Condition{Texts: c[0], Length: c[1], Width: c[2], Pads: PadsEncoded},
		Provenance: Provenance{Source: "made-up weights, not trained", Seed: int64(o.Seed)},
	}
	return Write(ctx, dir, m, MadeUpTensors(config, o.Seed), o.Encoder, o.WriteOptions)
}

// MadeUpTensors are MadeUp's weights for any decoder, as F32.
func MadeUpTensors(c decoder.Config, seed uint64) []safetensors.Tensor {
	var list []safetensors.Tensor
	for i, t := range c.Tensors() {
		n, fanIn := int64(1), 1
		for axis, d := range t.Shape {
			n *= int64(d)
			if axis > 0 {
				fanIn *= d
			}
		}
		data := func(w io.Writer) error { return constant(w, n, 0) }
		switch {
		case strings.HasSuffix(t.Name, "norm.weight"), t.Name == "output.scale":
			data = func(w io.Writer) error { return constant(w, n, 1) }
		case !strings.HasSuffix(t.Name, "bias") && t.Name != "output.offset":
			data = func(w io.Writer) error {
				return uniform(w, n, math.Sqrt(3/float64(fanIn)), rand.NewPCG(seed, uint64(i)))
			}
		}
		list = append(list, safetensors.Tensor{Name: t.Name, DType: safetensors.F32, Shape: t.Shape, Data: data})
	}
	return list
}

func constant(w io.Writer, n int64, v float32) error {
	buf := make([]byte, 4*min(n, 1<<16))
	for i := 0; i < len(buf); i += 4 {
		binary.LittleEndian.PutUint32(buf[i:], math.Float32bits(v))
	}
	for ; n > 0; n -= int64(len(buf) / 4) {
		if _, err := w.Write(buf[:4*min(n, int64(len(buf)/4))]); err != nil {
			return err
		}
	}
	return nil
}

// uniform writes n values from -bound up to bound.
func uniform(w io.Writer, n int64, bound float64, random *rand.PCG) error {
	scale := float32(bound / (1 << 31))
	buf := make([]byte, 1<<18)
	for n > 0 {
		k := int(min(n, int64(len(buf)/4)))
		for i := 0; i < k; i += 2 {
			x := random.Uint64()
			b := buf[4*i : 4*i+8 : 4*i+8]
			binary.LittleEndian.PutUint32(b, math.Float32bits(float32(int32(x))*scale))
			binary.LittleEndian.PutUint32(b[4:], math.Float32bits(float32(int32(x>>32))*scale))
		}
		if _, err := w.Write(buf[:4*k]); err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}
