package science

import (
	"math"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// standard is how weight tokens are standardised over the training checkpoints, and how
// much the loss on weights cares for each.
type standard struct {
	offset []float32 // (T,h,w): mean
	scale  []float32 // (T): root mean square of what remains, 0 where nothing varies
	weight []float32 // (T): spread of the LoRA's own values in the token, mean 1
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

// deviation is the deviation that a token's frame says its chunk has.
func deviation(l *lora.Layout, token []float64) float64 {
	_, h, w := l.Shape()
	f := newFrame(h, w)
	sum := 0.0
	for q := range 2 {
		s := 0.0
		for i, v := range token {
			if k := float64(f.sigma[q][i]); k != 0 {
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

// frame are the weights (h·w) with which a token's frame cells are averaged to the mean of
// its chunk and to the two readings of its deviation (lora's codec; reference c.4).
type frame struct {
	mean  []float32
	sigma [2][]float32
}

func newFrame(h, w int) frame {
	f := frame{mean: make([]float32, h*w)}
	for q := range 2 {
		f.sigma[q] = make([]float32, h*w)
		for x := 0; x < w; x += 2 {
			f.mean[(h-2+q)*w+x] += 1 / float32(w/2) / 4
			f.sigma[q][(h-2+q)*w+x+1] += 1 / float32(w/2) / 2
		}
		for y := q; y < h; y += 2 {
			f.mean[y*w+w-2] += 1 / float32(h/2) / 4
			f.sigma[q][y*w+w-1] += 1 / float32(h/2) / 2
		}
	}
	return f
}

// matrices is lora's decoding of weight tokens as nodes: tokens (items,T,h,w) to B of
// every target (items,out,rank).
func matrices(l *lora.Layout, chunk int, tokens *graph.Node) []*graph.Node {
	t, h, w := l.Shape()
	items := tokens.Shape().Dimensions[0]
	g := tokens.Graph()
	f := newFrame(h, w)
	cells := graph.Reshape(tokens, items*t, h*w)
	read := func(weights []float32) *graph.Node {
		return graph.Dot(cells, graph.Reshape(graph.Const(g, weights), h*w, 1)).MatMul()
	}
	mean := graph.MulScalar(read(f.mean), 1.0/8)
	var sigma *graph.Node
	for q := range 2 {
		s := graph.MulScalar(graph.AddScalar(graph.Exp(graph.AddScalar(read(f.sigma[q]), -1.6)), -0.1), 0.5/0.9)
		if sigma == nil {
			sigma = s
		} else {
			sigma = graph.Add(sigma, s)
		}
	}
	values := graph.Add(graph.Mul(cells, sigma), mean)
	values = graph.Reshape(values, items, t, h, w)
	base := l.Base()
	all := graph.AxisRange()
	list := make([]*graph.Node, len(base.Targets))
	for i, target := range base.Targets {
		_, first := l.FirstToken(i)
		n := target.Out / chunk
		part := graph.Slice(values, all, graph.AxisRange(first, first+n), graph.AxisRange(0, base.Rank), graph.AxisRange(0, chunk))
		list[i] = graph.Reshape(graph.TransposeAllAxes(part, 0, 1, 3, 2), items, target.Out, base.Rank)
	}
	return list
}
