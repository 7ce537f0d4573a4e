package graph

import (
	"context"
	"errors"
	"time"
)

// Input is the bytes of a named input, as a Program's sources refer to it.
type Input struct {
	Name string
	Data []byte
}

// Output is the bytes of one Read.
type Output struct {
	Name string
	Data []byte
}

// Result is what one run of a Program gave back.
type Result struct {
	Outputs []Output
	// Stages are the times of the dispatches by Stage, in the order of their first
	// dispatch, uploads included.
	Stages []StageTime
	// Parts are the times of the dispatches by Label, in order, for an executor that was
	// asked to measure them. Timestamps says that they are by the device's own clock, of its
	// work alone; else it waits for the device after each, which takes time.
	Parts      []PartTime
	Timestamps bool
	// PeakBytes is the most GPU memory that was allocated at a time, copies on their way to
	// and from it included.
	PeakBytes int64
	// UploadedBytes were brought to the device, HiddenBytes of them while it still ran
	// earlier dispatches.
	UploadedBytes, HiddenBytes int64
}

// Output joins the pieces of a result. ok says whether there is one of that name.
func (r *Result) Output(name string) (data []byte, ok bool) {
	for _, o := range r.Outputs {
		if o.Name != name {
			continue
		}
		if !ok {
			data, ok = o.Data[:len(o.Data):len(o.Data)], true
		} else {
			data = append(data, o.Data...)
		}
	}
	return data, ok
}

// StageTime is how long a stage took.
type StageTime struct {
	Stage    string
	Duration time.Duration
}

// PartTime is how long a part of a network took: a convolution, a normalisation.
type PartTime struct {
	Stage, Label string
	Way          string // how it was computed: a kernel's name, "frequency domain"
	Duration     time.Duration
	MACs         int64 // multiply-accumulates that were done
	// Bytes is the memory traffic if everything that the part reads and writes moves once.
	Bytes int64
}

// Peaks is what a device reaches on work that suits it.
type Peaks struct {
	FLOPS float64 // floating-point operations a second, in a product of matrices
	Bytes float64 // bytes a second, adding one tensor to another
}

// Progress is how far a run has come. Done and Total count multiply-accumulates.
type Progress struct {
	Stage       string
	Done, Total int64
}

// ErrMemory is what errors of an Executor are (errors.Is) that say that a Program takes more
// of the device's memory than there is, or than it may.
var ErrMemory = errors.New("out of GPU memory")

// Executor runs Programs: package gpu's device, or a test's.
type Executor interface {
	// Limits are the device's: what Programs for it may be planned with.
	Limits() Limits
	// Run executes p once. It returns soon after ctx is done, with ctx's error. report may
	// be nil; it is called from the goroutine that called Run.
	Run(ctx context.Context, p *Program, w Weights, in []Input, report func(Progress)) (*Result, error)
}

// Budgeted is an Executor that may have a bound on the device memory of a run.
type Budgeted interface {
	Executor
	// Budget is the bound in bytes, 0 for none.
	Budget() int64
	// Need is the smallest budget that p can run in.
	Need(p *Program) int64
}

// Holder is an Executor that can keep a Program: its weights are brought once, its stage
// Once is run once, and every buffer but the inputs keeps its contents from run to run. A
// Program that is meant for it says so (Builder.State, Builder.Prepare); others may find the
// last run's values where they want zeros.
type Holder interface {
	Executor
	// Hold takes p; the device's memory is taken with the first run.
	Hold(p *Program, w Weights) (Held, error)
}

// Held is a Program that stays on a device. It is for one goroutine at a time.
type Held interface {
	// Run runs the dispatches of one stage once more, with the inputs that they bind, and
	// hands back the reads of buffers that they bind. The first run is also that of the stage
	// Once. After an error it can not go on. report may be nil.
	Run(ctx context.Context, stage string, in []Input, report func(Progress)) (*Result, error)
	// Close gives the memory back. Close of a closed one does nothing.
	Close() error
}
