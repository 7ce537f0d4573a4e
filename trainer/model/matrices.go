package model

import (
	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Frame are the weights (h·w) with which a weight token's frame cells are averaged to
// eight times the mean of its chunk and to the two readings of its deviation (package
// lora's codec; reference c.4).
type Frame struct {
	Mean  []float32
	Sigma [2][]float32
}

// NewFrame is the frame of tokens (h,w), even numbers.
func NewFrame(h, w int) Frame {
	f := Frame{Mean: make([]float32, h*w)}
	for q := range 2 {
		f.Sigma[q] = make([]float32, h*w)
		for x := 0; x < w; x += 2 {
			f.Mean[(h-2+q)*w+x] += 1 / float32(w/2) / 4
			f.Sigma[q][(h-2+q)*w+x+1] += 1 / float32(w/2) / 2
		}
		for y := q; y < h; y += 2 {
			f.Mean[y*w+w-2] += 1 / float32(h/2) / 4
			f.Sigma[q][y*w+w-1] += 1 / float32(h/2) / 2
		}
	}
	return f
}

// Matrices is lora.Layout's decoding of weight tokens as nodes: tokens (items,T,h,w) to A
// (items,rank,in) and B (items,out,rank) of every target. The layout must be reversible.
func Matrices(l *lora.Layout, tokens *graph.Node) (a, b []*graph.Node) {
	t, h, w := l.Shape()
	items := tokens.Shape().Dimensions[0]
	g := tokens.Graph()
	f := NewFrame(h, w)
	cells := graph.Reshape(tokens, items*t, h*w)
	read := func(weights []float32) *graph.Node {
		return graph.Dot(cells, graph.Reshape(graph.Const(g, weights), h*w, 1)).MatMul()
	}
	mean := graph.MulScalar(read(f.Mean), 1.0/8)
	var sigma *graph.Node
	for q := range 2 {
		s := graph.MulScalar(graph.AddScalar(graph.Exp(graph.AddScalar(read(f.Sigma[q]), -1.6)), -0.1), 0.5/0.9)
		if sigma == nil {
			sigma = s
		} else {
			sigma = graph.Add(sigma, s)
		}
	}
	values := graph.Reshape(graph.Add(graph.Mul(cells, sigma), mean), items, t, h, w)
	base := l.Base()
	var bounds []int
	for i := range base.Targets {
		firstA, firstB := l.FirstToken(i)
		bounds = append(bounds, firstA, firstB)
	}
	parts := split(values, append(bounds, t))
	// chunks are those of a matrix's tokens, (items,chunks,rank,columns).
	chunks := func(part *graph.Node, size int) *graph.Node {
		columns := size / part.Shape().Dimensions[1]
		return graph.Slice(part, graph.AxisRange(), graph.AxisRange(), graph.AxisRange(0, base.Rank), graph.AxisRange(0, columns))
	}
	for i, target := range base.Targets {
		a = append(a, graph.Reshape(graph.TransposeAllAxes(chunks(parts[2*i], target.In), 0, 2, 1, 3), items, base.Rank, target.In))
		b = append(b, graph.Reshape(graph.TransposeAllAxes(chunks(parts[2*i+1], target.Out), 0, 1, 3, 2), items, target.Out, base.Rank))
	}
	return a, b
}

// split are the parts of x's axis 1 between bounds, which begin with 0 and end with its
// size. The gradient of a slice has the size of what it was cut from, so x is halved again
// and again: cut off one by one, hundreds of matrices would each bring a gradient of x's size.
func split(x *graph.Node, bounds []int) []*graph.Node {
	if len(bounds) == 2 {
		return []*graph.Node{x}
	}
	middle := len(bounds) / 2
	half := func(bounds []int, first int) []*graph.Node {
		part := graph.Slice(x, graph.AxisRange(), graph.AxisRange(bounds[0]-first, bounds[len(bounds)-1]-first))
		return split(part, bounds)
	}
	return append(half(bounds[:middle+1], bounds[0]), half(bounds[middle:], bounds[0])...)
}
