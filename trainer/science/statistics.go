package science

import "github.com/drag-and-drop-lora/dnd/trainer/stats"

// Average is a method's result over tasks.
type Average struct {
	Exact  stats.Interval `json:"exact"`
	Option stats.Interval `json:"option"`
	NLL    stats.Interval `json:"nll"`
	// Deviation is that of the mean exact match over draws of prompts; 0 without draws.
	Deviation float64 `json:"deviation"`
	// Gap is how much of the way from the base's exact match to the own-task LoRA's is gone;
	// 0 if there is none.
	Gap stats.Interval `json:"gap_closed"`
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
			Exact:     stats.Bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, exact) }),
			Option:    stats.Bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, option) }),
			NLL:       stats.Bootstrap(n, func(tasks []int) float64 { return mean(list, tasks, nll) }),
			Deviation: overDraws(list),
			Gap: stats.Bootstrap(n, func(tasks []int) float64 {
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
	Exact stats.Interval `json:"exact"`
	NLL   stats.Interval `json:"nll"` // nats fewer
}

func lead(a, b []TaskScore) Lead {
	difference := func(of func(TaskScore) float64) func([]int) float64 {
		return func(tasks []int) float64 { return mean(a, tasks, of) - mean(b, tasks, of) }
	}
	return Lead{stats.Bootstrap(len(a), difference(exact)), stats.Bootstrap(len(a), difference(func(s TaskScore) float64 { return -s.NLL }))}
}

// overDraws is the sample deviation over draws of the mean exact match.
func overDraws(list []TaskScore) float64 {
	means := make([]float64, len(list[0].draws))
	for d := range means {
		for _, s := range list {
			means[d] += s.draws[d] / float64(len(list))
		}
	}
	return stats.Deviation(means)
}
