package quant_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
)

// Q8 errs by half a 127th of a block's peak; Q4_1 by half a 15th of its range, and what float16
// makes of scale and offset. What came out goes in again without a loss that counts.
func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, dtype := range quant.Types {
		for _, n := range []int{0, 1, 31, 32, 33, 64, 1000} {
			values, back := make([]float32, n), make([]float32, n)
			for i := range values {
				values[i] = float32(rng.NormFloat64() * math.Pow(10, float64(i/32%7-3)))
			}
			raw := make([]byte, quant.Size(dtype, int64(n)))
			if err := quant.Encode(dtype, values, raw); err != nil {
				t.Fatal(err)
			}
			if err := quant.Decode(dtype, raw, back); err != nil {
				t.Fatal(err)
			}
			bounds := make([]float64, n)
			for i, v := range values {
				low, high := v, v
				for _, x := range values[i/32*32 : min(i/32*32+32, n)] {
					low, high = min(low, x), max(high, x)
				}
				peak := float64(max(high, -low))
				bounds[i] = peak / 254 * 1.000001
				if dtype == quant.Q41 {
					bounds[i] = float64(high-low)/30*1.000001 + 2*peak/1024
				}
				if e := math.Abs(float64(v - back[i])); e > bounds[i] {
					t.Fatalf("%s, %d values: value %d is %v, came back as %v: an error of %v, expected at most %v", dtype, n, i, v, back[i], e, bounds[i])
				}
			}
			if err := quant.Encode(dtype, back, raw); err != nil {
				t.Fatal(err)
			}
			if err := quant.Decode(dtype, raw, values); err != nil {
				t.Fatal(err)
			}
			for i := range back {
				most := 1e-6 * math.Abs(float64(back[i]))
				if dtype == quant.Q41 {
					most = bounds[i] / 10 // of what float16 makes of the new scale
				}
				if math.Abs(float64(back[i]-values[i])) > most {
					t.Fatalf("%s, %d values: a second round trip turned value %d from %v into %v", dtype, n, i, back[i], values[i])
				}
			}
		}
	}
}

// A block of values too small for its scale, or of equal ones, is what they round to.
func TestFlat(t *testing.T) {
	for _, values := range [][]float32{{0, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32}, {0.5, 0.5, 0.5}, {-2, -2}} {
		for _, dtype := range quant.Types {
			raw, back := make([]byte, quant.Size(dtype, 3)), make([]float32, len(values))
			if err := quant.Encode(dtype, values, raw); err != nil {
				t.Fatal(err)
			}
			if err := quant.Decode(dtype, raw, back); err != nil {
				t.Fatal(err)
			}
			for i, v := range back {
				want := values[i]
				if math.Abs(float64(want)) < 1e-30 {
					want = 0
				}
				if math.Abs(float64(v-want)) > 1e-7*math.Abs(float64(want)) {
					t.Errorf("%s: value %d is %v, expected %v", dtype, i, v, want)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, dtype := range append([]string{"F32", ""}, quant.Types...) {
		n := quant.Size(dtype, 33) - 1
		if quant.Encode(dtype, make([]float32, 33), make([]byte, max(n, 0))) == nil || quant.Decode(dtype, make([]byte, max(n, 0)), make([]float32, 33)) == nil {
			t.Errorf("%s: sizes that do not fit were taken", dtype)
		}
	}
}

func TestNonFinite(t *testing.T) {
	for _, c := range []struct {
		dtype string
		at    int // in the block
		bytes []byte
		want  int
	}{
		{quant.Q8, 0, []byte{0, 0, 0x7f, 0x7f}, -1},
		{quant.Q8, 0, []byte{0, 0, 0x80, 0x7f}, 2},
		{quant.Q8, 0, []byte{1, 0, 0x80, 0xff}, 2},
		{quant.Q8, 4, []byte{255, 255, 255, 255}, -1},
		{quant.Q41, 0, []byte{0xff, 0x7b, 0xff, 0xfb}, -1},
		{quant.Q41, 0, []byte{0, 0x7c}, 2},
		{quant.Q41, 2, []byte{1, 0xfc}, 2},
		{quant.Q41, 4, []byte{255, 255, 255, 255}, -1},
	} {
		block := int(quant.BlockBytes(c.dtype))
		raw := make([]byte, 3*block)
		copy(raw[2*block+c.at:], c.bytes)
		if i := quant.NonFinite(c.dtype, raw); i != c.want {
			t.Errorf("%s, bytes %x at %d of block 2: %d, expected %d", c.dtype, c.bytes, c.at, i, c.want)
		}
	}
	raw := make([]byte, quant.BytesQ41)
	if err := quant.Encode(quant.Q41, []float32{-7e4, 7e4}, raw); err != nil || quant.NonFinite(quant.Q41, raw) != 0 {
		t.Errorf("values beyond float16 passed as finite (%v)", err)
	}
}

// The blocks of testdata are those that the browser's code makes of the same values, too
// (web/test/units.test.mjs).
func TestSameBlocksEverywhere(t *testing.T) {
	raw, err := os.ReadFile("testdata/blocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Values []float32
		Q8     string
		Q41    string `json:"Q4_1"`
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for dtype, text := range map[string]string{quant.Q8: want.Q8, quant.Q41: want.Q41} {
		blocks, err := hex.DecodeString(text)
		if err != nil || len(blocks) == 0 {
			t.Fatalf("%s: %d bytes, %v", dtype, len(blocks), err)
		}
		got := make([]byte, quant.Size(dtype, int64(len(want.Values))))
		if err := quant.Encode(dtype, want.Values, got); err != nil || !bytes.Equal(got, blocks) {
			t.Errorf("%s: %x, %v, expected %x", dtype, got, err, blocks)
		}
	}
}
