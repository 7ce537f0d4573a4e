package gpu

import (
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
	// mostFlying bounds the submits under way, however small they are.
	mostFlying = 8
	// hangTime is how long a submit may take before the device counts as hung. Software
	// devices take seconds for what a GPU does in milliseconds.
	hangTime = 3 * time.Minute
)

// submit is a command buffer, and what is given back when it has completed.
type submit struct {
	flag    flag
	started time.Time
	cost    int64  // as the Program tells it
	load    int64  // the same with at least launchCost for each dispatch
	stage   string // of the last dispatch
	groups  []*wgpu.BindGroup
	timed   []int // parts of the passes that are timed
	dead    []int // buffers that no later dispatch needs
	staged  int64 // bytes of the writes before it
}

// submit sends the open command buffer off, with the writes so far before it, and waits
// until what is under way is about one submit's work: it runs while the next is made, and
// while that one's weights are read and staged.
func (r *run) submit() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	err := guard(r.d.device, "submit", func() error {
		if r.encoder == nil {
			r.d.queue.Submit()
			return nil
		}
		err := r.endPass()
		if err == nil && len(r.open.timed) > 0 {
			err = r.stamps.resolve(r.encoder, len(r.open.timed))
		}
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
	s := r.open
	s.flag, s.started = workDone(r.d.queue), time.Now()
	r.open = submit{stage: s.stage}
	r.flying = append(r.flying, s)
	under := int64(0)
	for _, s := range r.flying {
		under += s.load
	}
	most := mostFlying
	if r.stamps != nil {
		most = 0
	}
	for len(r.flying) > most || len(r.flying) > 1 && under > r.budget {
		under -= r.flying[0].load
		if err := r.land(); err != nil {
			return err
		}
	}
	return nil
}

// endPass ends the open pass, if there is one.
func (r *run) endPass() error {
	if r.pass == nil {
		return nil
	}
	err := r.pass.End()
	r.pass.Release()
	r.pass = nil
	return err
}

// busy says whether anything is under way or waits to be submitted.
func (r *run) busy() bool {
	return len(r.flying) > 0 || r.encoder != nil || r.open.staged > 0 || len(r.open.dead) > 0
}

// reclaim submits what is open and waits for the oldest submit, for its memory.
func (r *run) reclaim() error {
	if r.encoder != nil || r.open.staged > 0 || len(r.open.dead) > 0 {
		if err := r.submit(); err != nil {
			return err
		}
	}
	if len(r.flying) == 0 {
		return nil
	}
	return r.land()
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
	for _, i := range s.dead {
		r.dead -= r.p.Buffers[i].Bytes
		r.destroy(i)
	}
	r.staged -= s.staged
	if !ok {
		return &DeviceLostError{What: "submit", Message: "the queue did not complete its work"}
	}
	if len(s.timed) > 0 {
		ticks, err := r.stamps.read(r, len(s.timed))
		if err != nil {
			return err
		}
		for i, part := range s.timed {
			r.timed(part, ticks[2*i], ticks[2*i+1])
		}
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
