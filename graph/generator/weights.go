package generator

import (
	"fmt"
	"strings"
	"sync"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Weights gives the package's tensors to an executor: "decoder/KEY" and "encoder/KEY",
// stored as F32, F16, BF16, Q8 or Q4 and converted to what is asked for: any of them but BF16. Every
// value is checked on its way: NaN and infinity are errors that name file, tensor and
// index, and so are values too large for F16. It is safe for concurrent use, until p is closed.
func (p *Package) Weights() graph.Weights {
	if p.made != nil {
		return p.made
	}
	return weights{p}
}

type weights struct{ p *Package }

// ReadWeights implements graph.Weights.
func (w weights) ReadWeights(name, dtype string, off int64, p []byte) error {
	part, key, _ := strings.Cut(name, "/")
	var s *tensorSet
	switch part {
	case "decoder":
		s = w.p.decoder
	case "encoder":
		s = w.p.encoder
	}
	if s == nil {
		return fmt.Errorf("%s: weights %q: expected decoder/KEY or, in a package with an encoder, encoder/KEY", w.p.Dir, clip(name))
	}
	return s.readAs(key, safetensors.DType(dtype), off, p)
}

// piece is how many values are converted at a time.
const piece = 1 << 14

// scratch holds the stored bytes and the values of one piece.
type scratch struct {
	raw    [4 * piece]byte
	values [piece + quant.Values]float32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// readAs fills p with the tensor's bytes in type d, from byte off on.
func (s *tensorSet) readAs(key string, d safetensors.DType, off int64, p []byte) error {
	f, t, ok := s.lookup(key)
	if !ok {
		return fmt.Errorf("%s: tensor %q: %w", s.files[0].Path, clip(key), safetensors.ErrNoTensor)
	}
	from, count := t.DType, t.Elements()
	if b, ok := s.blocks[key]; ok {
		from, count = b.dtype, b.values
	}
	if !OnDevice(string(d)) || !inBlocks(from) && !isFloat(from) {
		return fmt.Errorf("%s: tensor %q: %s is asked for as %s: only floats are converted, to F32, F16, Q8 or Q4_1", f.Path, key, from, d)
	}
	unit, size := unit(d)
	if bytes := (count + unit - 1) / unit * size; off < 0 || off%size != 0 || int64(len(p))%size != 0 || off > bytes || int64(len(p)) > bytes-off {
		return fmt.Errorf("%s: tensor %q: bytes %d+%d are asked for, as %s it has %d", f.Path, key, off, len(p), d, bytes)
	}
	first := off / size * unit
	if from == d {
		if err := f.ReadRange(key, off, p); err != nil {
			return err
		}
		return checkFinite(f.Path, key, d, p, first)
	}
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	for len(p) > 0 {
		n := min(piece-first%unit, int64(len(p))/size*unit, count-first)
		values, err := s.values(b, f, key, from, first, n)
		if err != nil {
			return err
		}
		out := p[:(n+unit-1)/unit*size]
		if err := encode(f.Path, key, d, values, out, first); err != nil {
			return err
		}
		p, first = p[len(out):], first+n
	}
	return nil
}

// values reads the n values of a tensor from first on; at most piece of them.
func (s *tensorSet) values(b *scratch, f *safetensors.File, key string, from safetensors.DType, first, n int64) ([]float32, error) {
	lead := int64(0) // values before them, in their block
	at, bytes := first*from.Size(), n*from.Size()
	if block := quant.BlockBytes(string(from)); block > 0 {
		lead = first % quant.Values
		at, bytes = first/quant.Values*block, quant.Size(string(from), lead+n)
	}
	raw, values := b.raw[:bytes], b.values[:lead+n]
	if err := f.ReadRange(key, at, raw); err != nil {
		return nil, err
	}
	if err := checkFinite(f.Path, key, from, raw, first-lead); err != nil {
		return nil, err
	}
	if err := decode(from, raw, values); err != nil {
		return nil, err
	}
	return values[lead:], nil
}
