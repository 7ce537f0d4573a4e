// Package backend opens what GoMLX computes on: a PJRT plugin (XLA, for the CPU or a
// CUDA device) or GoMLX's own Go backend.
//
// It decides where a plugin is looked for and nothing else: nothing is downloaded, one
// backend never stands in for another unless the caller asks for Auto, and then the
// caller prints which one it got. What is computed is up to packages model, infer, fit,
// lm and collect.
package backend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/tensors"
	"k8s.io/klog/v2"
)

// The names that Open takes, and that a Backend has (but Auto).
const (
	PJRT = "pjrt" // a PJRT plugin, found as Plugins says
	CPU  = "cpu"  // GoMLX's Go backend: no plugin needed, several times slower
	Auto = "auto" // PJRT if a plugin can be opened, else CPU
)

// Names are the backends that a command offers besides Auto.
var Names = []string{PJRT, CPU}

// A Backend is an open one. GoMLX takes its compute.Backend (b.Backend), whose Finalize
// closes it.
type Backend struct {
	compute.Backend
	Name   string // PJRT or CPU
	Device string // what it computes on, for people: "XLA on cpu:0 (pjrt_c_api_cpu_plugin.so)"
	GPU    bool   // computes on a CUDA device: faster, with memory of its own
	// Skipped is why preferred choices were passed over: a CUDA plugin that did not open,
	// or, for Auto, no plugin. Nil if there were none.
	Skipped error
}

// NativeConvolution says whether the backend's own convolution is the fast one. The Go
// backend's is a thousandth of its matrix product.
func (b Backend) NativeConvolution() bool { return b.Name == PJRT }

var verbose atomic.Bool

// SetVerbose lets what GoMLX and XLA log through to stderr; call it before the first
// Open. By default they are silent, since their errors come back as errors.
func SetVerbose(on bool) { verbose.Store(on) }

// Open opens the backend of one of the names above. The error of a missing plugin says
// where it was looked for.
func Open(name string) (Backend, error) {
	silence()
	switch name {
	case PJRT:
		return openPJRT()
	case CPU:
		return openGo()
	case Auto:
		b, err := openPJRT()
		if err == nil {
			return b, nil
		}
		b, errGo := openGo()
		if errGo != nil {
			return Backend{}, errors.Join(err, errGo)
		}
		b.Skipped = err
		return b, nil
	}
	return Backend{}, fmt.Errorf("backend: %q, expected %s, %s or %s", name, PJRT, CPU, Auto)
}

func openGo() (Backend, error) {
	// With the default scheduling of compute v0.1.0, several independent products wait
	// for each other's workers for ever.
	b, err := gobackend.New("ops_sequential")
	if err != nil {
		return Backend{}, fmt.Errorf("backend: the Go backend: %w", err)
	}
	return Backend{Backend: b, Name: CPU, Device: "Go on the CPU"}, nil
}

func silence() {
	if verbose.Load() {
		// Read by the plugin when it is loaded; go-xla sets it to 3 if nobody has.
		os.Setenv("TF_CPP_MIN_LOG_LEVEL", "0")
		return
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// RoundUp rounds a positive dimension up to one of few, by less than a quarter, since
// backends compile every shape anew. 0 stays.
func RoundUp(n int) int {
	step := 1
	for step*8 < n {
		step *= 2
	}
	return (n + step - 1) / step * step
}

// Free gives tensors' memory back at once, the device's and the host's: until the garbage
// collector does, several steps' states would be held.
func Free(lists ...[]*tensors.Tensor) {
	for _, list := range lists {
		for _, x := range list {
			x.MustFinalizeAll()
		}
	}
}
