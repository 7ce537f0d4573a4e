// Package safetensors reads and writes safetensors files: an 8-byte little-endian
// header length, a JSON header, and the tensors' bytes.
//
// It checks a header as the reference reader does (size, shape × dtype = bytes, no
// holes, no overlaps, nothing behind the last tensor) before it hands out a single
// range, and it never loads a file whole: weights go on as byte ranges. It does not
// know what the tensors mean. Data goes next to a WebGPU buffer or to GoMLX, or, when
// the file is an adapter, to package lora.
package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// maxHeader is the reference reader's own limit on the JSON header, 100 MB.
const maxHeader = 100_000_000

// DType is a tensor's element type by its name in the file's header.
type DType string

// The element types that this project reads. Others are listed, but not decoded.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	F64  DType = "F64"
	I64  DType = "I64"
	I32  DType = "I32"
	U8   DType = "U8"
)

// Size is the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int64 {
	switch d {
	case F64, I64, "U64":
		return 8
	case F32, I32, "U32":
		return 4
	case F16, BF16, "I16", "U16":
		return 2
	case U8, "I8", "BOOL", "F8_E4M3", "F8_E5M2":
		return 1
	}
	return 0
}

// Info describes one tensor. Offset counts from the start of the file.
type Info struct {
	Name   string
	DType  DType
	Shape  []int
	Offset int64
	Bytes  int64
}

// Elements is the product of the shape: 1 for a scalar.
func (i Info) Elements() int64 {
	n := int64(1)
	for _, d := range i.Shape {
		n *= int64(d)
	}
	return n
}

// FormatError says what is wrong with a file, and in which tensor if it is one's.
type FormatError struct {
	Tensor string
	Reason string
}

func (e *FormatError) Error() string {
	if e.Tensor == "" {
		return "safetensors: " + e.Reason
	}
	return fmt.Sprintf("safetensors: tensor %q: %s", e.Tensor, e.Reason)
}

func formatErrorf(tensor, format string, args ...any) error {
	return &FormatError{Tensor: tensor, Reason: fmt.Sprintf(format, args...)}
}

// Header is the checked table of contents of a file, in the order of the data.
type Header struct {
	Tensors  []Info
	Metadata map[string]string
	byName   map[string]int
}

// Lookup finds a tensor by name.
func (h *Header) Lookup(name string) (Info, bool) {
	i, ok := h.byName[name]
	if !ok {
		return Info{}, false
	}
	return h.Tensors[i], true
}

// ReadHeader reads and checks the header of a file of size bytes. It allocates at most
// the header's own length, and only when the file is that long.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	var prefix [8]byte
	if size < 8 {
		return nil, formatErrorf("", "file has %d bytes, expected at least 8", size)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors: read header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader {
		return nil, formatErrorf("", "header of %d bytes is larger than the limit of %d", n, maxHeader)
	}
	if int64(n) > size-8 {
		return nil, formatErrorf("", "header of %d bytes does not fit in a file of %d: truncated?", n, size)
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil {
		return nil, fmt.Errorf("safetensors: read header: %w", err)
	}
	return parseHeader(text, size-8-int64(n), 8+int64(n))
}

// File is an open safetensors file. Its methods are safe for concurrent use.
type File struct {
	*Header
	Path string
	r    io.ReaderAt
	c    io.Closer
}

// Open opens a file and checks its header. Errors name the path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	file, err := NewFile(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.Path, file.c = path, f
	return file, nil
}

// NewFile reads a file of size bytes from memory or any other place.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	h, err := ReadHeader(r, size)
	if err != nil {
		return nil, err
	}
	return &File{Header: h, r: r}, nil
}

// Close closes the file underneath, if Open opened it.
func (f *File) Close() error {
	if f.c == nil {
		return nil
	}
	return f.c.Close()
}

// ErrNoTensor is wrapped by lookups of a name that the file does not have.
var ErrNoTensor = errors.New("no such tensor")

// ReadRange fills p with the tensor's bytes from off on.
func (f *File) ReadRange(name string, off int64, p []byte) error {
	t, ok := f.Lookup(name)
	if !ok {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, ErrNoTensor)
	}
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return fmt.Errorf("%s: tensor %q: range %d+%d exceeds its %d bytes", f.Path, name, off, len(p), t.Bytes)
	}
	if _, err := f.r.ReadAt(p, t.Offset+off); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, err)
	}
	return nil
}

// Float32s decodes a whole tensor of a floating-point type. It is meant for small
// tensors and tests: weights go as ranges.
func (f *File) Float32s(name string) ([]float32, error) {
	t, ok := f.Lookup(name)
	if !ok {
		return nil, fmt.Errorf("%s: tensor %q: %w", f.Path, name, ErrNoTensor)
	}
	raw := make([]byte, t.Bytes)
	if err := f.ReadRange(name, 0, raw); err != nil {
		return nil, err
	}
	out := make([]float32, t.Elements())
	if err := DecodeFloats(t.DType, raw, out); err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", f.Path, name, err)
	}
	return out, nil
}

// Shaped is Float32s of a tensor that must have a shape.
func (f *File) Shaped(name string, shape ...int) ([]float32, error) {
	if t, ok := f.Lookup(name); ok && !slices.Equal(t.Shape, shape) {
		return nil, fmt.Errorf("%s: tensor %q has shape %v, expected %v", f.Path, name, t.Shape, shape)
	}
	return f.Float32s(name)
}
