// Package quant is Q8, the type of weights with a byte a value: blocks of 32 values in 36
// bytes, a float32 scale and 32 signed bytes, of which a value is the product. It is the
// same numbers as GGUF's Q8_0 with the scale widened, so that a block is whole words of a
// GPU buffer.
//
// Q4_1 is GGUF's type of that name, which base models come in: blocks of 32 values in 20
// bytes, a scale and an offset as float16 and 32 nibbles, byte k with value k in its low and
// value k+16 in its high half; a value is scale·nibble + offset. Its blocks are whole words
// as they are; nothing here makes them.
//
// A tensor's values are cut into blocks in their order, whatever its shape; the last block
// is filled up with zeros. Package graph's kernels expand blocks on the device, package
// generator stores and converts them.
package quant

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The types' names, beside "F32" and "F16".
const (
	Q8  = "Q8"
	Q41 = "Q4_1"
)

// A block's values and bytes.
const (
	Values = 32
	Bytes  = 36

	BytesQ41 = 20
)

// Size is how many bytes n values take.
func Size(n int64) int64 { return (n + Values - 1) / Values * Bytes }

// Encode writes values as ⌈len/32⌉ blocks to raw, which has exactly their size. The scale
// is the largest magnitude over 127, the error at most half of it. Values must be finite.
func Encode(values []float32, raw []byte) error {
	if int64(len(raw)) != Size(int64(len(values))) {
		return fmt.Errorf("quant: %d values do not fit %d bytes of blocks", len(values), len(raw))
	}
	for ; len(values) > 0; raw = raw[Bytes:] {
		block := values[:min(Values, len(values))]
		values = values[len(block):]
		peak := float32(0)
		for _, v := range block {
			peak = max(peak, max(v, -v))
		}
		scale := peak / 127
		binary.LittleEndian.PutUint32(raw, math.Float32bits(scale))
		codes := raw[4:Bytes]
		clear(codes)
		if scale == 0 { // all zero, or too small for a scale
			continue
		}
		for i, v := range block {
			q := math.RoundToEven(float64(v) / float64(scale))
			codes[i] = byte(int8(max(-127, min(127, q))))
		}
	}
	return nil
}

// Decode reads values from blocks.
func Decode(raw []byte, values []float32) error {
	if int64(len(raw)) != Size(int64(len(values))) {
		return fmt.Errorf("quant: %d bytes of blocks do not make %d values", len(raw), len(values))
	}
	for ; len(values) > 0; raw = raw[Bytes:] {
		block := values[:min(Values, len(values))]
		values = values[len(block):]
		scale := math.Float32frombits(binary.LittleEndian.Uint32(raw))
		for i := range block {
			block[i] = scale * float32(int8(raw[4+i]))
		}
	}
	return nil
}

// NonFinite is the index of the first block whose scale is NaN or infinite, -1 if there is
// none.
func NonFinite(raw []byte) int {
	for i := 0; i+Bytes <= len(raw); i += Bytes {
		if binary.LittleEndian.Uint32(raw[i:])&0x7f800000 == 0x7f800000 {
			return i / Bytes
		}
	}
	return -1
}
