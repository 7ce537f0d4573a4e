package generator_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Weights that are kept in memory are those of the files, and outlive them.
func TestLoad(t *testing.T) {
	read := func(p *generator.Package) []byte {
		t.Helper()
		var all []byte
		for _, tensor := range p.Manifest.Decoder.Tensors() {
			n := 4
			for _, d := range tensor.Shape {
				n *= d
			}
			values := make([]byte, n)
			if err := p.Weights().ReadWeights("decoder/"+tensor.Name, "F32", 0, values); err != nil {
				t.Fatal(err)
			}
			all = append(all, values...)
		}
		return all
	}
	for _, dtype := range []safetensors.DType{"", safetensors.F16, generator.Q8, generator.Q4} {
		dir := madeUp(t, generator.MadeUpOptions{Seed: 3, Encoder: tinyEncoder(t, nil), WriteOptions: generator.WriteOptions{DType: dtype}})
		p := openPackage(t, dir)
		want := read(p)
		for _, keep := range []bool{false, true} {
			if err := p.Load(t.Context(), keep); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(p), want) {
				t.Errorf("%s, kept %v: other weights than in the files", dtype, keep)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(p), want) {
			t.Errorf("%s: other weights without the files", dtype)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A file that changed since its checksum was taken is an error that names it, whether its
// weights are kept or not; so is one that is gone. A context ends it.
func TestLoadErrors(t *testing.T) {
	for _, keep := range []bool{false, true} {
		for _, name := range []string{"decoder.safetensors", "encoder/model.safetensors", "encoder/vocab.txt"} {
			dir := madeUp(t, generator.MadeUpOptions{Seed: 3, Encoder: tinyEncoder(t, nil)})
			p := openPackage(t, dir)
			path := filepath.Join(dir, filepath.FromSlash(name))
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)-1] ^= 1
			for what, damage := range map[string]func() error{
				"a bit":   func() error { return os.WriteFile(path, raw, 0o600) },
				"the end": func() error { return os.WriteFile(path, raw[:len(raw)-1], 0o600) },
				"gone":    func() error { return os.Remove(path) },
			} {
				if err := damage(); err != nil {
					t.Fatal(err)
				}
				if err := p.Load(t.Context(), keep); err == nil || !strings.Contains(err.Error(), filepath.FromSlash(name)) {
					t.Errorf("%s of %s: %v", what, name, err)
				}
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	p := openPackage(t, madeUp(t, generator.MadeUpOptions{Seed: 3, Encoder: tinyEncoder(t, nil)}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Load(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
