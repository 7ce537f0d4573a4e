// Package dequant reads tensors of GGUF files as float32, whatever ggml type they have,
// with go-huggingface's reader. The file has been checked by package gguf before. Values
// go to package lm and, for merging, to package merge.
package dequant

import (
	"errors"
	"fmt"

	hf "github.com/gomlx/go-huggingface/models/gguf"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Reader reads a file. Close it.
type Reader struct {
	// Metadata is the file as the library sees it, for the arrays of a tokenizer.
	Metadata *hf.File
	checked  *gguf.File
	reader   *hf.Reader
}

// Open opens the file that package gguf has opened and checked.
func Open(checked *gguf.File) (*Reader, error) {
	file, err := hf.Open(checked.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checked.Path, err)
	}
	reader, err := hf.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checked.Path, err)
	}
	return &Reader{file, checked, reader}, nil
}

// Close closes what Open opened, not the checked file.
func (r *Reader) Close() error { return r.reader.Close() }

// Float32s reads a whole tensor, in the order of the file.
func (r *Reader) Float32s(name string) ([]float32, error) {
	info, ok := r.checked.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("tensor %s: %w", name, gguf.ErrNoTensor)
	}
	t, err := r.reader.ReadTensor(nil, name)
	if err != nil {
		return nil, fmt.Errorf("tensor %s (%s): %w", name, info.Type, err)
	}
	defer t.MustFinalizeAll()
	v, err := float32s(t)
	if err != nil {
		return nil, fmt.Errorf("tensor %s (%s): %w", name, info.Type, err)
	}
	return v, nil
}

// float32s copies a tensor, widening half types.
func float32s(t *tensors.Tensor) ([]float32, error) {
	out := make([]float32, t.Size())
	var convert error
	err := t.ConstBytes(func(raw []byte) {
		switch n := len(raw) / max(t.Size(), 1); {
		case n == 4:
			convert = safetensors.DecodeFloats(safetensors.F32, raw, out)
		case n == 2 && t.DType().String() == "BFloat16":
			convert = safetensors.DecodeFloats(safetensors.BF16, raw, out)
		case n == 2:
			convert = safetensors.DecodeFloats(safetensors.F16, raw, out)
		default:
			convert = fmt.Errorf("type %s cannot be read", t.DType())
		}
	})
	return out, errors.Join(err, convert)
}
