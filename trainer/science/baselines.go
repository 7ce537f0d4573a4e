package science

import (
	"errors"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// flatten is an adapter's B matrices one after the other.
func flatten(a *lora.Adapter) []float64 {
	var v []float64
	for _, p := range a.Pairs {
		for _, x := range p.B {
			v = append(v, float64(x))
		}
	}
	return v
}

// unflatten is the way back, with the shared A of like.
func unflatten(v []float64, like *lora.Adapter) *lora.Adapter {
	a := &lora.Adapter{Base: like.Base}
	for _, p := range like.Pairs {
		b := make([]float32, len(p.B))
		for i := range b {
			b[i] = float32(v[i])
		}
		v = v[len(b):]
		a.Pairs = append(a.Pairs, lora.Pair{A: p.A, B: b})
	}
	return a
}

// meanOf is the mean of rows of equal length.
func meanOf(rows [][]float64) []float64 {
	mean := make([]float64, len(rows[0]))
	for _, row := range rows {
		for i, v := range row {
			mean[i] += v / float64(len(rows))
		}
	}
	return mean
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

// nearest is the row with the largest cosine to v, all seen from the rows' mean.
func nearest(rows [][]float64, v []float64) int {
	mean := meanOf(rows)
	v = minus(v, mean)
	best, at := math.Inf(-1), 0
	for i, row := range rows {
		row = minus(row, mean)
		if c := dot(row, v) / math.Sqrt(dot(row, row)*dot(v, v)); c > best {
			best, at = c, i
		}
	}
	return at
}

// ridge is linear regression from features to weights around their means, in its dual
// form: one coefficient vector a training task.
type ridge struct {
	x, y   [][]float64
	meanX  []float64
	meanY  []float64
	factor [][]float64 // Cholesky factor of x·xᵀ + strength
}

// newRidge fits. strength is relative to the mean squared norm of the features.
func newRidge(x, y [][]float64, strength float64) (*ridge, error) {
	r := &ridge{meanX: meanOf(x), meanY: meanOf(y)}
	n, norm := len(x), 0.0
	for i := range x {
		r.x, r.y = append(r.x, minus(x[i], r.meanX)), append(r.y, minus(y[i], r.meanY))
		norm += dot(r.x[i], r.x[i]) / float64(n)
	}
	r.factor = make([][]float64, n)
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
				return nil, errors.New("science: ridge regression: the matrix is not positive")
			}
			r.factor[i][i] = math.Sqrt(s)
		}
	}
	return r, nil
}

// predict is the weights for features v.
func (r *ridge) predict(v []float64) []float64 {
	v = minus(v, r.meanX)
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
	y := append([]float64{}, r.meanY...)
	for i := range n {
		for k, w := range r.y[i] {
			y[k] += c[i] * w
		}
	}
	return y
}

// attributesOf is a task as zeros and ones, one for each value.
func attributesOf(t Task) []float64 {
	var v []float64
	for i, list := range attributes {
		one := make([]float64, len(list))
		one[t[i]] = 1
		v = append(v, one...)
	}
	return v
}
