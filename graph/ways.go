package graph

import (
	"fmt"
	"slices"
)

// Candidate is a way that a convolution can be computed in, and what the planner's model
// holds it to cost, in multiply-accumulates and what weighs as much.
type Candidate struct {
	Way  ConvWay
	Cost float64
}

// Candidates lists the ways for a shape under limits, the cheapest first.
func Candidates(limits Limits, s ConvShape) ([]Candidate, error) {
	b := NewBuilder(limits)
	if b.err != nil {
		return nil, b.err
	}
	x := &Tensor{Shape: [4]int{s.Batch, s.In, s.Rows, s.Columns}}
	y := &Tensor{Shape: [4]int{s.Batch, s.Out, s.Rows, s.Columns}}
	if s.Kernel < 2 || x.Elements() == 0 || y.Elements() == 0 {
		return nil, fmt.Errorf("graph: convolution %+v: expected positive sizes and a kernel of at least 2", s)
	}
	g := newGeometry(Conv{Axis: AxisN, Out: s.Out, K: s.Kernel, DType: "F32"}, x, y)
	list := []Candidate{{ConvWay{Method: Direct}, g.directCost()}}
	for _, tile := range Tiles() {
		g.tile = tile
		list = append(list, Candidate{ConvWay{Method: Direct, Tile: tile}, g.directCost()})
	}
	g.tile = plannedTile
	for _, p := range fourierAxes(g.p, g.K) {
		for _, q := range fourierAxes(g.q, g.K) {
			way := ConvWay{Method: Fourier, Rows: p.points, Columns: q.points}
			if f := b.cheapest(&g, way); f != nil {
				list = append(list, Candidate{way, f.cost})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Candidate) int {
		switch {
		case a.Cost < b.Cost:
			return -1
		case a.Cost > b.Cost:
			return 1
		}
		return 0
	})
	return list, nil
}

// Planned is the way that the planner takes for a shape by its model.
func Planned(limits Limits, s ConvShape) ConvWay {
	list, err := Candidates(limits, s)
	if err != nil {
		return ConvWay{}
	}
	list = slices.DeleteFunc(list, func(c Candidate) bool { return c.Way.Tile != Tile{} }) // those are for who measures
	best, direct := list[0], list[slices.IndexFunc(list, func(c Candidate) bool { return c.Way.Method == Direct })]
	if best.Cost*fourierGain > direct.Cost {
		return direct.Way
	}
	return best.Way
}

// Convolutions lists the shapes, each once, of the convolutions so far whose way is not
// settled: those with kernels of more than one value.
func (b *Builder) Convolutions() []ConvShape { return slices.Clone(b.shapes) }
