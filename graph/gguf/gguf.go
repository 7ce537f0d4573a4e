// Package gguf reads the table of contents of GGUF files and writes GGUF files
// (github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian).
//
// Open checks everything against the file's real size before it allocates: counts,
// strings, arrays, shapes, element types, and that the tensors' bytes lie inside the
// file without overlap. It hands out byte ranges. Decode and Encode know the element
// types of adapters and the simple quantised ones; all others are read with a library, by
// package trainer/dequant, after this check. Write makes LoRA adapters for llama.cpp
// (package lora says what is in them) and base models with an adapter merged in (package
// merge).
package gguf

import (
	"errors"
	"fmt"
	"math"
)

const (
	magic            = "GGUF"
	defaultAlignment = 32
	maxAlignment     = 1 << 20
	maxDims          = 4 // ggml's GGML_MAX_DIMS
)

// ValueType is the type tag of a metadata value.
type ValueType uint32

// The types of metadata values, as numbered in the specification.
const (
	Uint8 ValueType = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// size is the number of bytes of a scalar, 0 for strings, arrays and unknown types.
func (t ValueType) size() int64 {
	switch t {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// KeyValue is one metadata pair. Value is a uint64, int64, float64, bool or string; an
// ArrayInfo when it was read from a file's array, a RawArray when it is to be written.
type KeyValue struct {
	Key   string
	Type  ValueType
	Value any
}

// ArrayInfo says where the elements of a metadata array are: Bytes bytes from Offset
// of the file on.
type ArrayInfo struct {
	Type   ValueType
	Count  int64
	Offset int64
	Bytes  int64
}

// RawArray is a metadata array with its elements as a file holds them.
type RawArray struct {
	Type  ValueType
	Count int64
	Data  []byte
}

// TensorType is a tensor's element type, numbered as ggml_type.
type TensorType uint32

// The types that Encode makes. Others are known by size only.
const (
	F32  TensorType = 0
	F16  TensorType = 1
	Q4_0 TensorType = 2
	Q4_1 TensorType = 3
	Q5_0 TensorType = 6
	Q5_1 TensorType = 7
	Q8_0 TensorType = 8
	BF16 TensorType = 30
)

var typeNames = map[TensorType]string{
	F32: "F32", F16: "F16", BF16: "BF16", Q4_0: "Q4_0", Q4_1: "Q4_1", Q5_0: "Q5_0", Q5_1: "Q5_1", Q8_0: "Q8_0", 9: "Q8_1",
	10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
	16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
	24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}

// String is ggml's name of the type.
func (t TensorType) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// block is the number of elements of a block and its bytes.
type block struct{ elements, bytes int64 }

// ggml_type's blocks (ggml-common.h). Types that were removed from ggml are missing.
var blocks = map[TensorType]block{
	F32: {1, 4}, F16: {1, 2}, 24: {1, 1}, 25: {1, 2}, 26: {1, 4}, 27: {1, 8}, 28: {1, 8}, 30: {1, 2},
	2: {32, 18}, 3: {32, 20}, 6: {32, 22}, 7: {32, 24}, 8: {32, 34}, 9: {32, 36}, // Q4_0 … Q8_1
	10: {256, 84}, 11: {256, 110}, 12: {256, 144}, 13: {256, 176}, 14: {256, 210}, 15: {256, 292}, // Q2_K … Q8_K
	16: {256, 66}, 17: {256, 74}, 18: {256, 98}, 19: {256, 50}, 20: {32, 18}, 21: {256, 110}, // IQ2_XXS … IQ3_S
	22: {256, 82}, 23: {256, 136}, 29: {256, 56}, 34: {256, 54}, 35: {256, 66}, 39: {32, 17}, // IQ2_S … MXFP4
}

// TensorInfo describes one tensor. Shape is in ggml's order, fastest axis first: a
// matrix (out, in) of PyTorch is [in, out]. Offset counts from the start of the file.
type TensorInfo struct {
	Name   string
	Type   TensorType
	Shape  []int64
	Offset int64
	Bytes  int64
}

// FormatError says what is wrong with a file, and with which of its keys or tensors.
type FormatError struct {
	Item   string // `tensor "x"`, `key "y"` or empty
	Reason string
}

func (e *FormatError) Error() string {
	if e.Item == "" {
		return "gguf: " + e.Reason
	}
	return "gguf: " + e.Item + ": " + e.Reason
}

func formatErrorf(item, format string, args ...any) error {
	return &FormatError{Item: item, Reason: fmt.Sprintf(format, args...)}
}

// ErrNoTensor is wrapped by lookups of a name that the file does not have.
var ErrNoTensor = errors.New("no such tensor")

// tensorBytes is the size of a tensor's data, with all that can be wrong about shape
// and type.
func tensorBytes(name string, t TensorType, shape []int64) (int64, error) {
	item := fmt.Sprintf("tensor %q", name)
	b, ok := blocks[t]
	if !ok {
		return 0, formatErrorf(item, "unknown type %d", t)
	}
	n := int64(1)
	for _, d := range shape {
		if d < 1 || d > math.MaxInt32 || n > math.MaxInt64/b.bytes/d {
			return 0, formatErrorf(item, "shape %v is out of range", shape)
		}
		n *= d
	}
	if len(shape) > 0 && shape[0]%b.elements != 0 || len(shape) == 0 && b.elements != 1 {
		return 0, formatErrorf(item, "rows of shape %v are not whole blocks of %d elements", shape, b.elements)
	}
	return n / b.elements * b.bytes, nil
}
