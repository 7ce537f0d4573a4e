package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
)

// DecodeFloats converts little-endian F32, F16, BF16 or F64 elements to float32.
func DecodeFloats(d DType, raw []byte, out []float32) error {
	if int64(len(raw)) != int64(len(out))*d.Size() {
		return fmt.Errorf("safetensors: %d bytes of %s do not make %d values", len(raw), d, len(out))
	}
	le := binary.LittleEndian
	switch d {
	case F32:
		for i := range out {
			out[i] = math.Float32frombits(le.Uint32(raw[4*i:]))
		}
	case F16:
		for i := range out {
			out[i] = HalfToFloat(le.Uint16(raw[2*i:]))
		}
	case BF16:
		for i := range out {
			out[i] = math.Float32frombits(uint32(le.Uint16(raw[2*i:])) << 16)
		}
	case F64:
		for i := range out {
			out[i] = float32(math.Float64frombits(le.Uint64(raw[8*i:])))
		}
	default:
		return fmt.Errorf("safetensors: dtype %s is not a floating-point type that can be read", d)
	}
	return nil
}

// EncodeFloats converts float32 values to little-endian F32, F16 or BF16 elements,
// rounding to nearest, ties to even.
func EncodeFloats(d DType, values []float32, raw []byte) error {
	if int64(len(raw)) != int64(len(values))*d.Size() {
		return fmt.Errorf("safetensors: %d values do not fit %d bytes of %s", len(values), len(raw), d)
	}
	le := binary.LittleEndian
	switch d {
	case F32:
		for i, v := range values {
			le.PutUint32(raw[4*i:], math.Float32bits(v))
		}
	case F16:
		for i, v := range values {
			le.PutUint16(raw[2*i:], FloatToHalf(v))
		}
	case BF16:
		for i, v := range values {
			le.PutUint16(raw[2*i:], FloatToBF16(v))
		}
	default:
		return fmt.Errorf("safetensors: dtype %s cannot be written from float32", d)
	}
	return nil
}

// FloatToBF16 rounds to bfloat16, ties to even; NaN stays NaN.
func FloatToBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + (b>>16)&1) >> 16)
}

// RoundBF16 rounds to the nearest bfloat16 value and widens it again.
func RoundBF16(v float32) float32 {
	return math.Float32frombits(uint32(FloatToBF16(v)) << 16)
}

// HalfToFloat widens an IEEE binary16 value.
func HalfToFloat(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h>>10) & 0x1f
	man := uint32(h & 0x3ff)
	switch exp {
	case 0:
		v := float32(man) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | man<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
}

// FloatToHalf rounds to IEEE binary16, ties to even; too large becomes infinite.
func FloatToHalf(v float32) uint16 {
	b := math.Float32bits(v)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00
	case b >= 0x477ff000:
		return sign | 0x7c00
	case b < 0x38800000:
		// Adding 0.5 aligns the half's subnormal step (2⁻²⁴) with float32's last bit.
		f := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(f)-0x3f000000)
	}
	return sign | uint16((b-0x38000000+0xfff+(b>>13)&1)>>13)
}
