package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// held is a Program whose buffers stay on the device.
type held struct {
	d   *Device
	on  *wgpu.Device // what the buffers were made on
	run *run
	// prepared says that the stage Once has run.
	prepared bool
}

var _ graph.Holder = (*Device)(nil)

// Hold keeps p on the device from its first run on (graph.Holder). Runs take turns with the
// device's other work. A run that fails, and a device that was lost or that had to be opened
// anew for a Program of larger limits, end it.
func (d *Device) Hold(p *graph.Program, w graph.Weights) (graph.Held, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &held{d: d, run: &run{d: d, p: p, weights: w, keep: true}}, nil
}

func (h *held) Run(ctx context.Context, stage string, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	if h.run == nil {
		return nil, errors.New("gpu: the held Program has ended")
	}
	result, err := h.d.exclusive(ctx, h.run.p.Requires, func() (result *graph.Result, err error) {
		if h.on != nil && h.on != h.d.device {
			h.run = nil // with its device
			return nil, &DeviceLostError{What: "held Program", Message: "the device was opened anew since the last run"}
		}
		h.on = h.d.device
		r := h.run
		r.ctx, r.inputs, r.report, r.done, r.total, r.stages, r.parts, r.uploaded, r.hidden = ctx, in, report, 0, 0, nil, nil, 0, 0
		todo, bound := stageOf(r.p, stage)
		if len(todo) == 0 {
			return nil, fmt.Errorf("gpu: the held Program has no stage %q", stage)
		}
		for i := range r.buffers {
			if r.buffers[i] != nil && bound[i] && r.p.Buffers[i].Source.Kind == graph.SourceInput {
				if err := r.fill(i); err != nil {
					return nil, err
				}
			}
		}
		var reads []graph.Read
		for _, read := range r.p.Reads {
			if bound[read.Buffer] {
				reads = append(reads, read)
			}
		}
		if once := r.p.Once; once != "" && stage != once && !h.prepared {
			first, _ := stageOf(r.p, once)
			todo = append(first, todo...)
		} else if stage == once && h.prepared {
			todo = nil
		}
		result, err = r.execute(todo, reads)
		h.prepared = true
		return result, err
	}, func() {})
	if err != nil {
		h.Close()
	}
	return result, err
}

// stageOf finds the dispatches of a stage and the buffers that they bind.
func stageOf(p *graph.Program, stage string) (todo []int, bound []bool) {
	bound = make([]bool, len(p.Buffers))
	for i, d := range p.Dispatches {
		if d.Stage != stage {
			continue
		}
		todo = append(todo, i)
		for _, b := range d.Binds {
			bound[b.Buffer] = true
		}
	}
	return todo, bound
}

func (h *held) Close() error {
	if h.run == nil {
		return nil
	}
	r := h.run
	h.run = nil
	h.d.turn <- struct{}{}
	defer func() { <-h.d.turn }()
	if h.on == nil || h.on != h.d.device {
		return nil
	}
	return guard(h.d.device, "release", func() error { r.release(); return nil })
}
