package quant_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
)

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 31, 32, 33, 64, 1000} {
		values, back := make([]float32, n), make([]float32, n)
		for i := range values {
			values[i] = float32(rng.NormFloat64() * math.Pow(10, float64(i/32%7-3)))
		}
		raw := make([]byte, quant.Size(int64(n)))
		if err := quant.Encode(values, raw); err != nil {
			t.Fatal(err)
		}
		if err := quant.Decode(raw, back); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < n; at += quant.Values {
			block := values[at:min(at+quant.Values, n)]
			peak := 0.0
			for _, v := range block {
				peak = max(peak, math.Abs(float64(v)))
			}
			for i, v := range block {
				if e := math.Abs(float64(v - back[at+i])); e > peak/254*1.000001 {
					t.Fatalf("%d values: value %d is %v, came back as %v: error %v of a peak of %v", n, at+i, v, back[at+i], e, peak)
				}
			}
		}
		again := make([]byte, len(raw))
		if err := quant.Encode(back, again); err != nil {
			t.Fatal(err)
		}
		if err := quant.Decode(again, values); err != nil {
			t.Fatal(err)
		}
		for i := range back {
			if math.Abs(float64(back[i]-values[i])) > 1e-6*math.Abs(float64(back[i])) {
				t.Fatalf("%d values: a second round trip turned value %d from %v into %v", n, i, back[i], values[i])
			}
		}
	}
}

func TestSmall(t *testing.T) {
	values := []float32{0, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32}
	raw, back := make([]byte, quant.Bytes), make([]float32, 3)
	if err := quant.Encode(values, raw); err != nil {
		t.Fatal(err)
	}
	if err := quant.Decode(raw, back); err != nil {
		t.Fatal(err)
	}
	for i, v := range back {
		if v != 0 {
			t.Errorf("value %d is %v, expected 0", i, v)
		}
	}
}

func TestSizes(t *testing.T) {
	if quant.Encode(make([]float32, 33), make([]byte, 36)) == nil || quant.Decode(make([]byte, 36), make([]float32, 33)) == nil {
		t.Error("sizes that do not fit were taken")
	}
	raw := make([]byte, 3*quant.Bytes)
	if i := quant.NonFinite(raw); i != -1 {
		t.Errorf("zeros: block %d", i)
	}
	raw[2*quant.Bytes+2], raw[2*quant.Bytes+3] = 0x80, 0x7f
	if i := quant.NonFinite(raw); i != 2 {
		t.Errorf("infinite scale in block 2: %d", i)
	}
}
