// Package quant is the types of weights with less than two bytes a value, in blocks of 32
// values that are whole words of a GPU buffer:
//
// Q8 is a byte a value: a float32 scale and 32 signed bytes, 36 bytes; a value is scale·byte.
// It is the same numbers as GGUF's Q8_0 with the scale widened.
//
// Q4_1 is half a byte a value, GGUF's type of that name, which base models come in, too: a
// scale and an offset as float16 and 32 nibbles, 20 bytes, byte k with value k in its low and
// value k+16 in its high half; a value is scale·nibble + offset.
//
// A tensor's values are cut into blocks in their order, whatever its shape; what fills the
// last block up is no value. Package graph's kernels expand blocks on the device, package
// generator stores and converts them.
package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// The types' names, beside "F32" and "F16".
const (
	Q8  = "Q8"
	Q41 = "Q4_1"
)

// A block's values and bytes.
const (
	Values = 32

	BytesQ8  = 36
	BytesQ41 = 20
)

// Types are all types of this package.
var Types = []string{Q8, Q41}

// codec is a type's blocks: their bytes, how up to 32 values become one and come back, and
// whether a block's scale and offset are finite.
type codec struct {
	bytes  int64
	encode func(block []float32, raw []byte) error
	decode func(raw []byte, block []float32)
	finite func(raw []byte) bool
}

var codecs = map[string]codec{
	Q8:  {BytesQ8, encodeQ8, decodeQ8, finiteQ8},
	Q41: {BytesQ41, encodeQ41, decodeQ41, finiteQ41},
}

// BlockBytes is how many bytes a block of a type takes, 0 if the type is not of this package.
func BlockBytes(dtype string) int64 { return codecs[dtype].bytes }

// Size is how many bytes n values take as a type of this package.
func Size(dtype string, n int64) int64 { return (n + Values - 1) / Values * BlockBytes(dtype) }

// Encode writes finite values as ⌈len/32⌉ blocks to raw, which has exactly their Size. Q8's
// scale is the largest magnitude over 127, the error at most half of it. Q4_1 is package
// gguf's; its scale is a 15th of the range, and values too large for a float16 give blocks that
// NonFinite finds.
func Encode(dtype string, values []float32, raw []byte) error {
	c, ok := codecs[dtype]
	if !ok || int64(len(raw)) != Size(dtype, int64(len(values))) {
		return fmt.Errorf("quant: %d values do not fit %d bytes of %.16q", len(values), len(raw), dtype)
	}
	for ; len(values) > 0; raw = raw[c.bytes:] {
		block := values[:min(Values, len(values))]
		values = values[len(block):]
		if err := c.encode(block, raw[:c.bytes]); err != nil {
			return err
		}
	}
	return nil
}

// Decode reads values from blocks of a type.
func Decode(dtype string, raw []byte, values []float32) error {
	c, ok := codecs[dtype]
	if !ok || int64(len(raw)) != Size(dtype, int64(len(values))) {
		return fmt.Errorf("quant: %d bytes of %.16q do not make %d values", len(raw), dtype, len(values))
	}
	for ; len(values) > 0; raw = raw[c.bytes:] {
		block := values[:min(Values, len(values))]
		values = values[len(block):]
		c.decode(raw, block)
	}
	return nil
}

// NonFinite is the index of the first block of a type whose scale or offset is NaN or
// infinite, -1 if there is none.
func NonFinite(dtype string, raw []byte) int {
	c, ok := codecs[dtype]
	for i := 0; ok && int64(len(raw)) >= c.bytes; i, raw = i+1, raw[c.bytes:] {
		if !c.finite(raw) {
			return i
		}
	}
	return -1
}

func encodeQ8(block []float32, raw []byte) error {
	peak := float32(0)
	for _, v := range block {
		peak = max(peak, max(v, -v))
	}
	scale := peak / 127
	binary.LittleEndian.PutUint32(raw, math.Float32bits(scale))
	codes := raw[4:]
	clear(codes)
	if scale == 0 { // all zero, or too small for a scale
		return nil
	}
	for i, v := range block {
		q := math.RoundToEven(float64(v) / float64(scale))
		codes[i] = byte(int8(max(-127, min(127, q))))
	}
	return nil
}

func decodeQ8(raw []byte, block []float32) {
	scale := math.Float32frombits(binary.LittleEndian.Uint32(raw))
	for i := range block {
		block[i] = scale * float32(int8(raw[4+i]))
	}
}

func finiteQ8(raw []byte) bool { return binary.LittleEndian.Uint32(raw)&0x7f800000 != 0x7f800000 }

// encodeQ41 fills the block up with its first value, which leaves its range as it is.
func encodeQ41(block []float32, raw []byte) error {
	var whole [Values]float32
	for i := copy(whole[:], block); i < Values; i++ {
		whole[i] = block[0]
	}
	return gguf.Encode(gguf.Q4_1, whole[:], raw)
}

func decodeQ41(raw []byte, block []float32) {
	scale, offset := safetensors.HalfToFloat(binary.LittleEndian.Uint16(raw)), safetensors.HalfToFloat(binary.LittleEndian.Uint16(raw[2:]))
	for i := range block {
		code := raw[4+i%16] >> (i / 16 * 4) & 15
		// The conversion keeps the product from being fused with the sum.
		block[i] = float32(scale*float32(code)) + offset
	}
}

func finiteQ41(raw []byte) bool {
	return binary.LittleEndian.Uint16(raw)&0x7c00 != 0x7c00 && binary.LittleEndian.Uint16(raw[2:])&0x7c00 != 0x7c00
}
