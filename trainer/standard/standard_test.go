package standard_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/standard"
)

var nan = float32(math.NaN())

// Three tokens of three cells: one that varies in the cells that it has, a constant one, and one
// that differs by rounding alone.
func Example() {
	nothing := float32(math.NaN())
	sums := standard.NewSums(3, 1, 3)
	for _, tokens := range [][]float32{{1, 3, nothing, 7, 7, 7, 1, 1, 1}, {3, 7, nothing, 7, 7, 7, 1, 1, 1.000001}} {
		sums.Add(tokens, 2)
	}
	s := sums.Standard()
	fmt.Println("mean", s.Mean[:6])
	fmt.Printf("spread %.4f\n", s.Spread)
	tokens := []float32{1, 7, nothing, 7, 8, 9, 1, 2, 3}
	s.Apply(tokens)
	fmt.Printf("%.4f\n", tokens)
	// Output:
	// mean [2 5 0 7 7 7]
	// spread [1.5811 0.0000 0.0000]
	// [-0.6325 1.2649 NaN 0.0000 0.0000 0.0000 0.0000 0.0000 0.0000]
}

// Checkpoints count by the number of which each is said to be one: here data sets of two and of one.
func TestCount(t *testing.T) {
	sums := standard.NewSums(1, 1, 2)
	for _, x := range []struct {
		tokens []float32
		count  int
	}{{[]float32{0, nan}, 4}, {[]float32{4, nan}, 4}, {[]float32{10, nan}, 2}} {
		sums.Add(x.tokens, x.count)
	}
	if mean := sums.Mean(); mean[0] != 6 || !math.IsNaN(mean[1]) {
		t.Errorf("mean %v, want 6 and NaN", mean)
	}
	if s := sums.Standard(); s.Mean[0] != 6 || s.Mean[1] != 0 || math.Abs(float64(s.Spread[0])-math.Sqrt(18)) > 1e-6 {
		t.Errorf("%+v", s)
	}
}

// In a basis of as many directions as data sets differ in, each is the sum of them by its coordinates.
func TestBasis(t *testing.T) {
	means := [][]float32{{1, 2, nan, 0}, {-3, 0, nan, 1}, {2, -2, nan, -1}}
	given := [][]float64{{1, 0}, {0, 1}, {-1, -1}}
	for _, coordinates := range [][][]float64{nil, given} {
		b, err := standard.Basis(means, 2, coordinates)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != 8 || slices.ContainsFunc(b, func(v float32) bool { return v != v }) || b[4] != 0 || b[5] != 0 {
			t.Errorf("basis %v", b)
		}
		if coordinates != nil {
			continue
		}
		// The rows lie in the plane of the directions: what is left of each is orthogonal to nothing.
		for _, m := range means {
			if left := residual(m, b); left > 1e-5 {
				t.Errorf("%v lies %v beside the basis %v", m, left, b)
			}
		}
	}
	if _, err := standard.Basis(means, 3, nil); err == nil {
		t.Error("three directions of three data sets")
	}
}

// residual is the distance of x from the span of b's two columns, which are orthogonal.
func residual(x, b []float32) float64 {
	r := make([]float64, len(x))
	for k, v := range x {
		if v == v {
			r[k] = float64(v)
		}
	}
	for j := range 2 {
		dot, square := 0.0, 0.0
		for k := range r {
			v := float64(b[2*k+j])
			dot += r[k] * v
			square += v * v
		}
		for k := range r {
			r[k] -= dot / square * float64(b[2*k+j])
		}
	}
	sum := 0.0
	for _, v := range r {
		sum += v * v
	}
	return math.Sqrt(sum)
}
