package faults_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/pth"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/faults"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// Wherever a disk fails, a reader gives its error on, and never values that were not read.
func TestReadErrors(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.gguf")
	if err := madeup.WriteBase(base, madeup.BaseOptions{Base: madeup.SmallBase("llama"), Types: []gguf.TensorType{gguf.Q8_0}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		read       func(r faults.Reader, size int64) error
	}{
		{"safetensors", golden.Path("tokens", "mini_0.5B", "adapter_model.safetensors"), func(r faults.Reader, size int64) error {
			f, err := safetensors.NewFile(r, size)
			if err != nil {
				return err
			}
			for _, info := range f.Tensors {
				if _, err := f.Float32s(info.Name); err != nil {
					return err
				}
			}
			return nil
		}},
		{"gguf", base, func(r faults.Reader, size int64) error {
			f, err := gguf.Read(r, size)
			if err != nil {
				return err
			}
			for _, info := range f.Tensors {
				if err := f.ReadRange(info.Name, 0, make([]byte, info.Bytes)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"pth", golden.Path("pth", "criterion_weight.pt"), func(r faults.Reader, size int64) error {
			f, err := pth.NewFile(r, size)
			if err != nil {
				return err
			}
			for _, info := range f.Tensors {
				if err := f.ReadRange(info.Name, 0, make([]byte, info.Bytes)); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := os.ReadFile(c.path)
			if err != nil {
				t.Fatal(err)
			}
			size := int64(len(raw))
			if err := c.read(faults.Reader{ReaderAt: bytes.NewReader(raw), After: size}, size); err != nil {
				t.Fatal(err)
			}
			for part := range int64(64) {
				err := c.read(faults.Reader{ReaderAt: bytes.NewReader(raw), After: size * part / 64}, size)
				if !errors.Is(err, faults.ErrRead) {
					t.Errorf("broken from byte %d of %d on: %v", size*part/64, size, err)
				}
			}
		})
	}
}

// Weights that cannot be read in the middle of the work end it with the file's name.
func TestWeightsGone(t *testing.T) {
	p := madeup.Open(t)
	tokenizer, err := p.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	m := &p.Manifest
	texts, _ := text.Draw([]string{"what"}, m.Condition.Texts, 0, 0)
	batch, err := tokenizer.Encode(texts, m.Condition.Length)
	if err != nil {
		t.Fatal(err)
	}
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	r := infer.New(b)
	defer r.Close()
	condition, err := r.Encode(context.Background(), m.Encoder.Config, p.Weights(), batch.IDs, batch.Mask, batch.Texts, batch.Length, m.Condition.Pads, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.Dir, "decoder.safetensors")
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// Another process cuts the file that is open here.
	if err := os.Truncate(path, st.Size()/2); err != nil {
		t.Fatal(err)
	}
	if _, err := infer.New(b).Decode(t.Context(), m.Decoder, p.Weights(), condition, 1, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	if _, err := generator.Open(p.Dir); err == nil || !strings.Contains(err.Error(), "damaged or changed") {
		t.Errorf("opened again: %v", err)
	}
}
