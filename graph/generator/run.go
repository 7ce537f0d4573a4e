package generator

import (
	"context"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// Runner runs a package's two networks on some backend: NewRunner's on a graph.Executor,
// package trainer/infer's on GoMLX. report may be nil.
type Runner interface {
	// Name is the backend: "webgpu", "pjrt" or "cpu". Device says what computes.
	Name() string
	Device() string
	// Encode makes the condition (N,L,C) of one draw of prompts.
	Encode(ctx context.Context, p *Package, b text.Batch, report func(graph.Progress)) ([]float32, error)
	// Decode makes weight tokens (batch,T,h,w) from conditions (batch,N,L,C).
	Decode(ctx context.Context, p *Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error)
	Close() error
}

// ExecutorRunner is the Runner that compiles Programs for an executor.
type ExecutorRunner struct {
	exec         graph.Executor
	name, device string
	dtype        string
	close        func() error
	peak         int64
	trace        func(graph.PartTime)
	note         func(string)
	piece        int64 // most bytes of a buffer that memory has sufficed for, 0 for the device's
}

// NewRunner makes a Runner of an executor. dtype is the weights' storage type on the
// device: F32, F16 or Q8; close is called by Close.
func NewRunner(exec graph.Executor, name, device, dtype string, close func() error) *ExecutorRunner {
	return &ExecutorRunner{exec: exec, name: name, device: device, dtype: dtype, close: close, note: func(string) {}}
}

// Note calls f with what a person may want to know: that memory suffices for smaller pieces
// only.
func (r *ExecutorRunner) Note(f func(string)) { r.note = f }

// Name is the backend.
func (r *ExecutorRunner) Name() string { return r.name }

// Device says what computes.
func (r *ExecutorRunner) Device() string { return r.device }

// Close closes the executor.
func (r *ExecutorRunner) Close() error { return r.close() }

// PeakBytes is the most device memory that a run has held so far.
func (r *ExecutorRunner) PeakBytes() int64 { return r.peak }

// Trace calls f with the parts of every run after it, if the executor measures them.
func (r *ExecutorRunner) Trace(f func(graph.PartTime)) { r.trace = f }

// Encode implements Runner.
func (r *ExecutorRunner) Encode(ctx context.Context, p *Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	in, err := Feed(&p.Manifest, b)
	if err != nil {
		return nil, err
	}
	compile := func(limits graph.Limits) (*graph.Program, error) { return CompileEncode(&p.Manifest, limits, r.dtype) }
	return r.run(ctx, p, compile, in, report)
}

// Decode implements Runner.
func (r *ExecutorRunner) Decode(ctx context.Context, p *Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	in := p.Manifest.Decoder.Condition()
	if len(condition) != batch*in[0]*in[1]*in[2] {
		return nil, fmt.Errorf("generator: condition of %d values, expected %d times (%d,%d,%d)", len(condition), batch, in[0], in[1], in[2])
	}
	compile := func(limits graph.Limits) (*graph.Program, error) {
		return CompileDecode(&p.Manifest, limits, batch, r.dtype)
	}
	return r.run(ctx, p, compile, []graph.Input{{Name: InputCondition, Data: Bytes(condition)}}, report)
}

func (r *ExecutorRunner) run(ctx context.Context, p *Package, compile func(graph.Limits) (*graph.Program, error), in []graph.Input, report func(graph.Progress)) (values []float32, err error) {
	limits := r.exec.Limits()
	if r.piece > 0 {
		limits.MaxStorageBufferBindingSize = min(limits.MaxStorageBufferBindingSize, r.piece)
	}
	program, err := compile(limits)
	if err != nil && r.piece > 0 { // another generator, which needs larger ones
		program, err = compile(r.exec.Limits())
	}
	if err != nil {
		return nil, err
	}
	piece, err := InPieces(program, limits, compile, func(p2 *graph.Program) error {
		values, err = r.once(ctx, p, p2, in, report)
		return err
	}, func(piece int64) { r.note(PiecesNote(piece)) })
	if err == nil && piece > 0 {
		r.piece = piece
	}
	return values, err
}

func (r *ExecutorRunner) once(ctx context.Context, p *Package, program *graph.Program, in []graph.Input, report func(graph.Progress)) ([]float32, error) {
	result, err := r.exec.Run(ctx, program, p.Weights(), in, report)
	if err != nil {
		return nil, err
	}
	r.peak = max(r.peak, result.PeakBytes)
	if r.trace != nil {
		for _, part := range result.Parts {
			r.trace(part)
		}
	}
	// A large tensor comes back as several reads of one name, in order.
	var values []float32
	for _, out := range result.Outputs {
		values = append(values, Float32s(out.Data)...)
	}
	return values, nil
}
