package graph

import (
	"fmt"
	"slices"
)

// Tuning says how convolutions are computed on a device: measured there, or asked for. It
// changes the time that a Program takes and its rounding, not what it computes. What a
// Tuning does not tell is left to the planner's cost model.
type Tuning struct {
	// All is for every convolution that Convs does not list.
	All ConvWay `json:"all,omitzero"`
	// Convs are choices by shape.
	Convs []ConvChoice `json:"convs,omitempty"`
	// Memory is how many bytes of buffers a run may take, 0 for no bound. It keeps scratch
	// buffers of the frequency domain to half of that; Programs that need more than all
	// of it are made all the same.
	Memory int64 `json:"memory,omitempty"`
}

// ConvChoice is the way for a shape.
type ConvChoice struct {
	Shape ConvShape `json:"shape"`
	Way   ConvWay   `json:"way"`
}

// ConvShape is a convolution as its ways see it: In channels of Rows by Columns to Out,
// with kernels of Kernel by Kernel, for each of Batch items.
type ConvShape struct {
	Batch   int `json:"batch"`
	In      int `json:"in"`
	Out     int `json:"out"`
	Rows    int `json:"rows"`
	Columns int `json:"columns"`
	Kernel  int `json:"kernel"`
}

// Method is how a convolution is computed.
type Method string

// The methods.
const (
	Direct  Method = "direct"  // a sum over all taps
	Fourier Method = "fourier" // in the frequency domain
)

// ConvWay is a way of computing a convolution; the zero value leaves it to the planner.
type ConvWay struct {
	Method Method `json:"method,omitempty"`
	// Rows and Columns are the points of Fourier's transforms, 0 for those that the planner
	// takes. Where they fit no plan, the planner chooses as if nothing had been said.
	Rows    int `json:"rows,omitempty"`
	Columns int `json:"columns,omitempty"`
	// Tile is one of Tiles, for a direct sum; zero is the planner's. Where a device's limits
	// or Pads leave no room for it, the planner takes its own.
	Tile Tile `json:"tile,omitzero"`
}

// String names the method with what it was told of sizes.
func (w ConvWay) String() string {
	switch {
	case w.Method == Direct && w.Tile != Tile{}:
		return fmt.Sprintf("%s %dx%d", w.Method, w.Tile.Outputs, w.Tile.Positions)
	case w.Method == Fourier && w.Rows+w.Columns > 0:
		return fmt.Sprintf("%s %dx%d", w.Method, w.Rows, w.Columns)
	}
	return string(w.Method)
}

// Tile is the outputs and the positions that an invocation of a direct sum holds.
type Tile struct {
	Outputs   int `json:"outputs"`
	Positions int `json:"positions"`
}

// plannedTile is the one that is taken where none is asked for: the shape of the packed
// weights and the grid that tensors are cut along.
var plannedTile = Tile{tileOut, tilePos}

// Tiles lists those beside the planner's 8 by 8: what a device's registers hold best is
// known by measuring only.
func Tiles() []Tile { return []Tile{{4, 8}, {4, 16}, {8, 16}} }

// MaxChoices bounds how many shapes a Tuning may list.
const MaxChoices = 4096

// Validate checks a Tuning from elsewhere. nil is valid.
func (t *Tuning) Validate() error {
	if t == nil {
		return nil
	}
	if t.Memory < 0 {
		return fmt.Errorf("graph: a tuning for %d bytes of memory", t.Memory)
	}
	if len(t.Convs) > MaxChoices {
		return fmt.Errorf("graph: a tuning of %d convolutions, at most %d", len(t.Convs), MaxChoices)
	}
	for _, c := range append([]ConvChoice{{Way: t.All}}, t.Convs...) {
		if m := c.Way.Method; m != "" && m != Direct && m != Fourier {
			return fmt.Errorf("graph: convolution method %q, expected %s or %s", m, Direct, Fourier)
		}
		if t := c.Way.Tile; t != (Tile{}) && !slices.Contains(Tiles(), t) {
			return fmt.Errorf("graph: a tile of %d outputs by %d positions, expected one of %v", t.Outputs, t.Positions, Tiles())
		}
	}
	return nil
}

// mostScratch bounds the same where nothing else does.
const mostScratch = 768 << 20

// scratch is how many bytes the scratch buffers of a convolution may take together.
func (t *Tuning) scratch() int64 {
	if t == nil || t.Memory == 0 {
		return mostScratch
	}
	return min(t.Memory/2, mostScratch)
}

// way is what was chosen for a shape.
func (t *Tuning) way(s ConvShape) ConvWay {
	if t == nil {
		return ConvWay{}
	}
	for _, c := range t.Convs {
		if c.Shape == s {
			return c.Way
		}
	}
	return t.All
}

func (g *geometry) shape() ConvShape {
	return ConvShape{Batch: g.x.Shape[0], In: g.c, Out: g.Out, Rows: g.p, Columns: g.q, Kernel: g.K}
}
