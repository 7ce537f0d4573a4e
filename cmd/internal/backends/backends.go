// Package backends chooses what the commands compute on: a WebGPU device (package gpu),
// or GoMLX's backends (packages trainer/backend and trainer/infer), each as a
// generator.Runner.
package backends

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
	"github.com/drag-and-drop-lora/dnd/tune"
)

// The backends. Auto is WebGPU if there is a real GPU, else PJRT if there is a plugin,
// else CPU.
const (
	Auto   = "auto"
	WebGPU = "webgpu"
	PJRT   = backend.PJRT
	CPU    = backend.CPU
)

// Names are all that Open takes.
func Names() []string { return []string{Auto, WebGPU, PJRT, CPU} }

// Options choose and bound a backend.
type Options struct {
	Backend string // a name of Names
	// The rest is for WebGPU only.
	Device  int    // an index of List, or -1 for the best; with Auto it chooses WebGPU
	Memory  int64  // most bytes of device memory, 0 for no bound
	Weights string // storage type on the device: of generator.Storages
	// Tuning is how Programs are planned; nil is as package tune measured on the device, and
	// as the planner's model says where it measured nothing.
	Tuning  *graph.Tuning
	Profile bool // measure the parts of each run, for Measured.Trace
	// Note is told that what was measured on the device cannot be read; it may be nil.
	Note func(string)
}

// Measured is what every Runner of Open can also do, to be measured.
type Measured interface {
	// Trace calls f with the parts of all runs after it: on WebGPU only with Profile.
	Trace(f func(graph.PartTime))
	// Probe measures what the backend reaches at best.
	Probe(ctx context.Context) (graph.Peaks, error)
	// Count is what decoding a batch takes on it.
	Count(p *generator.Package, batch int) (graph.Count, error)
	// Uploads are the bytes that were brought to the device so far, and those of them that
	// were while it worked; 0 where memory is the host's.
	Uploads() (bytes, hidden int64)
	// Timestamps says whether the parts of the last run were timed by the device's own clock:
	// its work alone, without uploads and waits.
	Timestamps() bool
	// PeakBytes is the most device memory of a run so far, 0 where it is the host's.
	PeakBytes() int64
}

// Info describes a WebGPU device: gpu.Info, also where package gpu cannot be built.
type Info struct {
	Index   int          `json:"index"`
	Name    string       `json:"name"`
	Vendor  string       `json:"vendor"`
	Backend string       `json:"backend"`
	Type    string       `json:"type"`
	Driver  string       `json:"driver,omitempty"`
	Limits  graph.Limits `json:"limits"`
}

// Software says whether the device is the processor itself: right, but slow.
func (i Info) Software() bool { return i.Type == "software" }

// Device is an open WebGPU device, for callers that run Programs on it themselves.
type Device interface {
	graph.Holder
	// Tuned is what package tune keeps the device's choices under.
	Tuned() tune.Device
	Close() error
}

// Open opens a backend. note is told why a better one was passed over.
func Open(o Options, note func(string)) (generator.Runner, error) {
	switch o.Backend {
	case WebGPU:
		return openWebGPU(o, note)
	case PJRT, CPU:
		return openGoMLX(o.Backend, note)
	case Auto:
	default:
		return nil, fmt.Errorf("backend %q, expected %s", o.Backend, strings.Join(Names(), ", "))
	}
	if o.Device >= 0 {
		return openWebGPU(o, note)
	}
	infos, err := List()
	if err != nil && !errors.Is(err, ErrNoDevice) {
		note(err.Error())
	}
	for _, info := range infos {
		if !info.Software() {
			return openWebGPU(o, note)
		}
	}
	return openGoMLX(backend.Auto, note)
}

func openWebGPU(o Options, note func(string)) (generator.Runner, error) {
	if o.Note == nil {
		o.Note = note
	}
	d, name, err := OpenDevice(o)
	if err != nil {
		return nil, err
	}
	r := generator.NewRunner(d, WebGPU, name, generator.Storages[o.Weights], d.Close)
	r.Note(note)
	return r, nil
}

func openGoMLX(name string, note func(string)) (generator.Runner, error) {
	b, err := backend.Open(name)
	if err != nil {
		return nil, err
	}
	if b.Skipped != nil {
		note(b.Skipped.Error())
	}
	return &gomlx{b, infer.New(b)}, nil
}

// gomlx is a generator.Runner on GoMLX.
type gomlx struct {
	backend backend.Backend
	runner  *infer.Runner
}

func (g *gomlx) Name() string   { return g.backend.Name }
func (g *gomlx) Device() string { return g.backend.Device }

func (g *gomlx) Encode(ctx context.Context, p *generator.Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	m := &p.Manifest
	if m.Encoder == nil {
		return nil, generator.ErrNoEncoder
	}
	return g.runner.Encode(ctx, m.Encoder.Config, p.Weights(), b.IDs, b.Mask, b.Texts, b.Length, m.Condition.Pads, report)
}

func (g *gomlx) Decode(ctx context.Context, p *generator.Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	return g.runner.Decode(ctx, p.Manifest.Decoder, p.Weights(), condition, batch, report)
}

// Trace implements Measured.
func (g *gomlx) Trace(f func(graph.PartTime)) { g.runner.Trace(f) }

// Probe implements Measured.
func (g *gomlx) Probe(context.Context) (graph.Peaks, error) { return g.runner.Probe() }

// Count implements Measured.
func (g *gomlx) Count(p *generator.Package, batch int) (graph.Count, error) {
	return g.runner.Count(p.Manifest.Decoder, batch), nil
}

// Uploads implements Measured.
func (g *gomlx) Uploads() (bytes, hidden int64) { return 0, 0 }

func (g *gomlx) Timestamps() bool { return false }

// PeakBytes implements Measured.
func (g *gomlx) PeakBytes() int64 { return 0 }

func (g *gomlx) Close() error {
	g.runner.Close()
	g.backend.Finalize()
	return nil
}
