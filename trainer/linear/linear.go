// Package linear is what the training-free rivals of a generator compute from the features
// of tasks: shares of the training tasks, whose adapters their weights are then added up by;
// and the directions in which tasks differ, which a generator's weight tokens may be made of.
// It knows neither prompts nor adapters.
package linear

import (
	"errors"
	"math"
)

// Ridge is linear regression from features to whatever the training tasks have, around the
// means, in its dual form: a prediction is a sum of the training tasks' values.
type Ridge struct {
	x      [][]float64 // features, their mean taken away
	mean   []float64
	factor [][]float64 // Cholesky factor of x·xᵀ + strength
}

// NewRidge fits to the features of the training tasks. strength is relative to the mean
// squared norm of the features around their mean.
func NewRidge(features [][]float64, strength float64) (*Ridge, error) {
	if len(features) == 0 {
		return nil, errors.New("linear: no training task")
	}
	n := len(features)
	r := &Ridge{mean: Mean(features), factor: make([][]float64, n)}
	norm := 0.0
	for _, v := range features {
		d := minus(v, r.mean)
		r.x = append(r.x, d)
		norm += dot(d, d) / float64(n)
	}
	if norm == 0 {
		norm = 1 // all features are equal: every prediction is the mean
	}
	for i := range n {
		r.factor[i] = make([]float64, i+1)
		for j := range i + 1 {
			s := dot(r.x[i], r.x[j])
			if i == j {
				s += strength * norm
			}
			for k := range j {
				s -= r.factor[i][k] * r.factor[j][k]
			}
			if i > j {
				r.factor[i][j] = s / r.factor[j][j]
				continue
			}
			if s <= 0 {
				return nil, errors.New("linear: the matrix of the ridge regression is not positive: raise its strength")
			}
			r.factor[i][i] = math.Sqrt(s)
		}
	}
	return r, nil
}

// Shares are what the prediction for a task with these features takes of each training
// task; they add up to one.
func (r *Ridge) Shares(features []float64) []float64 {
	v := minus(features, r.mean)
	n := len(r.x)
	c := make([]float64, n)
	for i := range n {
		c[i] = dot(r.x[i], v)
		for k := range i {
			c[i] -= r.factor[i][k] * c[k]
		}
		c[i] /= r.factor[i][i]
	}
	for i := n - 1; i >= 0; i-- {
		for k := i + 1; k < n; k++ {
			c[i] -= r.factor[k][i] * c[k]
		}
		c[i] /= r.factor[i][i]
	}
	sum := 0.0
	for _, x := range c {
		sum += x
	}
	for i := range c {
		c[i] += (1 - sum) / float64(n)
	}
	return c
}

// Nearest is the row with the largest cosine to v, all seen from the rows' mean.
func Nearest(rows [][]float64, v []float64) int {
	m := Mean(rows)
	v = minus(v, m)
	best, at := math.Inf(-1), 0
	for i, row := range rows {
		row = minus(row, m)
		if c := dot(row, v) / math.Sqrt(dot(row, row)*dot(v, v)); c > best {
			best, at = c, i
		}
	}
	return at
}

// Mean is the mean of rows of equal length.
func Mean(rows [][]float64) []float64 {
	m := make([]float64, len(rows[0]))
	for _, row := range rows {
		for i, v := range row {
			m[i] += v / float64(len(rows))
		}
	}
	return m
}

func minus(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}
