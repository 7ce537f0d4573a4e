package dequant_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/dequant"
)

// Files that package gguf accepts do not bring the library down, whatever their types.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "base.gguf")
	base := madeup.SmallBase("llama")
	base.Targets = base.Targets[:7]
	if err := madeup.WriteBase(path, madeup.BaseOptions{Base: base, Types: []gguf.TensorType{gguf.Q4_0, gguf.Q8_0, gguf.F16}}); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	file, err := gguf.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:file.Tensors[0].Offset])
	file.Close()
	f.Fuzz(func(t *testing.T, head []byte) {
		if err := os.WriteFile(path, append(head, make([]byte, 1<<16)...), 0o600); err != nil {
			t.Fatal(err)
		}
		checked, err := gguf.Open(path)
		if err != nil {
			return
		}
		defer checked.Close()
		r, err := dequant.Open(checked)
		if err != nil {
			return
		}
		defer r.Close()
		for _, info := range checked.Tensors {
			v, err := r.Float32s(info.Name)
			if err != nil {
				continue
			}
			n := int64(1)
			for _, d := range info.Shape {
				n *= d
			}
			if int64(len(v)) != n {
				t.Fatalf("%s: %d values of shape %v", info.Name, len(v), info.Shape)
			}
			for _, x := range v {
				_ = math.Float32bits(x)
			}
		}
	})
}
