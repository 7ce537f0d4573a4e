package linear_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// Values that are linear in the features are found again by a weak ridge; a strong one
// gives their mean.
func TestRidge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	slope := []float64{2, -1, 0.5}
	value := func(x []float64) float64 { return 3 + x[0]*slope[0] + x[1]*slope[1] + x[2]*slope[2] }
	features, values, average := make([][]float64, 12), make([]float64, 12), 0.0
	for i := range features {
		features[i] = []float64{rng.NormFloat64(), rng.NormFloat64(), rng.NormFloat64()}
		values[i] = value(features[i])
		average += values[i] / 12
	}
	at := []float64{0.3, -2, 1}
	for _, x := range []struct{ strength, want float64 }{{1e-9, value(at)}, {1e9, average}} {
		r, err := linear.NewRidge(features, x.strength)
		if err != nil {
			t.Fatal(err)
		}
		got, sum := 0.0, 0.0
		for i, share := range r.Shares(at) {
			got += share * values[i]
			sum += share
		}
		if math.Abs(got-x.want) > 1e-6 || math.Abs(sum-1) > 1e-9 {
			t.Errorf("strength %g: %g, want %g; shares add up to %g", x.strength, got, x.want, sum)
		}
	}
	if _, err := linear.NewRidge(nil, 1); err == nil {
		t.Error("a ridge without tasks")
	}
}

func TestNearest(t *testing.T) {
	rows := [][]float64{{1, 0}, {0, 1}, {-1, -1}}
	if i := linear.Nearest(rows, []float64{0.1, 0.9}); i != 1 {
		t.Errorf("nearest is %d", i)
	}
}

// Spreads drop after those that are more than accident: of the shipped generator's tasks, after nine.
func TestDrop(t *testing.T) {
	for _, x := range []struct {
		spreads []float32
		want    int
	}{
		{[]float32{1, .91, .85, .72, .63, .58, .53, .47, .38, .12, .11, .09, .09, .08, .08, .07, .06, .05, .05, .04, .04}, 9},
		{[]float32{1, 0.48, 0.17}, 2},
		{[]float32{1, 0.5, 1e-4, 1e-7}, 2},
		{[]float32{1}, 1},
		{[]float32{1, 0}, 1},
	} {
		if got := linear.Drop(x.spreads); got != x.want {
			t.Errorf("%v drop after %d, want %d", x.spreads, got, x.want)
		}
	}
}

// Rows of two directions are found again in a basis of two, by coordinates of mean square 1; in
// one, what is left is what the other direction holds.
func TestPrincipal(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n, width = 6, 40
	var directions [2][width]float64
	for i := range width {
		directions[0][i], directions[1][i] = 3*rng.NormFloat64(), rng.NormFloat64()
	}
	var shares [n][2]float64
	var mean [2]float64
	for i := range shares {
		for j := range mean {
			shares[i][j] = rng.NormFloat64()
			mean[j] += shares[i][j] / n
		}
	}
	rows := make([][]float32, n)
	total := 0.0
	for i := range rows {
		rows[i] = make([]float32, width)
		for k := range rows[i] {
			if k == width-1 { // a cell that holds nothing
				rows[i][k] = float32(math.NaN())
				continue
			}
			v := (shares[i][0]-mean[0])*directions[0][k] + (shares[i][1]-mean[1])*directions[1][k]
			rows[i][k], total = float32(v), total+v*v
		}
	}
	// rest is the energy that rows keep beside a basis, whose directions are orthogonal.
	rest := func(basis []float32, rank int) float64 {
		left := total
		for r := range rank {
			norm, square := 0.0, 0.0
			for k := range width {
				norm += float64(basis[k*rank+r]) * float64(basis[k*rank+r])
			}
			for _, row := range rows {
				dot := 0.0
				for k, v := range row[:width-1] {
					dot += float64(v) * float64(basis[k*rank+r])
				}
				left -= dot * dot / norm
				square += dot * dot / norm / norm / n
			}
			if math.Abs(square-1) > 1e-4 {
				t.Errorf("direction %d of %d: coordinates of mean square %v, want 1", r, rank, square)
			}
		}
		return left / total
	}
	for _, x := range []struct {
		rank      int
		low, most float64
	}{{2, -1e-5, 1e-5}, {1, 1e-3, 0.4}} {
		coordinates, spreads, err := linear.Principal(rows, x.rank)
		if err != nil {
			t.Fatal(err)
		}
		basis := linear.Span(rows, coordinates)
		if left := rest(basis, x.rank); left < x.low || left > x.most {
			t.Errorf("a basis of %d leaves %v, want %v to %v", x.rank, left, x.low, x.most)
		}
		if second := spreads[1] * spreads[1]; x.rank == 1 && math.Abs(rest(basis, 1)-second/(1+second)) > 1e-4 {
			t.Errorf("the second direction spreads %v, but one leaves %v", spreads[1], rest(basis, 1))
		}
		if len(spreads) != n-1 || spreads[0] != 1 || spreads[2] > 1e-4 {
			t.Errorf("rows of two directions spread %v", spreads)
		}
	}
	for _, rank := range []int{0, n} {
		if _, _, err := linear.Principal(rows, rank); err == nil {
			t.Errorf("%d directions of %d rows", rank, n)
		}
	}
}
