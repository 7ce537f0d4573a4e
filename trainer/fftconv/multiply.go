package fftconv

import "context"

// multiply is one worker's memory for some outputs: their kernels, and products with x.
type multiply struct {
	*run
	raw     []float32 // [output][channel][row, column] as read
	points  []float32 // [row, column][lane] of a kernel
	halves  []float32 // [row][part, frequency][lane] of a kernel
	kernels []float32 // [block][frequency along columns][along rows, part][channel of the chunk][lane]
	sums    []float32 // [block][frequency][part of the kernel][tile, its part][lane]
	backs   []float32 // [row][part, frequency][lane] of a tile of y
	results []float32 // [column][lane] of a row of it
}

func (r *run) newMultiply() *multiply {
	k := r.Kernel
	return &multiply{
		run:     r,
		raw:     make([]float32, r.group*lanes*r.In*k*k),
		points:  make([]float32, k*k*lanes),
		halves:  make([]float32, k*padded(2*r.half())*lanes),
		kernels: make([]float32, r.group*r.kernelSize()),
		sums:    make([]float32, r.group*r.sumSize()),
		backs:   make([]float32, padded(r.rows.step)*2*r.half()*lanes),
		results: make([]float32, padded(r.columns.step)*lanes),
	}
}

// kernelSize is the length of a block's kernels, sumSize of its sums.
func (r *run) kernelSize() int { return r.half() * padded(2*r.rows.size) * r.chunk * lanes }

func (r *run) sumSize() int { return r.frequencies() * 2 * r.rowBlocks * block * lanes }

// outputs makes n outputs of y from the first on.
func (w *multiply) outputs(ctx context.Context, first, n int, weights Weights) error {
	raw := w.raw[:n*w.In*w.Kernel*w.Kernel]
	if err := weights(first, n, raw); err != nil {
		return err
	}
	for channel := 0; channel < w.In; channel += w.chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := min(w.chunk, w.In-channel)
		for b := 0; b*lanes < n; b++ {
			for c := range chunk {
				w.gather(raw, b*lanes, min(lanes, n-b*lanes), channel+c)
				w.transform(b, c)
			}
		}
		w.product((n+lanes-1)/lanes, channel, chunk)
	}
	for b := 0; b*lanes < n; b++ {
		sums := w.sums[b*w.sumSize():][:w.sumSize()]
		w.combine(sums)
		for tile := range w.tiles() {
			w.back(sums, tile, first+b*lanes, min(lanes, n-b*lanes))
		}
	}
	return nil
}

// gather puts the kernels from one channel to n outputs side by side.
func (w *multiply) gather(raw []float32, output, n, channel int) {
	taps := w.Kernel * w.Kernel
	for l := range n {
		for i, v := range raw[((output+l)*w.In+channel)*taps:][:taps] {
			w.points[i*lanes+l] = v
		}
	}
}

// transform makes the spectra of what gather gathered.
func (w *multiply) transform(b, channel int) {
	half, stride := w.half(), padded(2*w.half())*lanes
	for row := range w.Kernel {
		w.kernelRows.times(w.points[row*w.Kernel*lanes:], lanes, w.halves[row*stride:], lanes, false)
	}
	next := w.chunk * lanes
	for f2 := range half {
		to := w.kernels[b*w.kernelSize()+f2*padded(2*w.rows.size)*next+channel*lanes:]
		w.kernel[0].times(w.halves[f2*lanes:], stride, to, next, false)
		w.kernel[1].times(w.halves[(half+f2)*lanes:], stride, to, next, true)
	}
}

// product adds a chunk of channels to the sums of n blocks.
func (w *multiply) product(n, channel, chunk int) {
	size := w.rows.size
	for f2 := range w.half() {
		for f1 := range size {
			f := f2*size + f1
			for i := range w.rowBlocks {
				at, _ := w.panel(f, i, channel)
				x := w.spectra[at:][:chunk*block]
				for b := range n {
					for part := range 2 {
						kernels := w.kernels[b*w.kernelSize()+(f2*padded(2*size)+2*f1+part)*w.chunk*lanes:]
						sums := w.sums[b*w.sumSize()+((f*2+part)*w.rowBlocks+i)*block*lanes:]
						kernel(chunk, x, kernels, lanes, sums, lanes, channel > 0)
					}
				}
			}
		}
	}
}

// combine makes complex numbers of the four products of real and imaginary parts: real
// ones in the rows 2·tile of the first part, imaginary ones in those of the second.
func (w *multiply) combine(sums []float32) {
	size := w.rowBlocks * block * lanes
	for f := range w.frequencies() {
		re, im := sums[2*f*size:][:size], sums[(2*f+1)*size:][:size]
		for tile := range w.tiles() {
			at := 2 * tile * lanes
			rr, ri := (*[lanes]float32)(re[at:]), (*[lanes]float32)(re[at+lanes:])
			ir, ii := (*[lanes]float32)(im[at:]), (*[lanes]float32)(im[at+lanes:])
			for l := range lanes {
				rr[l] -= ii[l]
				ir[l] += ri[l]
			}
		}
	}
}

// back transforms a tile of n outputs and writes it to y.
func (w *multiply) back(sums []float32, tile, output, n int) {
	half, size := w.half(), w.rowBlocks*block*lanes
	next := 2 * half * lanes
	for f2 := range half {
		re := sums[f2*w.rows.size*2*size+2*tile*lanes:]
		im := re[size:]
		toRe, toIm := w.backs[f2*lanes:], w.backs[(half+f2)*lanes:]
		w.cosine.times(re, 2*size, toRe, next, false)
		w.minus.times(im, 2*size, toRe, next, true)
		w.sine.times(re, 2*size, toIm, next, false)
		w.cosine.times(im, 2*size, toIm, next, true)
	}
	perItem := w.rows.count * w.columns.count
	item, tile := tile/perItem, tile%perItem
	row, column := tile/w.columns.count*w.rows.step, tile%w.columns.count*w.columns.step
	columns := min(w.columns.step, w.Columns-column)
	for u := range min(w.rows.step, w.Rows-row) {
		w.run.back.times(w.backs[u*next:], lanes, w.results, lanes, false)
		to := item*w.ys.Item + output*w.ys.Channel + (row+u)*w.ys.Row + column*w.ys.Column
		if w.ys.Channel == 1 {
			for v := range columns {
				copy(w.y[to+v*w.ys.Column:][:n], w.results[v*lanes:])
			}
			continue
		}
		for l := range n {
			y := w.y[to+l*w.ys.Channel:]
			for v := range columns {
				y[v*w.ys.Column] = w.results[v*lanes+l]
			}
		}
	}
}
