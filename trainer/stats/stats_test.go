package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// The interval of a mean is that of the normal distribution, but for chance.
func TestBootstrap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 400
	v := make([]float64, n)
	for i := range v {
		v[i] = 5 + rng.NormFloat64()
	}
	got := stats.Bootstrap(n, func(items []int) float64 {
		s := 0.0
		for _, i := range items {
			s += v[i] / n
		}
		return s
	})
	half := 1.96 / math.Sqrt(n)
	if math.Abs(got.Value-5) > 0.2 || math.Abs((got.High-got.Low)/2-half) > 0.15*half || got.Low > got.Value || got.High < got.Value {
		t.Errorf("%+v, want a mean near 5 and half a width near %.3f", got, half)
	}
}

func TestDeviation(t *testing.T) {
	if d := stats.Deviation([]float64{1, 3}); math.Abs(d-math.Sqrt2) > 1e-12 {
		t.Errorf("deviation %g", d)
	}
	if d := stats.Deviation([]float64{1}); d != 0 {
		t.Errorf("deviation of one value %g", d)
	}
}
