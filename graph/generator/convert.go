package generator

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// inBlocks says whether a type has blocks of values, as package quant makes them.
func inBlocks(d safetensors.DType) bool { return quant.BlockBytes(string(d)) > 0 }

// unit is how many values and bytes of a type are never cut.
func unit(d safetensors.DType) (values, bytes int64) {
	if inBlocks(d) {
		return quant.Values, quant.BlockBytes(string(d))
	}
	return 1, d.Size()
}

// decode reads values of any type that weights are stored as.
func decode(from safetensors.DType, raw []byte, values []float32) error {
	if inBlocks(from) {
		return quant.Decode(string(from), raw, values)
	}
	return safetensors.DecodeFloats(from, raw, values)
}

// encode writes finite values to out as to. first is the index of the first one, for
// errors.
func encode(path, key string, to safetensors.DType, values []float32, out []byte, first int64) error {
	if inBlocks(to) {
		if err := quant.Encode(string(to), values, out); err != nil {
			return err
		}
		if i := quant.NonFinite(string(to), out); i >= 0 {
			return fmt.Errorf("%s: tensor %q: the %d values from %d on are too large for %s: use F32 or Q8", path, key, quant.Values, first+int64(i)*quant.Values, to)
		}
		return nil
	}
	if err := safetensors.EncodeFloats(to, values, out); err != nil {
		return err
	}
	if i := firstNonFinite(to, out); i >= 0 {
		return fmt.Errorf("%s: tensor %q: value %d is %v, which is too large for %s: use F32", path, key, first+int64(i), values[i], to)
	}
	return nil
}

// checkFinite returns an error if one of the values is NaN or infinite.
func checkFinite(path, key string, d safetensors.DType, raw []byte, first int64) error {
	if inBlocks(d) {
		if i := quant.NonFinite(string(d), raw); i >= 0 {
			return fmt.Errorf("%s: tensor %q: the scale of block %d is not finite: the weights are damaged", path, key, first/quant.Values+int64(i))
		}
		return nil
	}
	i := firstNonFinite(d, raw)
	if i < 0 {
		return nil
	}
	size := int(d.Size())
	var v [1]float32
	if err := safetensors.DecodeFloats(d, raw[i*size:(i+1)*size], v[:]); err != nil {
		return err
	}
	return fmt.Errorf("%s: tensor %q: value %d is %v, expected finite numbers: the weights are damaged", path, key, first+int64(i), v[0])
}

// firstNonFinite is the index of the first NaN or infinity among little-endian floats, -1
// if there is none.
func firstNonFinite(d safetensors.DType, raw []byte) int {
	var exponent, one uint64 // of each lane of 64 bits
	switch d {
	case safetensors.F32:
		exponent, one = 0x7f800000_7f800000, 0x00800000_00800000
	case safetensors.F16:
		exponent, one = 0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400
	case safetensors.BF16:
		exponent, one = 0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080
	default:
		return -1
	}
	size := int(d.Size())
	at := 0
	// NaN and infinity have an exponent of ones: adding one to it, and to no other, sets
	// the bit above, where the sign was masked away.
	for ; at+64 <= len(raw); at += 64 {
		b := raw[at : at+64 : at+64]
		var any uint64
		for i := 0; i < 64; i += 8 {
			any |= binary.LittleEndian.Uint64(b[i:])&exponent + one
		}
		if any&(exponent+one) != 0 {
			break
		}
	}
	for ; at+size <= len(raw); at += size {
		bits, mask := uint64(binary.LittleEndian.Uint16(raw[at:])), exponent&math.MaxUint16
		if size == 4 {
			bits, mask = uint64(binary.LittleEndian.Uint32(raw[at:])), exponent&math.MaxUint32
		}
		if bits&mask == mask {
			return at / size
		}
	}
	return -1
}

// checked wraps a tensor's Data: values are checked on their way, and converted if d is
// another type than the tensor's ("" for none). place is for errors.
func checked(t safetensors.Tensor, d safetensors.DType, place string) safetensors.Tensor {
	from, data := t.DType, t.Data
	if inBlocks(d) && !quantised(t) {
		d = safetensors.F16
	}
	if d != "" && isFloat(from) {
		t.DType = d
	}
	name, to := t.Name, t.DType
	if block := quant.BlockBytes(string(to)); block > 0 {
		t.DType, t.Shape = safetensors.U8, []int{int(quant.Size(string(to), elements(t.Shape)) / block), int(block)}
	}
	t.Data = func(w io.Writer) error {
		c := &converter{w: w, place: place, key: name, from: from, to: to, buf: make([]byte, 0, piece*from.Size())}
		if from != to {
			c.values, c.out = make([]float32, piece), make([]byte, piece*max(to.Size(), 2)) // blocks take less than 2
		}
		if err := data(c); err != nil {
			return err
		}
		if err := c.flush(); err != nil {
			return err
		}
		if len(c.buf) > 0 {
			return fmt.Errorf("%s: tensor %q: its data end within a value", place, name)
		}
		return nil
	}
	return t
}

// quantised says which tensors a package in blocks has in blocks: the matrices and kernels, which
// are nearly all of it. Norms, biases and what Affine adds are as exact as F16, and so is
// the pooler, which nothing reads.
func quantised(t safetensors.Tensor) bool {
	return len(t.Shape) >= 2 && strings.HasSuffix(t.Name, ".weight") && !strings.Contains(strings.ToLower(t.Name), "norm") && !strings.HasPrefix(t.Name, "pooler.")
}

// converter checks and converts a stream of little-endian values.
type converter struct {
	w          io.Writer
	place, key string
	from, to   safetensors.DType
	first      int64  // index of the first value in buf
	buf        []byte // what came in since the last flush
	values     []float32
	out        []byte
}

func (c *converter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, p[:n]...)
		p = p[n:]
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// flush passes the whole values in buf on, and keeps the bytes of one that is cut.
func (c *converter) flush() error {
	n := len(c.buf) / int(c.from.Size())
	raw := c.buf[:n*int(c.from.Size())]
	if err := checkFinite(c.place, c.key, c.from, raw, c.first); err != nil {
		return err
	}
	out := raw
	if c.from != c.to {
		out = c.out[:n*int(c.to.Size())]
		if inBlocks(c.to) { // a buffer holds whole blocks, but for the tensor's last
			out = c.out[:quant.Size(string(c.to), int64(n))]
		}
		if err := decode(c.from, raw, c.values[:n]); err != nil {
			return err
		}
		if err := encode(c.place, c.key, c.to, c.values[:n], out, c.first); err != nil {
			return err
		}
	}
	if _, err := c.w.Write(out); err != nil {
		return err
	}
	c.first += int64(n)
	c.buf = append(c.buf[:0], c.buf[len(raw):]...)
	return nil
}
