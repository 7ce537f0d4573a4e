package generator_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// Pieces are equal to the whole, in every type, and values have MadeUp's distribution.
func TestMadeUpPackage(t *testing.T) {
	p, err := generator.MadeUpPackage("7b-math", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w := p.Weights()
	const key = "decoder/model.decoder.module_list.5.linear2.weight"
	for dtype, unit := range map[string]int{"F32": 4, "F16": 2, "Q8": 36, "Q4_1": 20} {
		const units = 1 << 15
		start := int64(1<<25) * int64(unit) // 2^30 values of Q8
		whole := make([]byte, units*unit)
		if err := w.ReadWeights(key, dtype, start, whole); err != nil {
			t.Fatal(err)
		}
		for off, n := 0, 0; off < len(whole); off += n {
			n = min(7*1001*unit, len(whole)-off)
			piece := make([]byte, n)
			if err := w.ReadWeights(key, dtype, start+int64(off), piece); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(piece, whole[off:off+n]) {
				t.Fatalf("%s: the piece at %d differs", dtype, off)
			}
		}
		if dtype != "F32" {
			continue
		}
		var sum, squares float64
		values := generator.Float32s(whole)
		for _, v := range values {
			sum += float64(v)
			squares += float64(v) * float64(v)
		}
		n, fanIn := float64(len(values)), 2048*121.0
		if variance := squares / n * fanIn; math.Abs(variance-1) > 0.05 || math.Abs(sum/n)*math.Sqrt(fanIn) > 0.05 {
			t.Errorf("variance %v, mean %v", variance, sum/n)
		}
	}
	for name, off := range map[string]int64{"decoder/none": 0, key: 1 << 50, "encoder/embeddings.word_embeddings.weight": -4} {
		if w.ReadWeights(name, "F32", off, make([]byte, 4)) == nil {
			t.Errorf("%s at %d was delivered", name, off)
		}
	}
	if w.ReadWeights(key, "I64", 0, make([]byte, 8)) == nil {
		t.Error("I64 was delivered")
	}
	if _, err := generator.MadeUpPackage("huge", 0); err == nil {
		t.Error("an unknown shape was made")
	}
}
