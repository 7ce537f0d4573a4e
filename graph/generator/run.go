package generator

import (
	"context"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
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
	uploaded     int64
	hidden       int64
	timestamps   bool
	trace        func(graph.PartTime)
	note         func(string)
	kept         *keptPrograms
	piece        int64 // most bytes of a buffer that memory has sufficed for, 0 for the device's
}

// NewRunner makes a Runner of an executor. dtype is the weights' storage type on the
// device: F32, F16, Q8 or Q4; close is called by Close.
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
func (r *ExecutorRunner) Close() error {
	r.kept.close()
	return r.close()
}

// PeakBytes is the most device memory that a run has held so far.
func (r *ExecutorRunner) PeakBytes() int64 { return r.peak }

// Uploads are the bytes that runs have brought to the device so far, and those of them that
// came while it worked.
func (r *ExecutorRunner) Uploads() (bytes, hidden int64) { return r.uploaded, r.hidden }

// Timestamps says whether the parts of the last run were timed by the device's own clock.
func (r *ExecutorRunner) Timestamps() bool { return r.timestamps }

// Trace calls f with the parts of every run after it, if the executor measures them.
func (r *ExecutorRunner) Trace(f func(graph.PartTime)) { r.trace = f }

// Encode implements Runner.
func (r *ExecutorRunner) Encode(ctx context.Context, p *Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	in, err := Feed(&p.Manifest, b)
	if err != nil {
		return nil, err
	}
	if held := r.kept.encoder(p); held != nil {
		return r.again(ctx, held, encoder.Stage, r.encodeProgram(p), in, report)
	}
	return r.run(ctx, p, r.encodeProgram(p), in, report)
}

// Decode implements Runner.
func (r *ExecutorRunner) Decode(ctx context.Context, p *Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	in := p.Manifest.Decoder.Condition()
	if len(condition) != batch*in[0]*in[1]*in[2] {
		return nil, fmt.Errorf("generator: condition of %d values, expected %d times (%d,%d,%d)", len(condition), batch, in[0], in[1], in[2])
	}
	input := []graph.Input{{Name: InputCondition, Data: Bytes(condition)}}
	if held := r.kept.decoder(p, batch); held != nil {
		return r.again(ctx, held, decoder.Stage, r.decodeProgram(p, batch), input, report)
	}
	return r.run(ctx, p, r.decodeProgram(p, batch), input, report)
}

// program compiles a Program for a device.
type program func(graph.Limits) (*graph.Program, error)

func (r *ExecutorRunner) encodeProgram(p *Package) program {
	return func(limits graph.Limits) (*graph.Program, error) { return CompileEncode(&p.Manifest, limits, r.dtype) }
}

func (r *ExecutorRunner) decodeProgram(p *Package, batch int) program {
	return func(limits graph.Limits) (*graph.Program, error) {
		return CompileDecode(&p.Manifest, limits, batch, r.dtype)
	}
}

func (r *ExecutorRunner) once(ctx context.Context, p *Package, program *graph.Program, in []graph.Input, report func(graph.Progress)) ([]float32, error) {
	result, err := r.exec.Run(ctx, program, p.Weights(), in, report)
	if err != nil {
		return nil, err
	}
	return r.values(result), nil
}

// values notes what a run took, and joins its results.
func (r *ExecutorRunner) values(result *graph.Result) []float32 {
	r.peak = max(r.peak, result.PeakBytes)
	r.uploaded, r.hidden = r.uploaded+result.UploadedBytes, r.hidden+result.HiddenBytes
	r.timestamps = result.Timestamps
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
	return values
}
