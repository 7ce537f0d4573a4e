package llama

import (
	"encoding/binary"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// weights delivers a step's tensors from its two files.
type weights struct {
	files   map[string]*gguf.File
	tensors map[string]Tensor
}

// Weights are the step's, read from the files that it was planned for.
func (s *Step) Weights(base, adapter *gguf.File) graph.Weights {
	w := &weights{files: map[string]*gguf.File{FileBase: base, FileAdapter: adapter}, tensors: map[string]Tensor{}}
	for _, t := range s.Tensors {
		w.tensors[t.Name] = t
	}
	return w
}

func (w *weights) ReadWeights(name, dtype string, off int64, p []byte) error {
	place, ok := w.tensors[name]
	if !ok {
		return fmt.Errorf("llama: the step has no tensor %q", name)
	}
	file := w.files[place.File]
	inFile := name[len(place.File)+1:]
	t, ok := file.Tensor(inFile)
	if !ok || t.Type.String() != place.Type {
		return fmt.Errorf("llama: %s: no tensor %q of type %s: not the file that the step was planned for", file.Path, inFile, place.Type)
	}
	convert, ok := conversions[conversion{t.Type, dtype}]
	if !ok {
		return fmt.Errorf("llama: tensor %q: type %s is not delivered as %s", name, t.Type, dtype)
	}
	if off%convert.to != 0 || len(p)%int(convert.to) != 0 {
		return fmt.Errorf("llama: tensor %q: range %d+%d of %s, expected multiples of %d", name, off, len(p), dtype, convert.to)
	}
	if convert.do == nil {
		return file.ReadRange(inFile, off, p)
	}
	raw := make([]byte, int64(len(p))/convert.to*convert.from)
	if err := file.ReadRange(inFile, off/convert.to*convert.from, raw); err != nil {
		return err
	}
	return convert.do(raw, p)
}

type conversion struct {
	from gguf.TensorType
	to   string
}

// conversions are how elements or blocks of from bytes in a file become such of to bytes;
// do is nil where they are the same. None loses anything.
var conversions = map[conversion]struct {
	from, to int64
	do       func(raw, p []byte) error
}{
	{gguf.F32, "F32"}:      {4, 4, nil},
	{gguf.F16, "F16"}:      {2, 2, nil},
	{gguf.Q4_1, quant.Q41}: {quant.BytesQ41, quant.BytesQ41, nil},
	{gguf.F16, "F32"}:      {2, 4, widen(gguf.F16)},
	{gguf.BF16, "F32"}:     {2, 4, widen(gguf.BF16)},
	{gguf.Q8_0, "F32"}:     {34, 128, widen(gguf.Q8_0)},
	// A Q8_0 block's scale is a half, the device's a float32.
	{gguf.Q8_0, quant.Q8}: {34, quant.BytesQ8, func(raw, p []byte) error {
		for ; len(p) > 0; raw, p = raw[34:], p[quant.BytesQ8:] {
			scale := []float32{safetensors.HalfToFloat(binary.LittleEndian.Uint16(raw))}
			if err := safetensors.EncodeFloats(safetensors.F32, scale, p[:4]); err != nil {
				return err
			}
			copy(p[4:quant.BytesQ8], raw[2:34])
		}
		return nil
	}},
	// Q4_0 is scale·(nibble - 8): Q4_1 with the offset -8·scale, which a half holds exactly
	// unless scale is above 8188, and no weight is.
	{gguf.Q4_0, quant.Q41}: {18, quant.BytesQ41, func(raw, p []byte) error {
		for ; len(p) > 0; raw, p = raw[18:], p[quant.BytesQ41:] {
			scale := safetensors.HalfToFloat(binary.LittleEndian.Uint16(raw))
			copy(p, raw[:2])
			binary.LittleEndian.PutUint16(p[2:], safetensors.FloatToHalf(-8*scale))
			copy(p[4:quant.BytesQ41], raw[2:18])
		}
		return nil
	}},
}

// widen makes float32 of a type.
func widen(t gguf.TensorType) func(raw, p []byte) error {
	return func(raw, p []byte) error {
		values := make([]float32, len(p)/4)
		if err := gguf.Decode(t, raw, values); err != nil {
			return err
		}
		return safetensors.EncodeFloats(safetensors.F32, values, p)
	}
}
