package generator_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const q8Key = "model.decoder.module_list.0.linear1.conv1w.weight"

// Weights as Q8, made on reading and when the package was written, and read as all types,
// in uneven pieces.
func TestQ8(t *testing.T) {
	plain := madeUp(t, generator.MadeUpOptions{Seed: 1})
	packed := madeUp(t, generator.MadeUpOptions{Seed: 1, Encoder: tinyEncoder(t, nil), WriteOptions: generator.WriteOptions{DType: generator.Q8, EncoderDType: generator.Q8}})
	f, err := safetensors.Open(filepath.Join(plain, "decoder.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values, err := f.Float32s(q8Key)
	if err != nil {
		t.Fatal(err)
	}
	q8 := make([]byte, quant.Size(int64(len(values))))
	if err := quant.Encode(values, q8); err != nil {
		t.Fatal(err)
	}
	rounded := make([]float32, len(values))
	if err := quant.Decode(q8, rounded); err != nil {
		t.Fatal(err)
	}
	encoded := func(d safetensors.DType) []byte {
		raw := make([]byte, int64(len(values))*d.Size())
		if err := safetensors.EncodeFloats(d, rounded, raw); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, c := range []struct {
		name, dir, dtype string
		piece            int
		want             []byte
	}{
		{"f32 as q8", plain, "Q8", 36 * 2001, q8},
		{"q8 as q8", packed, "Q8", 36 * 2001, q8},
		{"q8 as f32", packed, "F32", 70004, encoded(safetensors.F32)},
		{"q8 as f16", packed, "F16", 70004, encoded(safetensors.F16)},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := openPackage(t, c.dir).Weights()
			got := make([]byte, len(c.want))
			for off := 0; off < len(got); off += c.piece {
				if err := w.ReadWeights("decoder/"+q8Key, c.dtype, int64(off), got[off:min(off+c.piece, len(got))]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, c.want) {
				t.Error("bytes differ")
			}
		})
	}
	a, b := openPackage(t, plain).Summary(), openPackage(t, packed).Summary()
	if a.Decoder.Parameters != b.Decoder.Parameters || b.Decoder.Bytes > a.Decoder.Bytes/3 {
		t.Errorf("summaries %+v and %+v, expected as many parameters in a third of the bytes", a.Decoder, b.Decoder)
	}
	r, err := generator.Verify(context.Background(), packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Values < b.Decoder.Parameters+b.Encoder.Parameters {
		t.Errorf("%d values checked, expected %d or more", r.Values, b.Decoder.Parameters+b.Encoder.Parameters)
	}
}

func TestQ8Errors(t *testing.T) {
	dir := madeUp(t, generator.MadeUpOptions{WriteOptions: generator.WriteOptions{DType: generator.Q8}})
	w := openPackage(t, dir).Weights()
	p := make([]byte, 72)
	wantError(t, w.ReadWeights("decoder/"+q8Key, "Q8", 4, p), q8Key, "are asked for")
	wantError(t, w.ReadWeights("decoder/"+q8Key, "Q8", 0, p[:40]), q8Key, "are asked for")
	wantError(t, w.ReadWeights("decoder/"+q8Key, "Q8", 36<<40, p), q8Key, "are asked for")

	path := filepath.Join(dir, "decoder.safetensors")
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := f.Lookup(q8Key)
	f.Close()
	poke(t, path, x.Offset+36*5, []byte{0, 0, 0x80, 0x7f})
	_, err = generator.Verify(context.Background(), dir, nil)
	wantError(t, err, "decoder.safetensors", q8Key, "scale of block 5")
	for _, d := range []string{"F32", "F16", "Q8"} {
		size := map[string]int64{"F32": 4 * 32, "F16": 2 * 32, "Q8": 36}[d]
		wantError(t, openPackage(t, dir).Weights().ReadWeights("decoder/"+q8Key, d, 4*size, make([]byte, 2*size)), "decoder.safetensors", q8Key, "scale of block 5")
	}
}
