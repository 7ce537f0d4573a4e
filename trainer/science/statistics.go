package science

import (
	"math"
	"math/rand/v2"
	"sort"
)

// Interval is a mean with its 95 % confidence interval.
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Average is a method's result over tasks.
type Average struct {
	Exact  Interval `json:"exact"`
	Option Interval `json:"option"`
	NLL    Interval `json:"nll"`
	// Deviation is that of the mean exact match over draws of prompts; 0 without draws.
	Deviation float64 `json:"deviation"`
	// Gap is how much of the way from the base's exact match to the own-task LoRA's is gone;
	// 0 if there is none.
	Gap Interval `json:"gap_closed"`
}

// resamples is how often the bootstrap draws tasks anew.
const resamples = 2000

// bootstrap is the statistic of all n tasks and its interval over draws of n tasks with
// repetition: what it would be for other tasks of the kind.
func bootstrap(n int, statistic func(tasks []int) float64) Interval {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	rng := rand.New(rand.NewPCG(1, 0xb007))
	values := make([]float64, resamples)
	picked := make([]int, n)
	for i := range values {
		for j := range picked {
			picked[j] = rng.IntN(n)
		}
		values[i] = statistic(picked)
	}
	sort.Float64s(values)
	return Interval{statistic(all), values[resamples*25/1000], values[resamples*975/1000-1]}
}

// mean is that of some of the scores.
func mean(scores []TaskScore, tasks []int, of func(TaskScore) float64) float64 {
	s := 0.0
	for _, i := range tasks {
		s += of(scores[i])
	}
	return s / float64(len(tasks))
}

func exact(s TaskScore) float64  { return s.Exact }
func option(s TaskScore) float64 { return s.Option }
func nll(s TaskScore) float64    { return s.NLL }

// averages sums a contest's scores up.
func averages(scores map[string][]TaskScore) map[string]Average {
	all := map[string]Average{}
	base, own := scores[MethodBase], scores[MethodOwn]
	for method, list := range scores {
		n := len(list)
		all[method] = Average{
			Exact:     bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, exact) }),
			Option:    bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, option) }),
			NLL:       bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, nll) }),
			Deviation: overDraws(list),
			Gap: bootstrap(n, func(tasks []int) float64 {
				from, to := mean(base, tasks, exact), mean(own, tasks, exact)
				if to <= from {
					return 0
				}
				return (mean(list, tasks, exact) - from) / (to - from)
			}),
		}
	}
	return all
}

// Lead is by how much the generated adapters lead another method on the same tasks.
type Lead struct {
	Exact Interval `json:"exact"`
	NLL   Interval `json:"nll"` // nats fewer
}

func lead(a, b []TaskScore) Lead {
	difference := func(of func(TaskScore) float64) func([]int) float64 {
		return func(tasks []int) float64 { return mean(a, tasks, of) - mean(b, tasks, of) }
	}
	return Lead{bootstrap(len(a), difference(exact)), bootstrap(len(a), difference(func(s TaskScore) float64 { return -s.NLL }))}
}

// overDraws is the sample deviation over draws of the mean exact match.
func overDraws(list []TaskScore) float64 {
	draws := len(list[0].draws)
	if draws < 2 {
		return 0
	}
	means := make([]float64, draws)
	total := 0.0
	for d := range means {
		for _, s := range list {
			means[d] += s.draws[d] / float64(len(list))
		}
		total += means[d] / float64(draws)
	}
	square := 0.0
	for _, m := range means {
		square += (m - total) * (m - total)
	}
	return math.Sqrt(square / float64(draws-1))
}
