package gguf_test

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

var encoded = map[string]gguf.TensorType{
	"F16": gguf.F16, "BF16": gguf.BF16, "Q4_0": gguf.Q4_0, "Q4_1": gguf.Q4_1, "Q5_0": gguf.Q5_0, "Q5_1": gguf.Q5_1, "Q8_0": gguf.Q8_0,
}

// Blocks are those of the quantisers in ggml's Python package gguf 0.10, bit for bit, and
// the values are rounded to what its readers find.
func TestEncodeIsGGML(t *testing.T) {
	raw, err := os.ReadFile("testdata/quants.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	var values []float32
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(all["values"], &values); err != nil {
		t.Fatal(err)
	}
	for name, kind := range encoded {
		var want struct {
			Blocks string
			Values []float32
		}
		if err := json.Unmarshal(all[name], &want); err != nil {
			t.Fatal(err)
		}
		size, err := gguf.Size(kind, len(values))
		if err != nil {
			t.Fatal(err)
		}
		got, blocks := slices.Clone(values), make([]byte, size)
		if err := gguf.Encode(kind, got, blocks); err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(blocks) != want.Blocks {
			t.Errorf("%s: blocks differ", name)
		}
		for i := range got {
			if got[i] != want.Values[i] {
				t.Fatalf("%s: value %d: %v became %v, expected %v", name, i, values[i], got[i], want.Values[i])
			}
		}
		if kind != gguf.F16 && kind != gguf.BF16 && kind != gguf.Q8_0 {
			continue
		}
		again := make([]float32, len(got))
		if err := gguf.Decode(kind, blocks, again); err != nil || !slices.Equal(again, got) {
			t.Errorf("%s: decoded differently, %v", name, err)
		}
	}
}

func TestElementsRefuse(t *testing.T) {
	if _, err := gguf.Size(gguf.Q8_0, 33); err == nil {
		t.Error("half a block has a size")
	}
	if _, err := gguf.Size(gguf.TensorType(12), 256); err == nil {
		t.Error("Q4_K has a size to write")
	}
	if gguf.Encode(gguf.Q4_0, make([]float32, 32), make([]byte, 17)) == nil || gguf.Decode(gguf.Q8_0, make([]byte, 33), make([]float32, 32)) == nil ||
		gguf.Decode(gguf.Q4_0, make([]byte, 18), make([]float32, 32)) == nil {
		t.Error("wrong sizes or types were taken")
	}
	if s := gguf.TensorType(12).String() + gguf.TensorType(4).String(); s != "Q4_Ktype 4" {
		t.Error(s)
	}
}

func BenchmarkEncode(b *testing.B) {
	values := make([]float32, 1<<16)
	for name, kind := range encoded {
		b.Run(name, func(b *testing.B) {
			for i := range values {
				values[i] = float32(rand.NormFloat64())
			}
			n, _ := gguf.Size(kind, len(values))
			raw := make([]byte, n)
			b.SetBytes(int64(4 * len(values)))
			for b.Loop() {
				if err := gguf.Encode(kind, values, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzEncode(f *testing.F) {
	f.Add(uint32(0x3f800000), uint32(0x80000001), uint8(3))
	f.Fuzz(func(t *testing.T, x, y uint32, kind uint8) {
		types := []gguf.TensorType{gguf.F32, gguf.F16, gguf.BF16, gguf.Q4_0, gguf.Q4_1, gguf.Q5_0, gguf.Q5_1, gguf.Q8_0}
		values := make([]float32, 32)
		for i := range values {
			values[i] = math.Float32frombits(x + uint32(i)*y)
			if values[i] != values[i] || math.IsInf(float64(values[i]), 0) {
				return
			}
		}
		size, err := gguf.Size(types[int(kind)%len(types)], 32)
		if err != nil {
			t.Fatal(err)
		}
		if err := gguf.Encode(types[int(kind)%len(types)], values, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	})
}
