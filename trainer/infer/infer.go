// Package infer runs the generator's two networks on a GoMLX backend in bounded memory:
// what `dndgen --backend pjrt` and `--backend cpu` do.
//
// It reads weights by ranges as it needs them, one convolution after the other and large
// kernels in chunks of output channels, and frees each when it is used: the weights are
// never in memory together, so a decoder larger than the machine's memory runs. Work is
// cut into tiles of under a second, between which it can be cancelled. The mathematics of
// a tile is package model's, that of large convolutions on the CPU package fftconv's; the
// tokens that come out go to package lora.
package infer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fftconv"
)

// A Runner runs networks on one backend and keeps what it compiled for the next run with
// the same shapes. It is safe for concurrent use; runs wait for each other.
type Runner struct {
	backend backend.Backend
	limits  limits
	mu      sync.Mutex
	execs   map[operation]*gomlx.Exec
	trace   func(graph.PartTime)
}

// limits bound one tile.
type limits struct {
	weights int64 // bytes of one chunk of weights; two are held at a time
	gather  int64 // bytes of gathered neighbours, where a convolution is products
	flop    int64 // floating-point operations
	// manyChannels is from how many output channels on a convolution along N is done as
	// products of matrices, with neighbours that are gathered once for all of them. On
	// XLA's CPU that reaches twice the speed of its own convolution, which also transposes
	// the weights; here they stay as they lie in the file.
	manyChannels int
	// direct is how many multiply-accumulates the backend's own convolution does in the time
	// of one unit of fftconv.Plan.Cost; where that is faster, and its memory at most spectra
	// bytes, it is used instead. Infinite is never.
	direct  float64
	spectra int64
	// compile is what a graph of its own costs the other ways, in multiply-accumulates.
	compile int64
	// shape is what compiling the text encoder for another shape costs, in multiply-accumulates.
	shape int64
}

// New makes a Runner. The backend stays the caller's, to be finalized after Close.
func New(b backend.Backend) *Runner {
	// Tiles last half a second or so at what two cores do: 100 to 400 GFLOPS with XLA, a
	// third of it in Go.
	l := limits{weights: 128 << 20, gather: 128 << 20, flop: 50e9, manyChannels: 400, direct: 27, spectra: 1 << 30, compile: 1e9, shape: 30e9}
	switch {
	case b.GPU:
		l = limits{weights: 1 << 30, flop: 4e12, manyChannels: math.MaxInt, shape: 1e13}
	case b.Name == backend.CPU:
		l.flop, l.manyChannels, l.direct, l.compile, l.shape = 20e9, 128, 9, 0, 0
	}
	if b.GPU || !fftconv.Fast {
		l.direct = math.Inf(1)
	}
	return &Runner{backend: b, limits: l, execs: map[operation]*gomlx.Exec{}}
}

// Close frees what was compiled.
func (r *Runner) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.execs {
		e.Finalize()
	}
	clear(r.execs)
}

// operation is what an Exec computes, shapes apart: a name, and all else that its graph is
// built with, comparable.
type operation struct {
	name string
	with any
}

// run computes operation op, whose graph build makes, of the arguments: tensors, which
// stay the caller's, and scalars.
func (r *Runner) run(op operation, build func(in []*gomlx.Node) *gomlx.Node, args ...any) (*tensors.Tensor, error) {
	e, ok := r.execs[op]
	if !ok {
		var err error
		if e, err = gomlx.NewExec(r.backend.Backend, build); err != nil {
			return nil, fmt.Errorf("infer: %s: %w", op.name, err)
		}
		e.SetMaxCache(-1)
		r.execs[op] = e
	}
	return r.call(e, op.name, args)
}

// once is run for a graph that is not kept.
func (r *Runner) once(name string, build func(in []*gomlx.Node) *gomlx.Node, args ...any) (*tensors.Tensor, error) {
	e, err := gomlx.NewExec(r.backend.Backend, build)
	if err != nil {
		return nil, fmt.Errorf("infer: %s: %w", name, err)
	}
	defer e.Finalize()
	return r.call(e, name, args)
}

func (r *Runner) call(e *gomlx.Exec, name string, args []any) (*tensors.Tensor, error) {
	out, err := e.Call(args...)
	if err != nil {
		return nil, fmt.Errorf("infer: %s on %s: %w", name, r.backend.Device, err)
	}
	return out[0], nil
}

// job is one run of a network: its weights, and how far it has come.
type job struct {
	*Runner
	ctx     context.Context
	weights graph.Weights
	report  func(graph.Progress)
	done    graph.Progress
}

// advance counts finished multiply-accumulates and stops the job if its context is done.
func (j *job) advance(macs int64) error {
	j.done.Done += macs
	if j.report != nil {
		j.report(j.done)
	}
	return j.ctx.Err()
}

// load reads values of tensor key, from value off on, as a tensor of the given shape.
func (j *job) load(key string, off int64, shape ...int) (*tensors.Tensor, error) {
	return j.loadRows(key, off, 0, 1, shape...)
}

// loadRows is load of equal rows that lie stride values apart.
func (j *job) loadRows(key string, off, stride int64, rows int, shape ...int) (*tensors.Tensor, error) {
	t, err := j.empty(shape...)
	if err != nil {
		return nil, err
	}
	var failed error
	err = t.MutableBytes(func(p []byte) {
		size := len(p) / rows
		for i := 0; i < rows && failed == nil; i++ {
			failed = j.weights.ReadWeights(key, "F32", 4*(off+int64(i)*stride), p[i*size:(i+1)*size])
		}
	})
	if err := errors.Join(failed, err); err != nil {
		free(t)
		return nil, fmt.Errorf("infer: tensor %s: %w", key, err)
	}
	return t, nil
}

// upload copies values into a tensor.
func (j *job) upload(values []float32, shape ...int) (*tensors.Tensor, error) {
	t, err := j.empty(shape...)
	if err != nil {
		return nil, err
	}
	if err := tensors.MutableFlatData(t, func(p []float32) { copy(p, values) }); err != nil {
		free(t)
		return nil, fmt.Errorf("infer: %w", err)
	}
	return t, nil
}

// empty makes a tensor whose memory the backend computes on directly, if it can.
func (j *job) empty(shape ...int) (*tensors.Tensor, error) {
	t, err := tensors.FromShapeForBackend(j.backend.Backend, 0, shapes.Make(dtypes.Float32, shape...))
	if err != nil {
		return nil, fmt.Errorf("infer: memory for %v values: %w", shape, err)
	}
	return t, nil
}

// download copies a tensor's values to out and frees it.
func download(t *tensors.Tensor, out []float32) error {
	defer free(t)
	if err := tensors.ConstFlatData(t, func(p []float32) { copy(out, p) }); err != nil {
		return fmt.Errorf("infer: reading the result: %w", err)
	}
	return nil
}

// free gives a tensor's memory back at once; nil is fine.
func free(list ...*tensors.Tensor) {
	for _, t := range list {
		if t != nil {
			// It fails for a backend that is gone, and then so is the memory.
			_ = t.FinalizeAll()
		}
	}
}

// collect makes room after a stage on the Go backend, whose memory is Go's: left alone,
// the heap grows to twice of what is in use.
func (j *job) collect() {
	if j.backend.Name == backend.CPU {
		runtime.GC()
	}
}

func product(shape ...int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
