package generator_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// decoderValues are a tensor's values as a package's file has them.
func decoderValues(t *testing.T, dir, key string) []float32 {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(dir, "decoder.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values, err := f.Float32s(key)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// Every conversion of ReadWeights, in uneven pieces, against the whole tensor.
func TestWeights(t *testing.T) {
	const key = "model.decoder.module_list.0.linear1.conv1w.weight"
	for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		dir := madeUp(t, generator.MadeUpOptions{Seed: 1, WriteOptions: generator.WriteOptions{DType: stored}})
		w := openPackage(t, dir).Weights()
		values := decoderValues(t, dir, key)
		for _, d := range []safetensors.DType{safetensors.F32, safetensors.F16} {
			t.Run(fmt.Sprintf("%s as %s", stored, d), func(t *testing.T) {
				want := make([]byte, int64(len(values))*d.Size())
				if err := safetensors.EncodeFloats(d, values, want); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(want))
				for off, n := 0, 0; off < len(got); off += n {
					n = min(70004, len(got)-off)
					if err := w.ReadWeights("decoder/"+key, string(d), int64(off), got[off:off+n]); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, want) {
					t.Error("bytes differ")
				}
			})
		}
	}
}

func TestWeightsErrors(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{})
	w := openPackage(t, dir).Weights()
	const key = "decoder/model.decoder.module_list.1.linear2.bias" // 358 values
	p := make([]byte, 8)
	wantError(t, w.ReadWeights("x/y", "F32", 0, p), "expected decoder/KEY")
	wantError(t, w.ReadWeights("encoder/y", "F32", 0, p), "expected decoder/KEY")
	wantError(t, w.ReadWeights("decoder/y", "F32", 0, p), "no such tensor")
	wantError(t, w.ReadWeights(key, "BF16", 0, p), "to F32, F16, Q8 or Q4_1")
	wantError(t, w.ReadWeights(key, "F32", 2, p), "as F32 it has 1432")
	wantError(t, w.ReadWeights(key, "F16", 712, p), "as F16 it has 716")
	wantError(t, w.ReadWeights(key, "F32", -4, p), "as F32 it has")
	wantError(t, w.ReadWeights(key, "F32", math.MaxInt64-3, p), "as F32 it has")
	if err := w.ReadWeights(key, "F16", 712, p[:4]); err != nil {
		t.Error(err)
	}
}

// A value that is no number is found by Verify, by the weights, and by Write.
func TestNotFinite(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 1, Features: [][3]int{{1, 1, 384}, {4, 4, 6}}}
	m := generator.Manifest{Name: "x", Decoder: c, Tiling: lora.Tiling{Height: 4, Width: 6},
		Condition: generator.Condition{Texts: 1, Length: 1, Width: 384, Pads: generator.PadsEncoded}}
	const key, index = "model.decoder.module_list.0.linear1.conv1w.weight", 1001
	tensors := func(d safetensors.DType, v float32) []safetensors.Tensor {
		var list []safetensors.Tensor
		for _, x := range c.Tensors() {
			n := 1
			for _, s := range x.Shape {
				n *= s
			}
			values := make([]float32, n)
			if x.Name == key {
				values[index] = v
			}
			list = append(list, safetensors.FromFloat32s(x.Name, d, values, x.Shape...))
		}
		return list
	}
	ctx := context.Background()
	for _, d := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			out := filepath.Join(t.TempDir(), "out")
			err := generator.Write(ctx, out, m, tensors(d, v), "", generator.WriteOptions{})
			wantError(t, err, "decoder", key, "value 1001", fmt.Sprint(v))
			empty(t, out)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := generator.Write(ctx, out, m, tensors(d, 1), "", generator.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Open(filepath.Join(out, "decoder.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		x, _ := f.Lookup(key)
		f.Close()
		poke(t, filepath.Join(out, "decoder.safetensors"), x.Offset+index*d.Size(), bytes.Repeat([]byte{0xff}, int(d.Size())))
		_, err = generator.Verify(ctx, out, nil)
		wantError(t, err, "decoder.safetensors", key, "value 1001 is NaN")
		w := openPackage(t, out).Weights()
		for _, as := range []string{"F32", "F16"} {
			size := map[string]int64{"F32": 4, "F16": 2}[as]
			if err := w.ReadWeights("decoder/"+key, as, 0, make([]byte, 1000*size)); err != nil {
				t.Error(err)
			}
			err := w.ReadWeights("decoder/"+key, as, 1000*size, make([]byte, 4*size))
			wantError(t, err, "decoder.safetensors", key, "value 1001 is NaN")
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	err := generator.Write(ctx, out, m, tensors(safetensors.F32, 70000), "", generator.WriteOptions{DType: safetensors.F16})
	wantError(t, err, key, "value 1001 is 70000", "too large for F16")
	if err := generator.Write(ctx, out, m, tensors(safetensors.F32, 70000), "", generator.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = openPackage(t, out).Weights().ReadWeights("decoder/"+key, "F16", 2000, make([]byte, 4))
	wantError(t, err, key, "value 1001 is 70000", "too large for F16")
}

func BenchmarkReadWeights(b *testing.B) {
	const key = "decoder/model.decoder.module_list.0.linear1.conv1w.weight"
	for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		p := openPackage(b, madeUp(b, generator.MadeUpOptions{WriteOptions: generator.WriteOptions{DType: stored}}))
		for _, as := range []string{"F32", "F16"} {
			b.Run(fmt.Sprintf("%s as %s", stored, as), func(b *testing.B) {
				buf := make([]byte, 1<<17)
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					if err := p.Weights().ReadWeights(key, as, 0, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
