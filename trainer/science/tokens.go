package science

import (
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
	"github.com/drag-and-drop-lora/dnd/trainer/standard"
)

// scaling is how the training checkpoints' weight tokens are standardised, and how much the loss on
// weights cares for each.
type scaling struct {
	standard.Standard
	weight []float32 // (T): spread of the LoRA's own values in the token, mean 1
	basis  []float32 // (T·h·w,r): what GeneratorConfig.Basis coordinates stand for, nil without
}

func standardise(l *lora.Layout, tokens [][]float32) *scaling {
	t, h, w := l.Shape()
	n := h * w
	sums := standard.NewSums(t, h, w)
	for _, x := range tokens {
		sums.Add(x, len(tokens))
	}
	s := &scaling{Standard: sums.Standard(), weight: make([]float32, t)}
	mean, total, varying := sums.Mean(), 0.0, 0
	for i, spread := range sums.Spread() {
		if spread > 0 {
			s.weight[i] = float32(deviation(l, mean[i*n:(i+1)*n]) * spread)
			total += float64(s.weight[i])
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
	return standard.Basis(means, rank, nil)
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
