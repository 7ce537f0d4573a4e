package infer

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/fftconv"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// fourier is a convolution in the frequency domain, some items of the batch at a time.
// Package fftconv does it on the memory of the backend's tensors.
type fourier struct {
	axis   model.Axis
	in     [4]int
	out, k int
	items  int
}

// newFourier plans a convolution; ok is false where another way is faster, or too little
// memory is allowed.
func newFourier(l limits, axis model.Axis, x [4]int, out, k int) (f fourier, ok bool) {
	f = fourier{axis, x, out, k, x[0]}
	for {
		p, err := fftconv.NewPlan(f.shape(f.items))
		if err != nil || !(p.Cost()*l.direct <= float64(p.Shape.MACs()+l.compile)) {
			return f, false
		}
		if p.Bytes() <= l.spectra {
			return f, true
		}
		if f.items == 1 {
			return f, false
		}
		f.items = (f.items + 1) / 2
	}
}

// macs counts what is done in all.
func (f fourier) macs() int64 {
	var sum int64
	for item := 0; item < f.in[0]; item += f.items {
		if p, err := fftconv.NewPlan(f.shape(min(f.items, f.in[0]-item))); err == nil {
			sum += p.MACs()
		}
	}
	return sum
}

func (f fourier) shape(items int) fftconv.Shape {
	rows, columns := f.axis.Plane(f.in)
	return fftconv.Shape{Batch: items, In: f.in[f.axis], Out: f.out, Rows: rows, Columns: columns, Kernel: f.k}
}

// strides are those of a contiguous tensor of this shape.
func (f fourier) strides(shape [4]int) fftconv.Strides {
	s := [4]int{shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1}
	return fftconv.Strides{Item: s[0], Channel: s[f.axis], Row: s[f.axis.Rows()], Column: s[f.axis.Columns()]}
}

// fourier is convolve by f.
func (j *job) fourier(x *tensors.Tensor, key string, f fourier) (*tensors.Tensor, error) {
	to := f.in
	to[f.axis] = f.out
	y, err := j.empty(to[:]...)
	if err != nil {
		return nil, err
	}
	taps := int64(f.in[f.axis]) * int64(f.k) * int64(f.k)
	weights := func(first, _ int, p []float32) error {
		return j.weights.ReadWeights(key, "F32", 4*int64(first)*taps, bytesOf(p))
	}
	from, into := f.strides(f.in), f.strides(to)
	run := func(xs, ys []float32) error {
		for item := 0; item < f.in[0]; item += f.items {
			shape := f.shape(min(f.items, f.in[0]-item))
			p, err := fftconv.NewPlan(shape)
			if err != nil {
				return err
			}
			each := shape.MACs() / int64(f.out)
			err = p.Run(j.ctx, xs[item*from.Item:], from, ys[item*into.Item:], into, weights, func(outputs int) {
				// Run sees by itself when the context is done.
				_ = j.advance(each * int64(outputs))
			})
			if err != nil {
				return fmt.Errorf("infer: tensor %s: %w", key, err)
			}
		}
		return nil
	}
	var failed, inner error
	err = tensors.ConstFlatData(x, func(xs []float32) {
		inner = tensors.MutableFlatData(y, func(ys []float32) { failed = run(xs, ys) })
	})
	if err := errors.Join(failed, inner, err); err != nil {
		free(y)
		return nil, err
	}
	return y, nil
}

// bytesOf is the memory of values. What weights are delivered in is little-endian, and so
// are the machines that fftconv is fast on.
func bytesOf(p []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(p))), 4*len(p))
}
