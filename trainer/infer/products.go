package infer

import (
	"fmt"
	"runtime"
	"sync"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// products cuts a convolution along N into blocks of input channels, whose neighbours are
// gathered once, and those into products with chunks of output channels.
type products struct {
	plan
	block    int // input channels of a block; the last may be smaller
	channels int // output channels of a chunk; the last may overlap
}

// newProducts plans p as products; ok is false if too few input channels fit.
func newProducts(l limits, p plan) (q products, ok bool) {
	in, positions := int64(p.in[1]), int64(p.in[0]*p.in[2]*p.in[3])
	taps := int64(p.k) * int64(p.k)
	blocks := ceil(in, max(1, l.gather/(4*taps*positions)))
	block := ceil(in, blocks)
	channels := max(1, min(l.weights/(4*taps*block), l.flop/(2*taps*block*positions)))
	if block < min(in, 8) {
		return products{}, false
	}
	chunks := ceil(int64(p.out), channels)
	return products{plan: p, block: int(block), channels: int(ceil(int64(p.out), chunks))}, true
}

// products is convolve by q.
func (j *job) products(x *tensors.Tensor, key string, q products) (*tensors.Tensor, error) {
	in, taps := q.in[1], q.k*q.k
	chunks := starts(q.out, q.channels)
	sums := make([]*tensors.Tensor, len(chunks))
	defer func() { free(sums...) }()
	values := make([]float32, product(q.in[:]...))
	if err := tensors.ConstFlatData(x, func(v []float32) { copy(values, v) }); err != nil {
		return nil, fmt.Errorf("infer: reading an activation: %w", err)
	}
	for from := 0; from < in; from += q.block {
		block := min(q.block, in-from)
		patches, err := j.empty(block*taps, q.positions())
		if err != nil {
			return nil, err
		}
		if err := tensors.MutableFlatData(patches, func(to []float32) { q.gather(to, values, from, block) }); err != nil {
			free(patches)
			return nil, fmt.Errorf("infer: gathering neighbours: %w", err)
		}
		load := func(i int) (*tensors.Tensor, error) {
			off := (int64(chunks[i])*int64(in) + int64(from)) * int64(taps)
			return j.loadRows(key, off, int64(in*taps), q.channels, q.channels, block*taps)
		}
		err = j.readAhead(len(chunks), load, func(i int, weights *tensors.Tensor) error {
			y, err := j.addProduct(sums[i], weights, patches)
			if err != nil {
				return err
			}
			free(sums[i])
			sums[i] = y
			return j.advance(q.macs() * int64(block) / int64(in) / int64(len(chunks)))
		})
		free(patches)
		if err != nil {
			return nil, err
		}
	}
	args := make([]any, len(sums))
	for i, t := range sums {
		args[i] = t
	}
	op := operation{"joining products", [5]int{q.out, q.in[0], q.in[2], q.in[3], len(sums)}}
	return j.run(op, func(in []*gomlx.Node) *gomlx.Node {
		y := gomlx.Reshape(join(in, 0, q.out), q.out, q.in[0], q.in[2], q.in[3])
		return gomlx.TransposeAllAxes(y, 1, 0, 2, 3)
	}, args...)
}

// positions is the number of places in the batch's planes.
func (q products) positions() int { return q.in[0] * q.in[2] * q.in[3] }

// gather fills to, (n·k·k, positions), with what the convolution reads of x (B,N,H,W)
// around every position, for n channels from the given one on. Its rows are in the order
// of a weight's memory (out, in, k, k), so that the convolution is weight · to, summed
// over the blocks of channels. XLA takes seconds to compile the same.
func (q products) gather(to, x []float32, from, n int) {
	clear(to)
	var wg sync.WaitGroup
	workers := min(n, runtime.GOMAXPROCS(0))
	for worker := range workers {
		wg.Go(func() {
			for c := worker; c < n; c += workers {
				q.gatherChannel(to[c*q.k*q.k*q.positions():], x, from+c)
			}
		})
	}
	wg.Wait()
}

func (q products) gatherChannel(to, x []float32, channel int) {
	height, width := q.in[2], q.in[3]
	before := (q.k - 1) / 2
	for i := range q.k {
		for j := range q.k {
			first, last := max(0, before-j), min(width, width+before-j)
			for item := range q.in[0] {
				plane := x[(item*q.in[1]+channel)*height*width:]
				for y := max(0, before-i); y < min(height, height+before-i); y++ {
					if first < last {
						copy(to[y*width+first:y*width+last], plane[(y+i-before)*width+first+j-before:])
					}
				}
				to = to[height*width:]
			}
		}
	}
}

// addProduct is weights · patches + sum; sum is nil at first.
func (j *job) addProduct(sum, weights, patches *tensors.Tensor) (*tensors.Tensor, error) {
	if sum == nil {
		return j.run(operation{name: "product"}, func(in []*gomlx.Node) *gomlx.Node {
			return gomlx.Dot(in[0], in[1]).MatMul()
		}, weights, patches)
	}
	return j.run(operation{name: "product and sum"}, func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Add(gomlx.Dot(in[0], in[1]).MatMul(), in[2])
	}, weights, patches, sum)
}
