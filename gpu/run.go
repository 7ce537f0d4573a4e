package gpu

import (
	"context"
	"fmt"
	"time"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

const (
	// submitTime is how long one submit should take: long enough to hide its own cost,
	// short enough for a display's watchdog and for Ctrl-C.
	submitTime = 60 * time.Millisecond
	// firstSubmit is the first submit's size in multiply-accumulates, before the
	// device's speed is known.
	firstSubmit = 2e8
	// launchCost is what a dispatch weighs at least: starting one takes time too, and a
	// submit of very many would hold Ctrl-C up.
	launchCost = 1e6
	// inFlight is how many submits may be under way: one runs while the next is made.
	inFlight = 2
	// hangTime is how long a submit may take before the device counts as hung. Software
	// devices take seconds for what a GPU does in milliseconds.
	hangTime = 3 * time.Minute
)

// run is one execution of a Program.
type run struct {
	d       *Device
	ctx     context.Context
	p       *graph.Program
	weights graph.Weights
	inputs  []graph.Input
	report  func(graph.Progress)

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
}

// submit is a command buffer under way.
type submit struct {
	flag    flag
	cost    int64
	load    int64
	started time.Time
	groups  []*wgpu.BindGroup
	stage   string
}

func (r *run) execute() (*graph.Result, error) {
	p := r.p
	first, last := lifetimes(p)
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
	r.buffers = make([]*wgpu.Buffer, len(p.Buffers))
	r.budget = firstSubmit
	for _, d := range p.Dispatches {
		r.total += d.Cost
	}
	started := time.Now()
	for i := range p.Dispatches {
		d := &p.Dispatches[i]
		if i > 0 && d.Stage != p.Dispatches[i-1].Stage {
			if err := r.drain(); err != nil {
				return nil, err
			}
			started = r.clock(p.Dispatches[i-1].Stage, started)
		}
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
	if n := len(p.Dispatches); n > 0 {
		r.clock(p.Dispatches[n-1].Stage, started)
	}
	result := &graph.Result{Stages: r.stages}
	for _, read := range p.Reads {
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
		r.load += max(d.Cost, launchCost)
		r.stage = d.Stage
		return nil
	})
}

// submit sends the open command buffer off and waits until few enough are under way.
func (r *run) submit() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	err := guard(r.d.device, "submit", func() error {
		if r.encoder == nil {
			r.d.queue.Submit()
			return nil
		}
		err := r.pass.End()
		r.pass.Release()
		r.pass = nil
		if err != nil {
			return err
		}
		commands, err := r.encoder.Finish(nil)
		r.encoder.Release()
		r.encoder = nil
		if err != nil {
			return err
		}
		r.d.queue.Submit(commands)
		commands.Release()
		return nil
	})
	if err != nil {
		return err
	}
	r.flying = append(r.flying, submit{flag: workDone(r.d.queue), cost: r.cost, load: r.load, started: time.Now(), groups: r.groups, stage: r.stage})
	r.groups, r.cost, r.load = nil, 0, 0
	for len(r.flying) > inFlight-1 {
		if err := r.land(); err != nil {
			return err
		}
	}
	return nil
}

// drain submits what is open, waits for all, and gives dead buffers back.
func (r *run) drain() error {
	if err := r.submit(); err != nil {
		return err
	}
	for len(r.flying) > 0 {
		if err := r.land(); err != nil {
			return err
		}
	}
	r.staged = 0
	r.bury()
	return nil
}

// land waits for the oldest submit, learns from its time and reports progress.
func (r *run) land() error {
	s := r.flying[0]
	if err := r.wait(s.flag); err != nil {
		return err
	}
	ok := s.flag.ok()
	s.flag.free()
	r.flying = r.flying[1:]
	for _, g := range s.groups {
		g.Release()
	}
	if !ok {
		return &DeviceLostError{What: "submit", Message: "the queue did not complete its work"}
	}
	now := time.Now()
	if took := now.Sub(later(s.started, r.finished)); s.load > 0 && took > 0 {
		r.budget = max(int64(float64(s.load)*float64(submitTime)/float64(took)), launchCost)
	}
	r.finished = now
	r.done += s.cost
	if r.report != nil && s.cost > 0 {
		r.report(graph.Progress{Stage: s.stage, Done: min(r.done, r.total), Total: r.total})
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wait polls until f is set, the context is done, or the device has hung.
func (r *run) wait(f flag) error {
	started := time.Now()
	pause := 20 * time.Microsecond
	for {
		if err := guard(r.d.device, "wait", func() error { r.d.device.Poll(false, nil); return nil }); err != nil {
			return err
		}
		if f.done() {
			return nil
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if time.Since(started) > hangTime {
			return &DeviceLostError{What: "wait", Message: fmt.Sprintf("no answer for %s", hangTime)}
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Millisecond)
	}
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
