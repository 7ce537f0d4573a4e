package merge

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// GGUFName is the file that GGUF makes in its folder.
const GGUFName = "model.gguf"

// Values reads a tensor of the base as float32, in the order of the file: package
// trainer/dequant's Reader, which knows the quantised types.
type Values interface {
	Float32s(name string) ([]float32, error)
}

// Same stores every merged tensor in the base's own type.
const Same = "same"

// types are the other types that merged tensors can be stored in, with llama.cpp's number
// of a file that has mostly them (llama_ftype).
var types = []struct {
	name string
	kind gguf.TensorType
	file uint64
}{
	{"f32", gguf.F32, 0}, {"f16", gguf.F16, 1}, {"bf16", gguf.BF16, 32}, {"q8_0", gguf.Q8_0, 7},
	{"q5_1", gguf.Q5_1, 9}, {"q5_0", gguf.Q5_0, 8}, {"q4_1", gguf.Q4_1, 3}, {"q4_0", gguf.Q4_0, 2},
}

// Types are the names of the types that GGUF can store merged tensors in.
func Types() []string {
	names := []string{Same}
	for _, t := range types {
		names = append(names, t.name)
	}
	return names
}

// GGUF merges a into the base model of a GGUF file, and makes the folder out, which must
// not exist, with GGUFName in it. Merged tensors are stored as the type of that name; ""
// is the base's own for floats, and f16 for quantised ones. All else is copied. tell may
// be nil.
func GGUF(ctx context.Context, base *gguf.File, values Values, a *lora.Adapter, kind, out string, tell Progress) (*Report, error) {
	spec, err := lora.GGUFSpec(base)
	if err != nil {
		return nil, err
	}
	if kv, ok := base.Lookup("split.count"); ok && kv.Value != uint64(0) && kv.Value != uint64(1) {
		return nil, fmt.Errorf("%s: is one of %v parts: join them with llama-gguf-split --merge first", base.Path, kv.Value)
	}
	m, err := newMerger(ctx, a, spec, tell)
	if err != nil {
		return nil, err
	}
	targets, err := m.inGGUF(base, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", base.Path, err)
	}
	metadata, err := metadataOf(base, targets)
	if err != nil {
		return nil, err
	}
	var list []gguf.Tensor
	for _, info := range base.Tensors {
		t := gguf.Tensor{Name: info.Name, Type: info.Type, Shape: info.Shape, Data: func(w io.Writer) error {
			return m.copy(w, info.Bytes, func(off int64, p []byte) error { return base.ReadRange(info.Name, off, p) })
		}}
		bytes := info.Bytes
		if to, ok := targets[info.Name]; ok {
			n, err := gguf.Size(to.to, int(info.Shape[0]))
			if err != nil {
				return nil, fmt.Errorf("%s: tensor %s: %w", base.Path, info.Name, err)
			}
			bytes = int64(n) * info.Shape[1]
			t.Type, t.Data = to.to, func(w io.Writer) error { return m.mergeGGUF(w, to, values) }
		}
		m.total += bytes
		list = append(list, t)
	}
	err = atomicfile.Dir(out, false, func(tmp string) error {
		err := atomicfile.Write(filepath.Join(tmp, GGUFName), func(w io.Writer) error { return gguf.Write(w, metadata, list) })
		if err != nil {
			return err
		}
		return m.finish(tmp)
	})
	return m.report, err
}

func (m *merger) mergeGGUF(w io.Writer, t target, values Values) error {
	v, err := values.Float32s(t.name)
	if err != nil {
		return err
	}
	size := m.a.Base.Targets[t.index]
	if len(v) != size.Out*size.In {
		return fmt.Errorf("%d values, expected (%d,%d)", len(v), size.Out, size.In)
	}
	return m.merge(w, t, func(row int, into []float32) error {
		copy(into, v[row*size.In:])
		return nil
	})
}

// inGGUF finds the weight of every target, and the type that it is to be stored in.
func (m *merger) inGGUF(base *gguf.File, kind string) (map[string]target, error) {
	targets := map[string]target{}
	for i, t := range m.a.Base.Targets {
		name, b, err := m.a.Base.InGGUF(t, m.a.Pairs[i].B)
		if err != nil {
			return nil, err
		}
		info, ok := base.Tensor(name)
		if !ok {
			return nil, fmt.Errorf("no tensor %s, which the adapter changes", name)
		}
		if !slices.Equal(info.Shape, []int64{int64(t.In), int64(t.Out)}) {
			return nil, fmt.Errorf("tensor %s has shape %v, the adapter is for [%d,%d]", name, info.Shape, t.In, t.Out)
		}
		to, err := stored(info.Type, kind)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		targets[name] = target{index: i, name: name, b: b, from: info.Type.String(), to: to}
	}
	return targets, nil
}

// stored is the type in which a merged tensor is stored.
func stored(from gguf.TensorType, kind string) (gguf.TensorType, error) {
	switch kind {
	case "":
		if from == gguf.F32 || from == gguf.F16 || from == gguf.BF16 {
			return from, nil
		}
		return gguf.F16, nil
	case Same:
		for _, t := range types {
			if t.kind == from {
				return from, nil
			}
		}
		return 0, fmt.Errorf("type %s is read, but not written: choose one of %s", from, strings.Join(Types()[1:], ", "))
	}
	for _, t := range types {
		if t.name == kind {
			return t.kind, nil
		}
	}
	return 0, fmt.Errorf("unknown type %q, expected one of %s", kind, strings.Join(Types(), ", "))
}

// metadataOf copies the base's metadata. Where merged tensors have another type than
// before, the file type is theirs.
func metadataOf(base *gguf.File, targets map[string]target) ([]gguf.KeyValue, error) {
	var list []gguf.KeyValue
	for _, kv := range base.Values {
		switch {
		case kv.Key == "general.alignment": // Write's own
			continue
		case kv.Key == "general.file_type":
			for _, t := range targets {
				for _, known := range types {
					if known.kind == t.to && t.to.String() != t.from {
						kv = gguf.KeyValue{Key: kv.Key, Type: gguf.Uint32, Value: known.file}
					}
				}
			}
		case kv.Type == gguf.Array:
			raw, err := base.Array(kv.Key)
			if err != nil {
				return nil, err
			}
			kv.Value = raw
		}
		list = append(list, kv)
	}
	return list, nil
}
