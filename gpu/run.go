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
	keep    bool // the buffers of all stages but Once stay, for another run

	buffers []*wgpu.Buffer
	groups  []*wgpu.BindGroup // of the dispatches, where they stay
	live    int64             // bytes of buffers
	dead    int64             // of those, what only waits for a submit to complete
	staged  int64             // bytes of writes that wait for a submit to complete
	peak    int64             // most of live and staged so far
	piece   []byte

	uploaded, hidden int64 // bytes, as Result has them

	encoder  *wgpu.CommandEncoder
	pass     *wgpu.ComputePassEncoder
	open     submit // what encoder will be
	flying   []submit
	budget   int64     // load of a submit that takes submitTime
	finished time.Time // when the last submit completed

	done, total int64
	stages      []graph.StageTime
	parts       []graph.PartTime
	part        int         // that the next dispatch belongs to
	stamps      *timestamps // nil where parts are timed by waiting for each, or not at all
	timed       func(part int, begin, end uint64)
}

// execute runs the dispatches of these indices and hands back these reads.
func (r *run) execute(todo []int, reads []graph.Read) (*graph.Result, error) {
	p := r.p
	_, last := p.Lifetimes()
	if r.keep {
		_, last = p.HeldLifetimes()
	}
	if limit := r.d.options.MemoryBudget; limit > 0 {
		n := r.d.Need(p)
		if r.keep {
			n = p.Memory().Held + piece(p)
		}
		if n > limit {
			return nil, &BudgetError{Need: n, Budget: limit}
		}
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
	r.part = 0
	if r.d.options.Profile {
		r.parts, r.stamps = p.Parts(todo), r.d.stamps
	}
	r.timed = func(part int, begin, end uint64) {
		if end > begin {
			r.parts[part].Duration += time.Duration(float64(end-begin) * r.stamps.tick)
		}
	}
	var before *graph.Dispatch
	for _, i := range todo {
		d := &p.Dispatches[i]
		if r.d.options.Profile && before != nil && d.Label != before.Label {
			if r.stamps != nil {
				if err := guard(r.d.device, "end of pass", r.endPass); err != nil {
					return nil, err
				}
			} else {
				if err := r.drain(); err != nil {
					return nil, err
				}
				part = r.clockPart(part)
			}
			r.part++
		}
		if before != nil && d.Stage != before.Stage {
			if err := r.drain(); err != nil {
				return nil, err
			}
			started = r.clock(before.Stage, started)
		}
		before = d
		if err := r.dispatch(i, pipelines[d.Kernel]); err != nil {
			return nil, err
		}
		for _, b := range d.Binds {
			if last[b.Buffer] == i {
				last[b.Buffer] = -1
				r.retire(b.Buffer)
			}
		}
		if r.open.load >= r.budget || len(r.open.timed) == timedPasses {
			if err := r.submit(); err != nil {
				return nil, err
			}
		}
		for r.dead >= deadBytes {
			if err := r.reclaim(); err != nil {
				return nil, err
			}
		}
	}
	if err := r.drain(); err != nil {
		return nil, err
	}
	if before != nil {
		r.clock(before.Stage, started)
		if r.d.options.Profile && r.stamps == nil {
			r.clockPart(part)
		}
	}
	result := &graph.Result{Stages: r.stages, Parts: r.parts, Timestamps: r.stamps != nil}
	for _, read := range reads {
		data, err := r.read(&read)
		if err != nil {
			return nil, err
		}
		result.Outputs = append(result.Outputs, graph.Output{Name: read.Name, Data: data})
	}
	result.PeakBytes, result.UploadedBytes, result.HiddenBytes = r.peak, r.uploaded, r.hidden
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

// clockPart records that the part took the time since started, and starts the next.
func (r *run) clockPart(started time.Time) time.Time {
	now := time.Now()
	r.parts[r.part].Duration = now.Sub(started)
	return now
}

// group is the bind group of dispatch i, with its buffers filled.
func (r *run) group(i int, pl *pipeline) (group *wgpu.BindGroup, err error) {
	if r.groups != nil && r.groups[i] != nil {
		return r.groups[i], nil
	}
	d := &r.p.Dispatches[i]
	entries := make([]wgpu.BindGroupEntry, len(d.Binds))
	for j, b := range d.Binds {
		buffer, err := r.buffer(b.Buffer)
		if err != nil {
			return nil, err
		}
		entries[j] = wgpu.BindGroupEntry{Binding: uint32(j), Buffer: buffer, Offset: uint64(b.Offset), Size: uint64(b.Bytes)}
	}
	err = guard(r.d.device, "dispatch "+d.Label, func() error {
		group, err = r.d.device.CreateBindGroup(&wgpu.BindGroupDescriptor{Label: d.Label, Layout: pl.groups, Entries: entries})
		return err
	})
	switch {
	case err != nil:
	case r.keep && (r.p.Once == "" || d.Stage != r.p.Once):
		if r.groups == nil {
			r.groups = make([]*wgpu.BindGroup, len(r.p.Dispatches))
		}
		r.groups[i] = group
	default:
		r.open.groups = append(r.open.groups, group)
	}
	return group, err
}

// dispatch adds dispatch i to the open submit.
func (r *run) dispatch(i int, pl *pipeline) error {
	d := &r.p.Dispatches[i]
	group, err := r.group(i, pl)
	if err != nil {
		return err
	}
	return guard(r.d.device, "dispatch "+d.Label, func() (err error) {
		if r.encoder == nil {
			if r.encoder, err = r.d.device.CreateCommandEncoder(nil); err != nil {
				return err
			}
		}
		if r.pass == nil {
			if err := r.beginPass(); err != nil {
				return err
			}
		}
		r.pass.SetPipeline(pl.pipeline)
		r.pass.SetBindGroup(0, group, nil)
		r.pass.DispatchWorkgroups(uint32(d.Groups[0]), uint32(d.Groups[1]), uint32(d.Groups[2]))
		r.open.cost += d.Cost
		r.open.load += max(d.Cost, launchCost)
		r.open.stage = d.Stage
		return nil
	})
}

func (r *run) beginPass() (err error) {
	if r.stamps == nil {
		r.pass = r.encoder.BeginComputePass(nil)
		return nil
	}
	r.pass, err = timedPass(r.d.device, r.encoder, r.stamps.set, uint32(2*len(r.open.timed)))
	r.open.timed = append(r.open.timed, r.part)
	return err
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
	for _, s := range append(r.flying, r.open) {
		for _, g := range s.groups {
			g.Release()
		}
	}
	for _, g := range r.groups {
		if g != nil {
			g.Release()
		}
	}
	for i := range r.buffers {
		r.destroy(i)
	}
}
