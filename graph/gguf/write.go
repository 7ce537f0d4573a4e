package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Tensor is one tensor to write, its shape in ggml's order (fastest axis first).
type Tensor struct {
	Name  string
	Type  TensorType
	Shape []int64
	// Data writes the elements or blocks, little-endian. It runs once, in the order of the list.
	Data func(w io.Writer) error
}

// Write writes a whole file of version 3 with alignment 32. Values are as KeyValue says,
// arrays RawArrays; numbers must fit their type.
func Write(w io.Writer, values []KeyValue, tensors []Tensor) error {
	head := []byte(magic)
	le := binary.LittleEndian
	head = le.AppendUint32(head, 3)
	head = le.AppendUint64(head, uint64(len(tensors)))
	head = le.AppendUint64(head, uint64(len(values)))
	keys := map[string]bool{}
	for _, kv := range values {
		if keys[kv.Key] || kv.Key == "general.alignment" {
			return formatErrorf(fmt.Sprintf("key %q", kv.Key), "occurs twice or is reserved")
		}
		keys[kv.Key] = true
		head = le.AppendUint32(appendString(head, kv.Key), uint32(kv.Type))
		var err error
		if head, err = appendValue(head, kv); err != nil {
			return err
		}
	}
	names := map[string]bool{}
	sizes := make([]int64, len(tensors))
	offset := int64(0)
	for i, t := range tensors {
		if names[t.Name] || len(t.Name) >= 64 { // ggml's GGML_MAX_NAME, its final NUL included
			return formatErrorf(fmt.Sprintf("tensor %q", t.Name), "name occurs twice or has more than 63 bytes")
		}
		names[t.Name] = true
		if len(t.Shape) > maxDims {
			return formatErrorf(fmt.Sprintf("tensor %q", t.Name), "%d axes, expected at most %d", len(t.Shape), maxDims)
		}
		n, err := tensorBytes(t.Name, t.Type, t.Shape)
		if err != nil {
			return err
		}
		sizes[i] = n
		head = le.AppendUint32(appendString(head, t.Name), uint32(len(t.Shape)))
		for _, d := range t.Shape {
			head = le.AppendUint64(head, uint64(d))
		}
		head = le.AppendUint32(head, uint32(t.Type))
		head = le.AppendUint64(head, uint64(offset))
		offset += aligned(n)
	}
	bw := bufio.NewWriterSize(w, 1<<16)
	if _, err := bw.Write(append(head, padding(int64(len(head)))...)); err != nil {
		return err
	}
	for i, t := range tensors {
		c := &counter{w: bw}
		if err := t.Data(c); err != nil {
			return fmt.Errorf("gguf: write tensor %q: %w", t.Name, err)
		}
		if c.n != sizes[i] {
			return formatErrorf(fmt.Sprintf("tensor %q", t.Name), "%d bytes were written, its shape needs %d", c.n, sizes[i])
		}
		if _, err := bw.Write(padding(c.n)); err != nil {
			return err
		}
	}
	return bw.Flush()
}

func aligned(n int64) int64 { return (n + defaultAlignment - 1) / defaultAlignment * defaultAlignment }

func padding(n int64) []byte { return make([]byte, aligned(n)-n) }

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendValue(b []byte, kv KeyValue) ([]byte, error) {
	le := binary.LittleEndian
	switch v := kv.Value.(type) {
	case string:
		if kv.Type == String {
			return appendString(b, v), nil
		}
	case RawArray:
		if kv.Type == Array {
			b = le.AppendUint64(le.AppendUint32(b, uint32(v.Type)), uint64(v.Count))
			return append(b, v.Data...), nil
		}
	case bool:
		if kv.Type == Bool && v {
			return append(b, 1), nil
		} else if kv.Type == Bool {
			return append(b, 0), nil
		}
	case float64:
		switch kv.Type {
		case Float32:
			return le.AppendUint32(b, math.Float32bits(float32(v))), nil
		case Float64:
			return le.AppendUint64(b, math.Float64bits(v)), nil
		}
	case uint64:
		if n := kv.Type.size(); (kv.Type == Uint8 || kv.Type == Uint16 || kv.Type == Uint32 || kv.Type == Uint64) && v<<(64-8*n)>>(64-8*n) == v {
			return append(b, le.AppendUint64(nil, v)[:n]...), nil
		}
	case int64:
		if n := kv.Type.size(); (kv.Type == Int8 || kv.Type == Int16 || kv.Type == Int32 || kv.Type == Int64) && v<<(64-8*n)>>(64-8*n) == v {
			return append(b, le.AppendUint64(nil, uint64(v))[:n]...), nil
		}
	}
	return b, formatErrorf(fmt.Sprintf("key %q", kv.Key), "a %T cannot be written as type %d", kv.Value, kv.Type)
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
