package gguf

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// blockValues is how many values a block of the simple quantised types has.
const blockValues = 32

// Decode converts elements of F32, F16, BF16 or Q8_0 to float32: what adapters are
// written in.
func Decode(t TensorType, raw []byte, values []float32) error {
	if d, ok := floats(t); ok {
		return safetensors.DecodeFloats(d, raw, values)
	}
	if t != Q8_0 {
		return fmt.Errorf("gguf: elements of type %s are not read here, expected F32, F16, BF16 or Q8_0", t)
	}
	if len(values)%blockValues != 0 || len(raw) != len(values)/blockValues*34 {
		return fmt.Errorf("gguf: %d bytes of %s do not make %d values", len(raw), t, len(values))
	}
	for ; len(values) > 0; raw, values = raw[34:], values[blockValues:] {
		d := safetensors.HalfToFloat(binary.LittleEndian.Uint16(raw))
		for i := range blockValues {
			values[i] = d * float32(int8(raw[2+i]))
		}
	}
	return nil
}

// Size is how many bytes n values take, for the types that Encode makes.
func Size(t TensorType, n int) (int, error) {
	if _, ok := floats(t); !ok && quantisers[t] == nil {
		return 0, fmt.Errorf("gguf: type %s cannot be written: expected F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0", t)
	}
	b := blocks[t]
	if n%int(b.elements) != 0 {
		return 0, fmt.Errorf("gguf: %d values are not whole blocks of %s, which have %d", n, t, b.elements)
	}
	return n / int(b.elements) * int(b.bytes), nil
}

// Encode converts finite values to elements or blocks of a type, as ggml's own reference
// does, into raw, which has Size bytes. The values are replaced by those that a reader
// will find, so that a caller can tell what was lost.
func Encode(t TensorType, values []float32, raw []byte) error {
	n, err := Size(t, len(values))
	if err != nil {
		return err
	}
	if len(raw) != n {
		return fmt.Errorf("gguf: %d values do not fit %d bytes of %s", len(values), len(raw), t)
	}
	if d, ok := floats(t); ok {
		if err := safetensors.EncodeFloats(d, values, raw); err != nil {
			return err
		}
		return safetensors.DecodeFloats(d, raw, values)
	}
	size := int(blocks[t].bytes)
	for ; len(values) > 0; raw, values = raw[size:], values[blockValues:] {
		quantisers[t](values[:blockValues], raw[:size])
	}
	return nil
}

func floats(t TensorType) (safetensors.DType, bool) {
	switch t {
	case F32:
		return safetensors.F32, true
	case F16:
		return safetensors.F16, true
	case BF16:
		return safetensors.BF16, true
	}
	return "", false
}

// quantisers write one block of 32 values and round the values to it. The arithmetic is
// ggml-quants.c's quantize_row_*_ref, in float32: the scale that is stored is a half, the
// one that values are divided by is not.
var quantisers = map[TensorType]func(values []float32, raw []byte){
	Q8_0: func(values []float32, raw []byte) {
		peak := float32(0)
		for _, v := range values {
			peak = max(peak, max(v, -v))
		}
		stored, inverse := scale(raw, peak/127)
		for i, v := range values {
			q := math.Round(float64(v * inverse))
			raw[2+i] = byte(int8(q))
			values[i] = stored * float32(q)
		}
	},
	Q4_0: func(values []float32, raw []byte) { symmetric(values, raw, 8, nil) },
	Q5_0: func(values []float32, raw []byte) { symmetric(values, raw, 16, raw[2:6]) },
	Q4_1: func(values []float32, raw []byte) { ranged(values, raw, 15, nil) },
	Q5_1: func(values []float32, raw []byte) { ranged(values, raw, 31, raw[4:8]) },
}

// scale stores d as a half, and returns what was stored, and 1/d.
func scale(raw []byte, d float32) (stored, inverse float32) {
	h := safetensors.FloatToHalf(d)
	binary.LittleEndian.PutUint16(raw, h)
	if d != 0 {
		inverse = 1 / d
	}
	return safetensors.HalfToFloat(h), inverse
}

// symmetric is Q4_0 and Q5_0: half the codes below zero, the value of largest magnitude
// at the lowest. high takes the fifth bits.
func symmetric(values []float32, raw []byte, zero float32, high []byte) {
	peak := float32(0)
	for _, v := range values {
		if max(v, -v) > max(peak, -peak) {
			peak = v
		}
	}
	stored, inverse := scale(raw, peak/-zero)
	var codes [blockValues]uint32
	for i, v := range values {
		codes[i] = uint32(min(int32(2*zero-1), int32(float64(v)*float64(inverse)+float64(zero)+0.5)))
		values[i] = stored * (float32(codes[i]) - zero)
	}
	pack(raw[len(raw)-blockValues/2:], high, &codes)
}

// ranged is Q4_1 and Q5_1: the codes go from the smallest value to the largest.
func ranged(values []float32, raw []byte, top float32, high []byte) {
	low, most := values[0], values[0]
	for _, v := range values[1:] {
		low, most = min(low, v), max(most, v)
	}
	stored, inverse := scale(raw, (most-low)/top)
	bottom, _ := scale(raw[2:], low)
	var codes [blockValues]uint32
	for i, v := range values {
		// The conversions keep products from being fused with sums.
		codes[i] = uint32(min(int32(top), int32(float32((v-low)*inverse)+0.5)))
		values[i] = float32(stored*float32(codes[i])) + bottom
	}
	pack(raw[len(raw)-blockValues/2:], high, &codes)
}

// pack writes the low four bits of two codes a byte, and the fifth bits to high.
func pack(raw, high []byte, codes *[blockValues]uint32) {
	const half = blockValues / 2
	var fifth uint32
	for i := range half {
		raw[i] = byte(codes[i]&15 | codes[i+half]&15<<4)
		fifth |= codes[i]>>4<<i | codes[i+half]>>4<<(i+half)
	}
	if high != nil {
		binary.LittleEndian.PutUint32(high, fifth)
	}
}
