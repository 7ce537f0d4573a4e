package science

import (
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// standard is how weight tokens are standardised over the training checkpoints, and how
// much the loss on weights cares for each.
type standard struct {
	offset []float32 // (T,h,w): mean
	scale  []float32 // (T): root mean square of what remains, 0 where nothing varies
	weight []float32 // (T): spread of the LoRA's own values in the token, mean 1
	basis  []float32 // (T·h·w,r): what GeneratorConfig.Basis coordinates stand for, nil without
}

// minScale is the spread below which a token counts as constant: those of the shared A.
const minScale = 1e-5

func standardise(l *lora.Layout, tokens [][]float32) *standard {
	t, h, w := l.Shape()
	n := h * w
	s := &standard{offset: make([]float32, t*n), scale: make([]float32, t), weight: make([]float32, t)}
	// With NaN for what a token does not hold, the sums of these cells stay out.
	mean, square := make([]float64, t*n), make([]float64, t*n)
	for _, x := range tokens {
		for i, v := range x {
			mean[i] += float64(v) / float64(len(tokens))
			square[i] += float64(v) * float64(v) / float64(len(tokens))
		}
	}
	total := 0.0
	for i := range t {
		sum, count := 0.0, 0
		for k := i * n; k < (i+1)*n; k++ {
			if !math.IsNaN(mean[k]) {
				s.offset[k] = float32(mean[k])
				sum += max(0, square[k]-mean[k]*mean[k])
				count++
			}
		}
		if scale := math.Sqrt(sum / float64(max(count, 1))); scale > minScale {
			s.scale[i] = float32(scale)
			s.weight[i] = float32(deviation(l, mean[i*n:(i+1)*n]) * scale)
			total += float64(s.weight[i])
		}
	}
	varying := 0
	for _, v := range s.scale {
		if v > 0 {
			varying++
		}
	}
	for i := range s.weight {
		s.weight[i] *= float32(float64(varying) / total)
	}
	return s
}

// principal is a basis of rank directions in which the tasks' means differ most. Tokens are
// standardised, by task and checkpoint.
func principal(tasks [][][]float32, rank int) ([]float32, error) {
	means := make([][]float32, len(tasks))
	for i, list := range tasks {
		means[i] = make([]float32, len(list[0]))
		for _, tokens := range list {
			for k, v := range tokens {
				means[i][k] += v / float32(len(list))
			}
		}
	}
	coordinates, _, err := linear.Principal(means, rank)
	if err != nil {
		return nil, err
	}
	return linear.Span(means, coordinates), nil
}

// deviation is the deviation that a token's frame says its chunk has.
func deviation(l *lora.Layout, token []float64) float64 {
	_, h, w := l.Shape()
	f := model.NewFrame(h, w)
	sum := 0.0
	for q := range 2 {
		s := 0.0
		for i, v := range token {
			if k := float64(f.Sigma[q][i]); k != 0 {
				s += k * v
			}
		}
		sum += (math.Exp(s-1.6) - 0.1) / 0.9 / 2
	}
	return max(sum, 0)
}

// apply standardises tokens (T,h,w) in place; cells that hold nothing stay NaN.
func (s *standard) apply(tokens []float32) {
	n := len(tokens) / len(s.scale)
	for i := range tokens {
		if k := s.scale[i/n]; k == 0 {
			tokens[i] = 0
		} else {
			tokens[i] = (tokens[i] - s.offset[i]) / k
		}
	}
}
