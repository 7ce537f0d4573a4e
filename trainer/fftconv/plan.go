// Package fftconv convolves with large kernels on the CPU by way of the frequency domain:
// a fifth to a twentieth of the arithmetic of direct summation, and a smaller error.
//
// The plane is cut into overlapping tiles (overlap-save). Tiles and kernels are
// transformed by a real two-dimensional Fourier transform, multiplied frequency by
// frequency as matrices of channels, summed over the input channels there, and
// transformed back. Tiles are small, so a transform is a product with a small matrix; all
// arithmetic is one kernel for such products, in assembly where there is one. Kernels are
// transformed a few channels at a time, just before they are used, and never held
// together.
//
// It knows nothing of networks: package infer gives it planes and a way to read weights,
// and decides by a Plan's cost whether it is worth it.
package fftconv

import (
	"fmt"
	"math"
)

// Shape is a convolution with stride 1 and "same" zero padding: (Batch, In, Rows, Columns)
// with kernels (Out, In, Kernel, Kernel) to (Batch, Out, Rows, Columns). An even kernel
// has one more zero after than before.
type Shape struct {
	Batch, In, Out, Rows, Columns, Kernel int
}

func (s Shape) before() int { return (s.Kernel - 1) / 2 }

// MACs is the number of multiply-accumulates of direct summation, padding included.
func (s Shape) MACs() int64 {
	return int64(s.Batch) * int64(s.Rows) * int64(s.Columns) * int64(s.In) * int64(s.Out) * int64(s.Kernel) * int64(s.Kernel)
}

// axis is one of a plane's two: transforms of size points, each of which gives step
// results; count of them cover the plane.
type axis struct{ size, step, count int }

// along lists the ways to cut n positions. One tile for all may wrap around: its zeros
// stand for those on both sides.
func along(n, k int) []axis {
	var list []axis
	for size := k + 1 + (k+1)%2; size <= maxSize; size += 2 {
		if whole := n + k/2; size >= whole {
			return append(list, axis{size, n, 1})
		}
		step := size - k + 1
		list = append(list, axis{size, step, (n + step - 1) / step})
	}
	return list
}

// maxSize is the largest transform: products with a matrix are no longer cheap then, and
// spectra of kernels are large.
const maxSize = 48

// Plan is how a convolution is cut.
type Plan struct {
	Shape
	rows, columns axis
	cost          float64
}

// NewPlan finds the cheapest sizes of the transforms.
func NewPlan(s Shape) (Plan, error) {
	if s.Batch < 1 || s.In < 1 || s.Out < 1 || s.Rows < 1 || s.Columns < 1 || s.Kernel < 2 || s.Kernel > maxSize/2 {
		return Plan{}, fmt.Errorf("fftconv: %+v: expected positive sizes and a kernel from 2 to %d", s, maxSize/2)
	}
	best := Plan{cost: math.Inf(1)}
	for _, r := range along(s.Rows, s.Kernel) {
		for _, c := range along(s.Columns, s.Kernel) {
			p := Plan{Shape: s, rows: r, columns: c}
			if p.cost = p.estimate(); p.cost < best.cost {
				best = p
			}
		}
	}
	return best, nil
}

// half is how many frequencies along the columns are kept: the others are conjugates.
func (p Plan) half() int { return p.columns.size/2 + 1 }

func (p Plan) frequencies() int { return p.half() * p.rows.size }

// tiles is their number in the batch.
func (p Plan) tiles() int { return p.Batch * p.rows.count * p.columns.count }

// MACs is the number of multiply-accumulates that Run does.
func (p Plan) MACs() int64 { return int64(p.arithmetic(0)) * lanes }

// Cost is about how many times lanes multiply-accumulates could be done in the time that
// Run takes: what moves values and what starts a product is counted too.
func (p Plan) Cost() float64 { return p.cost }

// arithmetic counts the products of lanes values; each call of kernel counts as start
// steps more.
func (p Plan) arithmetic(start float64) float64 {
	k, t1, t2 := p.Kernel, p.rows.size, p.columns.size
	h2 := float64(p.half())
	product := func(rows, steps int) float64 { return float64(padded(rows)) * (float64(steps) + start) }
	in, out := blocksOf(p.In), blocksOf(p.Out)
	tiles := float64(p.tiles())
	kernels := out * float64(p.In) * (float64(k)*product(2*p.half(), k) + 2*h2*product(2*t1, k))
	forward := in * tiles * (float64(t1)*product(2*p.half(), t2) + 2*h2*product(2*t1, t1))
	multiply := out * float64(p.frequencies()) * 2 * product(2*p.tiles(), p.In)
	inverse := out * tiles * (4*h2*product(p.rows.step, t1) + float64(p.rows.step)*product(p.columns.step, 2*p.half()))
	return kernels + forward + multiply + inverse
}

// estimate is arithmetic and moves. The weights were fitted to a Zen 4 core.
func (p Plan) estimate() float64 {
	const start, move = 2.5, 1.2
	in, out, tiles := blocksOf(p.In)*lanes, blocksOf(p.Out)*lanes, float64(p.tiles())
	points := float64(p.rows.size * p.columns.size)
	gathered := out*float64(p.In)*float64(p.Kernel*p.Kernel) + in*tiles*3*points + out*tiles*2*float64(p.rows.step*p.columns.step)
	// Spectra of kernels are written and read once, by a few values a step.
	spectra := out * float64(p.In) * 2 * float64(p.frequencies()) / 4
	return p.arithmetic(start) + move*gathered + spectra
}

func blocksOf(channels int) float64 { return float64((channels + lanes - 1) / lanes) }
