package gpu

import (
	"context"
	"time"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// run is one execution of a Program.
type run struct {
	d       *Device
	ctx     context.Context
	p       *graph.Program
	weights graph.Weights
	inputs  []graph.Input
	report  func(graph.Progress)
	keep    bool // the buffers stay after their last dispatch, for another run

	buffers    []*wgpu.Buffer
	live, peak int64 // bytes
	dead       []int
	deadSize   int64
	staged     int64
	piece      []byte

	encoder  *wgpu.CommandEncoder
	pass     *wgpu.ComputePassEncoder
	groups   []*wgpu.BindGroup
	cost     int64  // of the open submit, as the Program tells it
	load     int64  // the same with at least launchCost for each dispatch
	stage    string // of the last dispatch in it
	budget   int64  // load of a submit that takes submitTime
	flying   []submit
	finished time.Time // when the last submit completed

	done, total int64
	stages      []graph.StageTime
	parts       []graph.PartTime
	partCost    int64 // of the part that is being measured
}

// execute runs the dispatches of these indices and hands back these reads.
func (r *run) execute(todo []int, reads []graph.Read) (*graph.Result, error) {
	p := r.p
	first, last := lifetimes(p)
	if r.keep {
		for i := range last {
			last[i] = len(p.Dispatches)
		}
	}
	if n := need(p, first, last); r.d.options.MemoryBudget > 0 && n > r.d.options.MemoryBudget {
		return nil, &BudgetError{Need: n, Budget: r.d.options.MemoryBudget}
	}
	pipelines := make([]*pipeline, len(p.Kernels))
	for i := range p.Kernels {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if pipelines[i], err = r.d.compile(&p.Kernels[i]); err != nil {
			return nil, err
		}
	}
	if r.buffers == nil {
		r.buffers = make([]*wgpu.Buffer, len(p.Buffers))
	}
	r.budget = firstSubmit
	for _, i := range todo {
		r.total += p.Dispatches[i].Cost
	}
	started := time.Now()
	part := started
	var before *graph.Dispatch
	for _, i := range todo {
		d := &p.Dispatches[i]
		if r.d.options.Profile && before != nil && d.Label != before.Label {
			if err := r.drain(); err != nil {
				return nil, err
			}
			part = r.clockPart(before, part)
		}
		if before != nil && d.Stage != before.Stage {
			if err := r.drain(); err != nil {
				return nil, err
			}
			started = r.clock(before.Stage, started)
		}
		before = d
		if err := r.dispatch(d, pipelines[d.Kernel]); err != nil {
			return nil, err
		}
		for _, b := range d.Binds {
			if last[b.Buffer] == i {
				last[b.Buffer] = -1
				r.retire(b.Buffer)
			}
		}
		if r.load >= r.budget {
			if err := r.submit(); err != nil {
				return nil, err
			}
		}
		if r.deadSize >= deadBytes {
			if err := r.drain(); err != nil {
				return nil, err
			}
		}
	}
	if err := r.drain(); err != nil {
		return nil, err
	}
	if before != nil {
		r.clock(before.Stage, started)
		if r.d.options.Profile {
			r.clockPart(before, part)
		}
	}
	result := &graph.Result{Stages: r.stages, Parts: r.parts}
	for _, read := range reads {
		data, err := r.read(&read)
		if err != nil {
			return nil, err
		}
		result.Outputs = append(result.Outputs, graph.Output{Name: read.Name, Data: data})
	}
	result.PeakBytes = r.peak
	return result, nil
}

// clock adds the time since started to a stage, and starts the next.
func (r *run) clock(stage string, started time.Time) time.Time {
	now := time.Now()
	for i := range r.stages {
		if r.stages[i].Stage == stage {
			r.stages[i].Duration += now.Sub(started)
			return now
		}
	}
	r.stages = append(r.stages, graph.StageTime{Stage: stage, Duration: now.Sub(started)})
	return now
}

// clockPart records the dispatches of d's label up to d, and starts the next part.
func (r *run) clockPart(d *graph.Dispatch, started time.Time) time.Time {
	now := time.Now()
	part := graph.PartTime{Stage: d.Stage, Label: d.Label, Way: r.p.Kernels[d.Kernel].Label, Duration: now.Sub(started), MACs: r.partCost}
	r.parts = append(r.parts, part)
	r.partCost = 0
	return now
}

// dispatch adds one dispatch to the open submit.
func (r *run) dispatch(d *graph.Dispatch, pl *pipeline) error {
	entries := make([]wgpu.BindGroupEntry, len(d.Binds))
	for j, b := range d.Binds {
		buffer, err := r.buffer(b.Buffer)
		if err != nil {
			return err
		}
		entries[j] = wgpu.BindGroupEntry{Binding: uint32(j), Buffer: buffer, Offset: uint64(b.Offset), Size: uint64(b.Bytes)}
	}
	return guard(r.d.device, "dispatch "+d.Label, func() error {
		group, err := r.d.device.CreateBindGroup(&wgpu.BindGroupDescriptor{Label: d.Label, Layout: pl.groups, Entries: entries})
		if err != nil {
			return err
		}
		r.groups = append(r.groups, group)
		if r.encoder == nil {
			if r.encoder, err = r.d.device.CreateCommandEncoder(nil); err != nil {
				return err
			}
			r.pass = r.encoder.BeginComputePass(nil)
		}
		r.pass.SetPipeline(pl.pipeline)
		r.pass.SetBindGroup(0, group, nil)
		r.pass.DispatchWorkgroups(uint32(d.Groups[0]), uint32(d.Groups[1]), uint32(d.Groups[2]))
		r.cost += d.Cost
		r.partCost += d.Cost
		r.load += max(d.Cost, launchCost)
		r.stage = d.Stage
		return nil
	})
}

// release gives everything back, also in the middle of a run. Flags of submits that are
// still under way stay C's: the device may yet set them.
func (r *run) release() {
	if r.pass != nil {
		r.pass.End()
		r.pass.Release()
	}
	if r.encoder != nil {
		r.encoder.Release()
	}
	for _, s := range r.flying {
		r.groups = append(r.groups, s.groups...)
	}
	for _, g := range r.groups {
		g.Release()
	}
	for i := range r.buffers {
		r.destroy(i)
	}
}
