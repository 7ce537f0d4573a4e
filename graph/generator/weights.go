package generator

import (
	"fmt"
	"strings"
	"sync"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Weights gives the package's tensors to an executor: "decoder/KEY" and "encoder/KEY",
// stored as F32, F16 or BF16 and converted to what is asked for. Every value is checked
// on its way: NaN and infinity are errors that name file, tensor and index, and so are
// values too large for F16. It is safe for concurrent use, until p is closed.
func (p *Package) Weights() graph.Weights { return weights{p} }

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
	values [piece]float32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// readAs fills p with the tensor's bytes in type d, from byte off on.
func (s *tensorSet) readAs(key string, d safetensors.DType, off int64, p []byte) error {
	f, t, ok := s.lookup(key)
	if !ok {
		return fmt.Errorf("%s: tensor %q: %w", s.files[0].Path, clip(key), safetensors.ErrNoTensor)
	}
	if d != safetensors.F32 && d != safetensors.F16 || !isFloat(t.DType) {
		return fmt.Errorf("%s: tensor %q: %s is asked for as %s: only floats are converted, to F32 or F16", f.Path, key, t.DType, d)
	}
	size := d.Size()
	if bytes := t.Elements() * size; off < 0 || off%size != 0 || int64(len(p))%size != 0 || off > bytes || int64(len(p)) > bytes-off {
		return fmt.Errorf("%s: tensor %q: bytes %d+%d are asked for, as %s it has %d", f.Path, key, off, len(p), d, bytes)
	}
	first := off / size
	if t.DType == d {
		if err := f.ReadRange(key, off, p); err != nil {
			return err
		}
		return checkFinite(f.Path, key, d, p, first)
	}
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	stored := t.DType.Size()
	for len(p) > 0 {
		n := min(piece, len(p)/int(size))
		raw, values := b.raw[:n*int(stored)], b.values[:n]
		if err := f.ReadRange(key, first*stored, raw); err != nil {
			return err
		}
		if err := convert(f.Path, key, t.DType, raw, d, p[:n*int(size)], values, first); err != nil {
			return err
		}
		p, first = p[n*int(size):], first+int64(n)
	}
	return nil
}
