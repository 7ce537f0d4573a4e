package safetensors

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// Tensor is one tensor to write. WriteTo's writer gets exactly shape × dtype bytes.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	// Data writes the elements, little-endian. It runs once, in the order of the list.
	Data func(w io.Writer) error
}

// FromFloat32s makes a tensor of float32 values, stored as d (F32, F16 or BF16).
// Its Data may run more than once.
func FromFloat32s(name string, d DType, values []float32, shape ...int) Tensor {
	return Tensor{Name: name, DType: d, Shape: shape, Data: func(w io.Writer) error {
		const step = 1 << 16
		rest := values
		raw := make([]byte, min(step, len(rest))*int(d.Size()))
		for len(rest) > 0 {
			n := min(step, len(rest))
			part := raw[:n*int(d.Size())]
			if err := EncodeFloats(d, rest[:n], part); err != nil {
				return err
			}
			if _, err := w.Write(part); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	}}
}

// WriteFile writes the tensors in the order given, through a temporary file in the
// same folder: the path never holds half a file.
func WriteFile(path string, tensors []Tensor, metadata map[string]string) error {
	return atomicfile.Write(path, func(w io.Writer) error { return Write(w, tensors, metadata) })
}

// Write writes a whole file to w. The header is padded with spaces to 8 bytes, as the
// reference writer does.
func Write(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	header := []byte{'{'}
	add := func(key string, value any) error {
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if len(header) > 1 {
			header = append(header, ',')
		}
		header = append(append(append(header, k...), ':'), v...)
		return nil
	}
	if len(metadata) > 0 {
		if err := add("__metadata__", metadata); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	end := int64(0)
	sizes := make([]int64, len(tensors))
	for i, t := range tensors {
		if seen[t.Name] || t.Name == "__metadata__" {
			return formatErrorf(t.Name, "name occurs twice or is reserved")
		}
		seen[t.Name] = true
		size := t.DType.Size()
		if size == 0 {
			return formatErrorf(t.Name, "unknown dtype %q", t.DType)
		}
		shape := make([]int64, len(t.Shape))
		for j, d := range t.Shape {
			shape[j] = int64(d)
			size *= int64(d)
		}
		sizes[i] = size
		if err := add(t.Name, struct {
			DType   DType    `json:"dtype"`
			Shape   []int64  `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}{t.DType, shape, [2]int64{end, end + size}}); err != nil {
			return err
		}
		end += size
	}
	header = append(header, '}')
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	bw := bufio.NewWriterSize(w, 1<<20)
	var prefix [8]byte
	binary.LittleEndian.PutUint64(prefix[:], uint64(len(header)))
	if _, err := bw.Write(prefix[:]); err != nil {
		return err
	}
	if _, err := bw.Write(header); err != nil {
		return err
	}
	for i, t := range tensors {
		c := &counter{w: bw}
		if err := t.Data(c); err != nil {
			return fmt.Errorf("safetensors: write tensor %q: %w", t.Name, err)
		}
		if c.n != sizes[i] {
			return formatErrorf(t.Name, "%d bytes were written, its shape needs %d", c.n, sizes[i])
		}
	}
	return bw.Flush()
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
