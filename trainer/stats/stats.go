// Package stats says how sure a mean is: bootstrap intervals, for the tables of packages
// eval and science.
package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// Interval is a statistic with its 95 % confidence interval.
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// resamples is how often the bootstrap draws anew.
const resamples = 2000

// Bootstrap is the statistic of n items and its interval over draws of n items with
// repetition: what it would be for other items of the kind. The same n gives the same
// draws, so that statistics of the same items can be compared.
func Bootstrap(n int, statistic func(items []int) float64) Interval {
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

// Mean is that of values, with its interval.
func Mean(values []float64) Interval {
	return Bootstrap(len(values), func(items []int) float64 {
		mean := 0.0
		for _, i := range items {
			mean += values[i] / float64(len(items))
		}
		return mean
	})
}

// Text is the interval as tables have it, with so many decimals.
func (x Interval) Text(decimals int) string {
	return fmt.Sprintf("%.*f [%.*f, %.*f]", decimals, x.Value, decimals, x.Low, decimals, x.High)
}

// Deviation is the sample deviation; 0 of fewer than two values.
func Deviation(values []float64) float64 {
	if len(values) < 2 {
		return 0
	}
	mean, square := 0.0, 0.0
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		square += (v - mean) * (v - mean)
	}
	return math.Sqrt(square / float64(len(values)-1))
}
