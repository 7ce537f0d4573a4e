package fftconv

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Strides are how far apart values lie in memory, in values.
type Strides struct{ Item, Channel, Row, Column int }

// Weights reads the kernels of outputs first to first+n-1, (n, In, Kernel, Kernel), into p.
// It is called from several goroutines at a time.
type Weights func(first, n int, p []float32) error

// run is one convolution.
type run struct {
	Plan
	transforms
	x, y      []float32
	xs, ys    Strides
	spectra   []float32 // of x: [frequency][block of rows][channel][row of the block], rows are tiles' real and imaginary parts
	rowBlocks int       // of spectra
	// A worker takes group blocks of lanes outputs at a time, and chunk input channels.
	group, chunk int
}

// Run convolves x to y. done is called in Run's goroutine after every few outputs, with
// their number; it may be nil. The error is the first of weights, or ctx's soon after ctx
// is done.
func (p Plan) Run(ctx context.Context, x []float32, xs Strides, y []float32, ys Strides, weights Weights, done func(outputs int)) error {
	r := &run{Plan: p, transforms: newTransforms(p), x: x, y: y, xs: xs, ys: ys, rowBlocks: blocks(2 * p.tiles())}
	r.group, r.chunk = p.schedule()
	r.spectra = make([]float32, p.frequencies()*r.rowBlocks*p.In*block)
	tiles := p.tiles()
	channelBlocks := (p.In + lanes - 1) / lanes
	err := parallel(ctx, channelBlocks*tiles, func() func(int) error {
		w := r.newForward()
		return func(i int) error {
			w.tile(i/channelBlocks, i%channelBlocks*lanes)
			return nil
		}
	}, nil)
	if err != nil {
		return err
	}
	size := r.group * lanes
	return parallel(ctx, (p.Out+size-1)/size, func() func(int) error {
		w := r.newMultiply()
		return func(i int) error {
			return w.outputs(ctx, i*size, min(size, p.Out-i*size), weights)
		}
	}, func(i int) {
		if done != nil {
			done(min(size, p.Out-i*size))
		}
	})
}

// panel is where a block of rows of x's spectra at a frequency begins, for the chunk that a
// channel belongs to, and how many channels it has.
func (r *run) panel(frequency, rowBlock, channel int) (at, channels int) {
	first := channel / r.chunk * r.chunk
	channels = min(r.chunk, r.In-first)
	return (first*r.frequencies()*r.rowBlocks + (frequency*r.rowBlocks+rowBlock)*channels) * block, channels
}

// schedule says how many blocks of outputs a worker takes at a time, and how many input
// channels' kernels it transforms before it multiplies and adds to the sums.
func (p Plan) schedule() (group, chunk int) {
	group = 2
	if (p.Out+lanes-1)/lanes < 2*runtime.GOMAXPROCS(0) {
		group = 1
	}
	// Sums are read and written once a chunk, so its kernels' spectra may take more memory
	// than they, and at least what a core's cache holds.
	channel := p.half() * padded(2*p.rows.size) * lanes * 4 * group
	sums := p.frequencies() * 2 * padded(2*p.tiles()) * lanes * 4 * group
	chunk = max(chunkBytes, 2*sums) / channel
	// Whole blocks of lanes lie in one chunk.
	return group, min(max(chunk/lanes, 1)*lanes, p.In)
}

const chunkBytes = 1 << 20

// Bytes is the memory that Run allocates.
func (p Plan) Bytes() int64 {
	group, chunk := p.schedule()
	spectra := int64(p.frequencies()) * int64(padded(2*p.tiles())) * int64(p.In)
	kernels := int64(p.half()) * int64(padded(2*p.rows.size)) * int64(chunk) * lanes * int64(group)
	sums := int64(p.frequencies()) * 2 * int64(padded(2*p.tiles())) * lanes * int64(group)
	raw := int64(group) * lanes * int64(p.In) * int64(p.Kernel*p.Kernel)
	return 4 * (spectra + int64(runtime.GOMAXPROCS(0))*(kernels+sums+raw))
}

// parallel calls the functions that worker makes, one for each goroutine, for 0 to n-1.
func parallel(ctx context.Context, n int, worker func() func(int) error, finished func(int)) error {
	type result struct {
		i   int
		err error
	}
	results := make(chan result)
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			do := worker()
			for !stop.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				err := ctx.Err()
				if err == nil {
					err = do(i)
				}
				results <- result{i, err}
				if err != nil {
					return
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(results)
	}()
	var first error
	for r := range results {
		switch {
		case r.err != nil && first == nil:
			first = r.err
			stop.Store(true)
		case r.err == nil && finished != nil:
			finished(r.i)
		}
	}
	return first
}
