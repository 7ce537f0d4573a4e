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
