package generator_test

import (
	"bytes"
	"context"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const blocksKey = "model.decoder.module_list.0.linear1.conv1w.weight"

// Weights in blocks, made on reading and when the package was written, and read as all
// types, in uneven pieces.
func TestBlocks(t *testing.T) {
	for _, dtype := range quant.Types {
		t.Run(dtype, func(t *testing.T) {
			d, block := safetensors.DType(dtype), int(quant.BlockBytes(dtype))
			plain := madeUp(t, generator.MadeUpOptions{Seed: 1})
			packed := madeUp(t, generator.MadeUpOptions{Seed: 1, Encoder: tinyEncoder(t, nil), WriteOptions: generator.WriteOptions{DType: d, EncoderDType: d}})
			values := decoderValues(t, plain, blocksKey)
			raw := make([]byte, quant.Size(dtype, int64(len(values))))
			if err := quant.Encode(dtype, values, raw); err != nil {
				t.Fatal(err)
			}
			rounded := make([]float32, len(values))
			if err := quant.Decode(dtype, raw, rounded); err != nil {
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
				{"made on reading", plain, dtype, block * 2001, raw},
				{"as stored", packed, dtype, block * 2001, raw},
				{"as f32", packed, "F32", 70004, encoded(safetensors.F32)},
				{"as f16", packed, "F16", 70004, encoded(safetensors.F16)},
			} {
				t.Run(c.name, func(t *testing.T) {
					w := openPackage(t, c.dir).Weights()
					got := make([]byte, len(c.want))
					for off := 0; off < len(got); off += c.piece {
						if err := w.ReadWeights("decoder/"+blocksKey, c.dtype, int64(off), got[off:min(off+c.piece, len(got))]); err != nil {
							t.Fatal(err)
						}
					}
					if !bytes.Equal(got, c.want) {
						t.Error("bytes differ")
					}
				})
			}
			a, b := openPackage(t, plain).Summary(), openPackage(t, packed).Summary()
			if most := a.Decoder.Bytes / map[string]int64{quant.Q8: 3, quant.Q41: 5}[dtype]; a.Decoder.Parameters != b.Decoder.Parameters || b.Decoder.Bytes > most {
				t.Errorf("summaries %+v and %+v, expected as many parameters in at most %d bytes", a.Decoder, b.Decoder, most)
			}
			if !slices.Contains(b.Decoder.DTypes, d) {
				t.Errorf("stored as %v, expected %s", b.Decoder.DTypes, d)
			}
			r, err := generator.Verify(context.Background(), packed, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Values < b.Decoder.Parameters+b.Encoder.Parameters {
				t.Errorf("%d values checked, expected %d or more", r.Values, b.Decoder.Parameters+b.Encoder.Parameters)
			}
		})
	}
}

// One type of blocks is made of another's, as a device asks for it.
func TestBlocksOfBlocks(t *testing.T) {
	read := func(stored, asked string) []float32 {
		dir := madeUp(t, generator.MadeUpOptions{Seed: 1, WriteOptions: generator.WriteOptions{DType: safetensors.DType(stored)}})
		raw, values := make([]byte, 100*quant.BlockBytes(asked)), make([]float32, 100*quant.Values)
		if err := openPackage(t, dir).Weights().ReadWeights("decoder/"+blocksKey, asked, 0, raw); err != nil {
			t.Fatal(err)
		}
		if err := quant.Decode(asked, raw, values); err != nil {
			t.Fatal(err)
		}
		return values
	}
	for _, c := range []struct {
		stored, asked string
		levels        float64 // between a block's least and largest value, or its peak's two signs
	}{{generator.Q4, generator.Q8, 254}, {generator.Q8, generator.Q4, 15}} {
		want, got := read(c.stored, c.stored), read(c.stored, c.asked)
		for at := 0; at < len(want); at += quant.Values {
			peak := 0.0
			for _, v := range want[at : at+quant.Values] {
				peak = max(peak, math.Abs(float64(v)))
			}
			for i := at; i < at+quant.Values; i++ {
				if e := math.Abs(float64(got[i] - want[i])); e > peak*(1/c.levels+2.0/1024) {
					t.Fatalf("%s as %s: value %d is %v, came as %v", c.stored, c.asked, i, want[i], got[i])
				}
			}
		}
	}
}

func TestBlockErrors(t *testing.T) {
	for dtype, infinite := range map[string][]byte{quant.Q8: {0, 0, 0x80, 0x7f}, quant.Q41: {0, 0, 0, 0x7c}} {
		block := quant.BlockBytes(dtype)
		dir := madeUp(t, generator.MadeUpOptions{WriteOptions: generator.WriteOptions{DType: safetensors.DType(dtype)}})
		w := openPackage(t, dir).Weights()
		p := make([]byte, 2*block)
		wantError(t, w.ReadWeights("decoder/"+blocksKey, dtype, 4, p), blocksKey, "are asked for")
		wantError(t, w.ReadWeights("decoder/"+blocksKey, dtype, 0, p[:block+4]), blocksKey, "are asked for")
		wantError(t, w.ReadWeights("decoder/"+blocksKey, dtype, block<<40, p), blocksKey, "are asked for")

		path := filepath.Join(dir, "decoder.safetensors")
		f, err := safetensors.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		x, _ := f.Lookup(blocksKey)
		f.Close()
		poke(t, path, x.Offset+block*5, infinite)
		_, err = generator.Verify(context.Background(), dir, nil)
		wantError(t, err, "decoder.safetensors", blocksKey, "scale of block 5")
		for _, d := range []string{"F32", "F16", "Q8", "Q4_1"} {
			size := map[string]int64{"F32": 4 * 32, "F16": 2 * 32, "Q8": 36, "Q4_1": 20}[d]
			wantError(t, openPackage(t, dir).Weights().ReadWeights("decoder/"+blocksKey, d, 4*size, make([]byte, 2*size)), "decoder.safetensors", blocksKey, "scale of block 5")
		}
	}
}
