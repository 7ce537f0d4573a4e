package fftconv

// forward is one worker's memory for transforms of x.
type forward struct {
	*run
	points  []float32 // [row][column][lane]
	halves  []float32 // [row][part, frequency][lane]
	results []float32 // [frequency, part][lane]
}

func (r *run) newForward() *forward {
	return &forward{r,
		make([]float32, r.rows.size*r.columns.size*lanes),
		make([]float32, r.rows.size*padded(2*r.half())*lanes),
		make([]float32, padded(2*r.rows.size)*lanes),
	}
}

// tile transforms one tile of up to lanes channels.
func (w *forward) tile(tile, channel int) {
	n := min(lanes, w.In-channel)
	w.gather(tile, channel, n)
	stride := padded(2*w.half()) * lanes
	for row := range w.rows.size {
		w.planeRows.times(w.points[row*w.columns.size*lanes:], lanes, w.halves[row*stride:], lanes, false)
	}
	// Rows 2·tile and 2·tile+1 of the matrix that is packed for each frequency.
	at := 2 * tile
	for f2 := range w.half() {
		w.plane[0].times(w.halves[f2*lanes:], stride, w.results, lanes, false)
		w.plane[1].times(w.halves[(w.half()+f2)*lanes:], stride, w.results, lanes, true)
		for f1 := range w.rows.size {
			start, _ := w.panel(f2*w.rows.size+f1, at/block, channel)
			to := w.spectra[start+channel%w.chunk*block+at%block:]
			from := w.results[2*f1*lanes:][: 2*lanes : 2*lanes]
			for l := range n {
				to[l*block], to[l*block+1] = from[l], from[lanes+l]
			}
		}
	}
}

// gather copies a tile, zeros outside of the plane.
func (w *forward) gather(tile, channel, n int) {
	perItem := w.rows.count * w.columns.count
	item, tile := tile/perItem, tile%perItem
	row, column := tile/w.columns.count*w.rows.step-w.before(), tile%w.columns.count*w.columns.step-w.before()
	clear(w.points)
	first, last := max(0, -column), min(w.columns.size, w.Columns-column)
	for u := max(0, -row); u < min(w.rows.size, w.Rows-row); u++ {
		from := item*w.xs.Item + channel*w.xs.Channel + (row+u)*w.xs.Row + (column+first)*w.xs.Column
		to := w.points[(u*w.columns.size+first)*lanes:]
		if w.xs.Channel == 1 {
			for v := range last - first {
				copy(to[v*lanes:v*lanes+n], w.x[from+v*w.xs.Column:])
			}
			continue
		}
		for l := range n {
			x := w.x[from+l*w.xs.Channel:]
			for v := range last - first {
				to[v*lanes+l] = x[v*w.xs.Column]
			}
		}
	}
}
