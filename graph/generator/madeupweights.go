package generator

import (
	"fmt"
	"math"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// miniLM is the architecture of all-MiniLM-L12-v2, the reference's text encoder (a.2).
var miniLM = encoder.Config{
	ModelType: "bert", HiddenAct: "gelu", HiddenSize: 384, NumHiddenLayers: 12, NumAttentionHeads: 12, IntermediateSize: 1536,
	MaxPositionEmbeddings: 512, TypeVocabSize: 2, VocabSize: 30522, LayerNormEps: 1e-12,
}

// MadeUpPackage is MadeUp without files: every value is computed where it is read, so that
// a generator larger than the disk can be measured. It has a text encoder of the
// reference's architecture and no vocabulary, so it encodes ids, not texts.
func MadeUpPackage(shape string, seed uint64) (*Package, error) {
	config, base, tiling, err := Shape(shape)
	if err != nil {
		return nil, err
	}
	p := MadeUpDecoder(shape, config, seed)
	p.Manifest.Base, p.Manifest.Tiling = &base, tiling
	return p, nil
}

// MadeUpDecoder is MadeUpPackage for any decoder, without a base model.
func MadeUpDecoder(name string, config decoder.Config, seed uint64) *Package {
	c := config.Condition()
	m := Manifest{
		FormatVersion: FormatVersion, Name: "made-up " + name, Decoder: config,
		Condition:  Condition{Texts: c[0], Length: c[1], Width: c[2], Pads: PadsEncoded},
		Encoder:    &Encoder{ID: "made-up", Config: miniLM},
		Provenance: Provenance{Source: "made-up weights, not trained", Seed: int64(seed)},
	}
	if c[2] != miniLM.HiddenSize {
		m.Encoder = nil
	}
	tensors := hashed{}
	for i, t := range config.Tensors() {
		tensors[decoder.Prefix+t.Name] = newHashedTensor(t.Name, t.Shape, seed, uint64(i))
	}
	for i, t := range miniLM.Tensors() {
		tensors[encoder.Prefix+t.Name] = newHashedTensor(t.Name, t.Shape, ^seed, uint64(i))
	}
	return &Package{Dir: m.Name, Manifest: m, made: tensors}
}

// hashed are tensors whose values come from a hash of their key and index.
type hashed map[string]hashedTensor

type hashedTensor struct {
	count int64
	key   uint64
	scale float32 // of an int32; 0 for constant tensors
	value float32 // of constant ones
}

// newHashedTensor has MadeUp's distribution.
func newHashedTensor(name string, shape []int, seed, index uint64) hashedTensor {
	t := hashedTensor{count: 1, key: mix(seed ^ mix(index+1))}
	fanIn := 1
	for axis, d := range shape {
		t.count *= int64(d)
		if axis > 0 {
			fanIn *= d
		}
	}
	switch {
	case strings.HasSuffix(name, "norm.weight"), strings.HasSuffix(name, "LayerNorm.weight"), name == "output.scale":
		t.value = 1
	case !strings.HasSuffix(name, "bias") && name != "output.offset":
		t.scale = float32(math.Sqrt(3/float64(fanIn)) / (1 << 31))
	}
	return t
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill computes values from the given one on.
func (t hashedTensor) fill(values []float32, first int64) {
	if t.scale == 0 {
		for i := range values {
			values[i] = t.value
		}
		return
	}
	at := uint64(first)
	if at%2 == 1 && len(values) > 0 {
		_, values[0] = t.pair(at / 2)
		values = values[1:]
		at++
	}
	for ; len(values) > 1; values = values[2:] {
		values[0], values[1] = t.pair(at / 2)
		at += 2
	}
	if len(values) > 0 {
		values[0], _ = t.pair(at / 2)
	}
}

// pair are the values 2i and 2i+1.
func (t hashedTensor) pair(i uint64) (a, b float32) {
	x := mix(t.key + i)
	return float32(int32(x)) * t.scale, float32(int32(x>>32)) * t.scale
}

// ReadWeights implements graph.Weights.
func (h hashed) ReadWeights(name, dtype string, off int64, p []byte) error {
	t, ok := h[name]
	if !ok {
		return fmt.Errorf("made-up tensor %q: %w", clip(name), safetensors.ErrNoTensor)
	}
	d := safetensors.DType(dtype)
	if !OnDevice(dtype) {
		return fmt.Errorf("made-up tensor %q: asked for as %s, expected F32, F16, Q8 or Q4_1", clip(name), d)
	}
	unit, size := unit(d)
	if bytes := (t.count + unit - 1) / unit * size; off < 0 || off%size != 0 || int64(len(p))%size != 0 || off > bytes || int64(len(p)) > bytes-off {
		return fmt.Errorf("made-up tensor %q: bytes %d+%d are asked for, as %s it has %d", clip(name), off, len(p), d, bytes)
	}
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	for first := off / size * unit; len(p) > 0; {
		n := min(piece, int64(len(p))/size*unit, t.count-first)
		t.fill(b.values[:n], first)
		out := p[:(n+unit-1)/unit*size]
		if d == safetensors.F32 {
			// Finite without a check: reading must not weigh in what is measured.
			if err := safetensors.EncodeFloats(d, b.values[:n], out); err != nil {
				return err
			}
		} else if err := encode("made-up", name, d, b.values[:n], out, first); err != nil {
			return err
		}
		p, first = p[len(out):], first+n
	}
	return nil
}
