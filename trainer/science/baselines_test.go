package science

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/linear"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// Without strength to speak of, a ridge finds a linear map that there is.
func TestRidge(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	var x, y [][]float64
	f := func(v []float64) []float64 { return []float64{2*v[0] - v[1] + 3, v[2] - 1} }
	draw := func() []float64 { return []float64{rng.NormFloat64(), rng.NormFloat64(), rng.NormFloat64()} }
	for range 20 {
		v := draw()
		x, y = append(x, v), append(y, f(v))
	}
	r, err := newRidge(x, y, 1e-9)
	if err != nil {
		t.Fatal(err)
	}
	v := draw()
	got, want := r.predict(v), f(v)
	for i := range want {
		if math.Abs(got[i]-want[i]) > 1e-4 {
			t.Errorf("output %d: %v, want %v", i, got[i], want[i])
		}
	}
	// Infinitely strong, it is the mean.
	r, err = newRidge(x, y, 1e12)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.predict(v); math.Abs(got[0]-linear.Mean(y)[0]) > 1e-6 {
		t.Errorf("a strong ridge gives %v, want the mean %v", got[0], linear.Mean(y)[0])
	}
}

func TestBootstrap(t *testing.T) {
	scores := make([]TaskScore, 40)
	for i := range scores {
		scores[i].Exact = float64(i%2)*0.4 + 0.3 // 0.3 and 0.7: mean 0.5, deviation 0.2
	}
	v := stats.Bootstrap(len(scores), func(tasks []int) float64 { return mean(scores, tasks, exact) })
	half := 1.96 * 0.2 / math.Sqrt(40)
	if math.Abs(v.Value-0.5) > 1e-9 || math.Abs(v.Low-(0.5-half)) > 0.02 || math.Abs(v.High-(0.5+half)) > 0.02 {
		t.Errorf("interval %+v, want about 0.5 ± %.3f", v, half)
	}
}

func TestAverages(t *testing.T) {
	of := func(values ...float64) []TaskScore {
		var list []TaskScore
		for _, v := range values {
			list = append(list, TaskScore{Exact: v, NLL: 1 - v, draws: []float64{v - 0.1, v + 0.1}})
		}
		return list
	}
	all := averages(map[string][]TaskScore{MethodBase: of(0, 0), MethodOwn: of(1, 0.8), MethodGenerated: of(0.5, 0.4)})
	g := all[MethodGenerated]
	if math.Abs(g.Gap.Value-0.5) > 1e-9 || math.Abs(g.Deviation-0.1*math.Sqrt2) > 1e-9 || math.Abs(g.NLL.Value-0.55) > 1e-9 {
		t.Errorf("%+v", g)
	}
}
