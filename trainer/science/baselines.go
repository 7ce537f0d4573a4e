package science

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
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

// ridge is linear regression from features to weights.
type ridge struct {
	*linear.Ridge
	weights [][]float64 // of the training tasks
}

// newRidge fits. strength is relative to the mean squared norm of the features.
func newRidge(features, weights [][]float64, strength float64) (*ridge, error) {
	r, err := linear.NewRidge(features, strength)
	if err != nil {
		return nil, fmt.Errorf("science: ridge regression: %w", err)
	}
	return &ridge{r, weights}, nil
}

// predict is the weights for these features.
func (r *ridge) predict(features []float64) []float64 {
	y := make([]float64, len(r.weights[0]))
	for i, share := range r.Shares(features) {
		for k, w := range r.weights[i] {
			y[k] += share * w
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
