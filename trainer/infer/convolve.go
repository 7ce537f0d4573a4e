package infer

import (
	"strings"
	"time"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// plan cuts a convolution into chunks of output channels, each of which reads its
// weights once, and those into tiles of rows of one item of the batch.
type plan struct {
	axis         model.Axis
	in           [4]int // shape of x
	out, k       int    // output channels, kernel size
	channels     int    // output channels of a chunk
	rows, height int    // rows of a tile, and of the plane
	whole        bool   // one tile is everything
}

// newPlan makes all chunks of one size and all tiles of one size, so that one compiled
// graph serves them: the last of each begins earlier where they do not divide evenly.
func newPlan(l limits, native bool, axis model.Axis, x [4]int, out, k int) plan {
	height, width := axis.Plane(x)
	taps := int64(x[axis]) * int64(k) * int64(k)
	chunks := ceil(int64(out), max(1, l.weights/(4*taps)))
	channels := ceil(int64(out), chunks)
	rows := max(1, l.flop/(2*int64(width)*taps*channels))
	if !native {
		// The k neighbours of each position along a row, and k-1 rows more than the tile's.
		rows = min(rows, max(1, l.gather/(4*int64(width)*int64(x[axis])*int64(k))-int64(k)+1))
	}
	tiles := ceil(int64(height), rows)
	p := plan{axis: axis, in: x, out: out, k: k, channels: int(channels), rows: int(ceil(int64(height), tiles)), height: height}
	p.whole = p.channels == out && 2*p.macs() <= l.flop &&
		(native || 4*int64(product(x[:]...))*int64(k)*int64(height+k-1)/int64(height) <= l.gather)
	return p
}

func ceil(n, size int64) int64 { return (n + size - 1) / size }

// starts are where pieces of one size begin that cover n; the last may overlap.
func starts(n, size int) []int {
	var list []int
	for at := 0; at < n; at += size {
		list = append(list, min(at, n-size))
	}
	return list
}

// macs is the cost of the whole convolution.
func (p plan) macs() int64 {
	rows, columns := p.axis.Plane(p.in)
	return int64(p.in[0]) * int64(rows) * int64(columns) * int64(p.in[p.axis]) * int64(p.out) * int64(p.k) * int64(p.k)
}

// way is how a convolution is done: one of the three, and its multiply-accumulates.
type way struct {
	name     string
	macs     int64
	fourier  fourier
	products products
	direct   plan
}

const (
	byFourier  = "frequency domain"
	byProducts = "products"
	byDirect   = "direct"
)

// choose finds the fastest way for x's shape.
func (r *Runner) choose(axis model.Axis, shape [4]int, out, k int) way {
	if f, ok := newFourier(r.limits, axis, shape, out, k); ok {
		return way{name: byFourier, macs: f.macs(), fourier: f}
	}
	p := newPlan(r.limits, r.backend.NativeConvolution(), axis, shape, out, k)
	if axis == model.AxisN && !p.whole && out >= r.limits.manyChannels {
		if q, ok := newProducts(r.limits, p); ok {
			return way{name: byProducts, macs: p.macs(), products: q}
		}
	}
	return way{name: byDirect, macs: p.macs(), direct: p}
}

// convolve is x (B,N,H,W) convolved with the tensor key (out, in, k, k), along axis. x
// stays the caller's.
func (j *job) convolve(x *tensors.Tensor, key string, axis model.Axis, out, k int) (y *tensors.Tensor, err error) {
	w := j.choose(axis, [4]int(x.Shape().Dimensions), out, k)
	begin := time.Now()
	switch w.name {
	case byFourier:
		y, err = j.fourier(x, key, w.fourier)
	case byProducts:
		y, err = j.products(x, key, w.products)
	default:
		y, err = j.direct(x, key, w.direct)
	}
	if err == nil {
		label := strings.TrimSuffix(strings.TrimPrefix(key, decoder.Prefix), ".weight")
		err = j.traced(y, begin, w.part(label, axis, [4]int(x.Shape().Dimensions), out, k))
	}
	return y, err
}

// direct is convolve by the backend's convolution, in p's pieces.
func (j *job) direct(x *tensors.Tensor, key string, p plan) (*tensors.Tensor, error) {
	native, shape, axis, out, k := j.backend.NativeConvolution(), p.in, p.axis, p.out, p.k
	in := shape[axis]
	chunks, items, first := starts(out, p.channels), shape[0], starts(p.height, p.rows)
	if p.whole {
		items, first = 1, []int{0}
	}
	var pieces []*tensors.Tensor
	defer func() { free(pieces...) }()
	load := func(i int) (*tensors.Tensor, error) {
		return j.load(key, int64(chunks[i])*int64(in*k*k), p.channels, in, k, k)
	}
	err := j.readAhead(len(chunks), load, func(_ int, weights *tensors.Tensor) error {
		for item := range items {
			for _, row := range first {
				y, err := j.tile(x, weights, p, item, row, native)
				if err != nil {
					return err
				}
				pieces = append(pieces, y)
				if err := j.advance(p.macs() / int64(len(chunks)*items*len(first))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(pieces) == 1 {
		y := pieces[0]
		pieces = nil
		return y, nil
	}
	return j.assemble(pieces, p, len(chunks), len(first))
}

// readAhead uses n pieces of weights in order, and reads the next while one is used.
func (j *job) readAhead(n int, load func(i int) (*tensors.Tensor, error), use func(i int, weights *tensors.Tensor) error) error {
	type piece struct {
		weights *tensors.Tensor
		err     error
	}
	read := func(i int) <-chan piece {
		c := make(chan piece, 1)
		go func() {
			w, err := load(i)
			c <- piece{w, err}
		}()
		return c
	}
	next := read(0)
	for i := range n {
		p := <-next
		if p.err != nil {
			return p.err
		}
		if i+1 < n {
			next = read(i + 1)
		}
		err := use(i, p.weights)
		free(p.weights)
		if err != nil {
			if i+1 < n {
				free((<-next).weights)
			}
			return err
		}
	}
	return nil
}

func (j *job) tile(x, weights *tensors.Tensor, p plan, item, row int, native bool) (*tensors.Tensor, error) {
	if p.whole {
		return j.run(operation{"convolution", p.axis}, func(in []*gomlx.Node) *gomlx.Node {
			return model.Convolve(in[0], in[1], p.axis, native)
		}, x, weights)
	}
	if !native {
		// Nothing is compiled there, so a graph a tile costs little.
		return j.once("convolution tile", func(in []*gomlx.Node) *gomlx.Node {
			return model.ConvolveTile(in[0], in[1], p.axis, item, row, p.rows, native)
		}, x, weights)
	}
	return j.run(operation{"convolution tile", [2]int{int(p.axis), p.rows}}, func(in []*gomlx.Node) *gomlx.Node {
		return model.ConvolveAnyTile(in[0], in[1], in[2], in[3], p.axis, p.rows, native)
	}, x, int32(item), int32(row), weights)
}

// assemble joins the tiles of a convolution, in the order that they were computed in.
func (j *job) assemble(pieces []*tensors.Tensor, p plan, chunks, tiles int) (*tensors.Tensor, error) {
	batch, axis, along := p.in[0], int(p.axis), p.axis.Rows()
	args := make([]any, len(pieces))
	for i, t := range pieces {
		args[i] = t
	}
	op := operation{"joining tiles", [6]int{axis, batch, chunks, tiles, p.out, p.height}}
	return j.run(op, func(in []*gomlx.Node) *gomlx.Node {
		var channels []*gomlx.Node
		for range chunks {
			var items []*gomlx.Node
			for range batch {
				items = append(items, join(in[:tiles], along, p.height))
				in = in[tiles:]
			}
			channels = append(channels, concatenate(items, 0))
		}
		return join(channels, axis, p.out)
	}, args...)
}

// join puts parts of one size together along an axis to a length of total; what the last
// has twice is left out.
func join(parts []*gomlx.Node, axis, total int) *gomlx.Node {
	parts = append([]*gomlx.Node(nil), parts...)
	last := parts[len(parts)-1]
	size := last.Shape().Dimensions[axis]
	if extra := size*len(parts) - total; extra > 0 {
		parts[len(parts)-1] = gomlx.SliceAxis(last, axis, gomlx.AxisRange(extra, size))
	}
	return concatenate(parts, axis)
}

func concatenate(parts []*gomlx.Node, axis int) *gomlx.Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return gomlx.Concatenate(parts, axis)
}
