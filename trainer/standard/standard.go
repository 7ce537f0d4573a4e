// Package standard is how weight tokens are standardised for a decoder to learn: the mean over the
// training checkpoints, and how far each token spreads around it. Checkpoints come from package
// collect, cut into weight tokens by package graph/lora; packages fit and science fit decoders to what
// Apply makes of them, and their output.offset and output.scale undo it (decoder.Config.Affine).
package standard

import (
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// MinSpread is the spread up to which a token counts as constant, a frozen lora_A's.
const MinSpread = 1e-5

// Standard is what weight tokens (T,h,w) are standardised by, (token - Mean)/Spread.
type Standard struct {
	Mean   []float32 // (T,h,w); 0 in cells that hold nothing
	Spread []float32 // (T): root mean square of what remains; 0 where nothing varies
}

// Apply standardises weight tokens (T,h,w) in place. Tokens that do not vary become 0, cells that
// hold nothing stay NaN in the others.
func (s *Standard) Apply(tokens []float32) {
	n := len(tokens) / len(s.Spread)
	for i := range tokens {
		if spread := s.Spread[i/n]; spread == 0 {
			tokens[i] = 0
		} else {
			tokens[i] = (tokens[i] - s.Mean[i]) / spread
		}
	}
}

// Sums are what a Standard is computed from, by Add.
type Sums struct {
	tokens       int
	mean, square []float64
}

// NewSums are of no weight tokens (T,h,w) yet.
func NewSums(t, h, w int) *Sums {
	return &Sums{t, make([]float64, t*h*w), make([]float64, t*h*w)}
}

// Add adds the weight tokens (T,h,w) of a checkpoint that counts as one of count. Cells that hold
// nothing are NaN.
func (s *Sums) Add(tokens []float32, count int) {
	for k, v := range tokens {
		s.mean[k] += float64(v) / float64(count)
		s.square[k] += float64(v) * float64(v) / float64(count)
	}
}

// Mean is that of what was added (T,h,w), NaN in cells that hold nothing.
func (s *Sums) Mean() []float64 { return s.mean }

// Spread is that of each token (T).
func (s *Sums) Spread() []float64 {
	out := make([]float64, s.tokens)
	n := len(s.mean) / s.tokens
	for i := range out {
		sum, count := 0.0, 0
		for k := i * n; k < (i+1)*n; k++ {
			if mean := s.mean[k]; !math.IsNaN(mean) {
				sum += max(0, s.square[k]-mean*mean)
				count++
			}
		}
		if spread := math.Sqrt(sum / float64(max(count, 1))); spread > MinSpread {
			out[i] = spread
		}
	}
	return out
}

// Standard is that of what was added.
func (s *Sums) Standard() Standard {
	var out Standard
	for _, v := range s.mean {
		if math.IsNaN(v) {
			v = 0
		}
		out.Mean = append(out.Mean, float32(v))
	}
	for _, v := range s.Spread() {
		out.Spread = append(out.Spread, float32(v))
	}
	return out
}

// Basis is the basis (T·h·w,r) in which data sets stand by coordinates (r each) most nearly: the
// directions in which their means, standardised weight tokens, differ most, where coordinates is nil.
func Basis(means [][]float32, rank int, coordinates [][]float64) ([]float32, error) {
	if coordinates == nil {
		var err error
		if coordinates, _, err = linear.Principal(means, rank); err != nil {
			return nil, fmt.Errorf("standard: %w", err)
		}
	}
	return linear.Span(means, coordinates), nil
}
