package science

import (
	"math"
	"testing"
)

// With dropout the encoder reads the same prompts otherwise, by a seed; a share of nearly none
// changes nothing.
func TestDropout(t *testing.T) {
	c, b := few(), openBackend(t)
	r, err := openReader(&c, minilm(t), b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	prompts := []string{"flip the order of the words : dog sun tree cow", "copy"}
	plain, width, err := r.read(t.Context(), prompts)
	if err != nil {
		t.Fatal(err)
	}
	read := func(share float64, seed int64) []float32 {
		d, err := r.dropper(b, share)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		v, w, err := d.read(t.Context(), prompts, seed)
		if err != nil || w != width || len(v) != len(plain) {
			t.Fatalf("%v: %d values of width %d, want %d of %d", err, len(v), w, len(plain), width)
		}
		return v
	}
	farthest := func(a, b []float32) float64 {
		most := 0.0
		for i := range a {
			most = max(most, math.Abs(float64(a[i]-b[i])))
		}
		return most
	}
	if d := farthest(read(1e-12, 1), plain); d > 1e-4 {
		t.Errorf("without anything dropped %v from what is read without", d)
	}
	one := read(0.1, 1)
	if d := farthest(one, plain); d < 0.05 {
		t.Errorf("a tenth dropped changes nothing by more than %v", d)
	}
	if d := farthest(one, read(0.1, 1)); d != 0 {
		t.Errorf("the same seed gives values %v apart", d)
	}
	if d := farthest(one, read(0.1, 2)); d < 0.05 {
		t.Errorf("another seed gives values no more than %v apart", d)
	}
	for i := range plain {
		if at := i / width * width; plain[at] == 0 && plain[at+1] == 0 && one[i] != 0 {
			t.Fatalf("%v at padding", one[i])
		}
	}
}
