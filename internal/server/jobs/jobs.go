// Package jobs is a bounded queue of work. Jobs that ask for the same work, by its key,
// share one piece of it, which is given up when the last of them is cancelled. A job can be
// followed; a finished one is remembered for a while. What the work is, and where its
// results go, is the caller's matter.
//
// Everything is in memory and bounded: the work that waits, the jobs that are remembered,
// the time that a piece of work may take.
package jobs

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// State is how far a job has come.
type State string

// The states. A job is Queued, then Running, then one of the others for ever.
const (
	Queued    State = "queued"
	Running   State = "running"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Final says whether a job in this state is over.
func (s State) Final() bool { return s != Queued && s != Running }

// Errors of Submit.
var (
	ErrFull     = errors.New("jobs: the queue is full")
	ErrDraining = errors.New("jobs: no more jobs are taken")
)

// ErrTimeout ends work that took too long.
var ErrTimeout = errors.New("jobs: out of time")

// errAbandoned ends work whose last job was cancelled.
var errAbandoned = errors.New("jobs: cancelled")

// Progress is how far running work has come, in any unit.
type Progress struct {
	Stage       string
	Done, Total int64
}

// Work does what a job is for. It returns soon after ctx is done, and calls report from one
// goroutine at a time.
type Work[R any] func(ctx context.Context, report func(Progress)) (R, error)

// Options bound a Queue.
type Options struct {
	Workers int           // pieces of work that run at a time
	Waiting int           // pieces of work that may wait
	Time    time.Duration // that a piece of work may run
	Jobs    int           // that are remembered, running ones among them
	Keep    time.Duration // how long finished jobs are remembered
}

// Snapshot is a job at one moment.
type Snapshot[R any] struct {
	ID       string
	State    State
	Position int // pieces of work before it while Queued
	Progress Progress
	Result   R     // if Done
	Err      error // if Failed
	// Created is when the job came. Started and Ended are zero until then.
	Created, Started, Ended time.Time
}

// Queue runs jobs. It is safe for concurrent use.
type Queue[R any] struct {
	options Options

	mu      sync.Mutex
	wake    *sync.Cond // a worker or Drain has something to look at
	jobs    map[string]*Job[R]
	ended   *list.List // of *Job[R], in the order in which they ended
	flights map[string]*flight[R]
	waiting *list.List // of *flight[R]
	running int
	closed  bool    // no more jobs
	stopped bool    // no more work
	mean    float64 // seconds of work, newer ones weighing more
	workers sync.WaitGroup
}

// flight is a piece of work, and the jobs that wait for it.
type flight[R any] struct {
	key    string
	work   Work[R]
	jobs   map[*Job[R]]bool
	place  *list.Element           // in waiting, nil once it runs
	cancel context.CancelCauseFunc // once it runs
	// progress and started are told to jobs that come later.
	progress Progress
	started  time.Time
}

// Job is one request for work.
type Job[R any] struct {
	queue   *Queue[R]
	flight  *flight[R] // nil once it is over
	state   Snapshot[R]
	changed chan struct{} // closed at the next change
}

// New starts a queue's workers.
func New[R any](o Options) (*Queue[R], error) {
	if o.Workers < 1 || o.Waiting < 0 || o.Time <= 0 || o.Jobs < 1 || o.Keep < 0 {
		return nil, fmt.Errorf("jobs: %+v: expected positive bounds", o)
	}
	q := &Queue[R]{options: o, jobs: map[string]*Job[R]{}, flights: map[string]*flight[R]{}, ended: list.New(), waiting: list.New()}
	q.wake = sync.NewCond(&q.mu)
	for range o.Workers {
		q.workers.Go(q.worker)
	}
	return q, nil
}

// Submit adds a job for the work with this key, which is not called if the same work waits
// or runs already. It fails with ErrFull or ErrDraining.
func (q *Queue[R]) Submit(key string, work Work[R]) (*Job[R], error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrDraining
	}
	f, ok := q.flights[key]
	// Work that may start at once does not wait.
	if !ok && q.waiting.Len() >= q.options.Waiting+max(0, q.options.Workers-q.running) {
		return nil, ErrFull
	}
	j, err := q.add()
	if err != nil {
		return nil, err
	}
	if !ok {
		f = &flight[R]{key: key, work: work, jobs: map[*Job[R]]bool{}}
		f.place = q.waiting.PushBack(f)
		q.flights[key] = f
		q.wake.Broadcast()
	}
	f.jobs[j] = true
	j.flight = f
	j.state.Progress = f.progress
	if f.place == nil {
		j.state.State, j.state.Started = Running, f.started
	}
	return j, nil
}

// Add adds a job that is done already.
func (q *Queue[R]) Add(result R) (*Job[R], error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j, err := q.add()
	if err != nil {
		return nil, err
	}
	j.state.Result = result
	q.end(j, Done, nil)
	return j, nil
}

// add makes a job's record, if there is room or a finished one makes room.
func (q *Queue[R]) add() (*Job[R], error) {
	q.forget(time.Now())
	if len(q.jobs) >= q.options.Jobs {
		oldest := q.ended.Front()
		if oldest == nil {
			return nil, ErrFull
		}
		delete(q.jobs, q.ended.Remove(oldest).(*Job[R]).state.ID)
	}
	j := &Job[R]{queue: q, changed: make(chan struct{})}
	j.state = Snapshot[R]{ID: rand.Text(), State: Queued, Created: time.Now()}
	q.jobs[j.state.ID] = j
	return j, nil
}

// forget drops jobs that ended long ago.
func (q *Queue[R]) forget(now time.Time) {
	for e := q.ended.Front(); e != nil; e = q.ended.Front() {
		j := e.Value.(*Job[R])
		if now.Sub(j.state.Ended) <= q.options.Keep {
			return
		}
		q.ended.Remove(e)
		delete(q.jobs, j.state.ID)
	}
}

// Get finds a job that is remembered.
func (q *Queue[R]) Get(id string) (*Job[R], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forget(time.Now())
	j, ok := q.jobs[id]
	return j, ok
}

// Load is how many pieces of work wait and run.
func (q *Queue[R]) Load() (waiting, running int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.Len(), q.running
}

// Wait estimates in how long there is room for another job: the mean time of a piece of
// work, 1 s at least and 2 minutes at most.
func (q *Queue[R]) Wait() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := math.Ceil(q.mean / float64(q.options.Workers))
	return time.Duration(min(max(s, 1), 120)) * time.Second
}

// Drain takes no more jobs and waits for those that there are. When ctx is done it cancels
// the rest. It returns when no work runs any more, with ctx's error if it cancelled any.
func (q *Queue[R]) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.wake.Broadcast()
	})
	defer stop()
	q.mu.Lock()
	q.closed = true
	for len(q.flights) > 0 && ctx.Err() == nil {
		q.wake.Wait()
	}
	var err error
	for _, j := range q.jobs {
		if !j.state.State.Final() {
			err = ctx.Err()
			q.leave(j)
		}
	}
	q.stopped = true
	q.wake.Broadcast()
	q.mu.Unlock()
	q.workers.Wait()
	return err
}

// worker runs one piece of work after the other.
func (q *Queue[R]) worker() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for q.waiting.Len() == 0 && !q.stopped {
			q.wake.Wait()
		}
		if q.waiting.Len() == 0 {
			return
		}
		q.run(q.waiting.Remove(q.waiting.Front()).(*flight[R]))
	}
}

// run runs one piece of work. The lock is held but for the work itself.
func (q *Queue[R]) run(f *flight[R]) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	f.place, f.cancel, f.started = nil, cancel, time.Now()
	q.running++
	for j := range f.jobs {
		j.state.State, j.state.Started = Running, f.started
		j.notify()
	}
	for e := q.waiting.Front(); e != nil; e = e.Next() {
		for j := range e.Value.(*flight[R]).jobs {
			j.notify() // its position
		}
	}
	q.mu.Unlock()
	result, err := q.call(ctx, f)
	q.mu.Lock()
	q.running--
	// A flight that was given up has no jobs, and perhaps a successor under its key.
	if q.flights[f.key] == f {
		delete(q.flights, f.key)
	}
	if err == nil {
		const weight = 0.2
		took := time.Since(f.started).Seconds()
		if q.mean == 0 {
			q.mean = took
		}
		q.mean += weight * (took - q.mean)
	}
	for j := range f.jobs {
		j.state.Result = result
		if err != nil {
			q.end(j, Failed, err)
		} else {
			q.end(j, Done, nil)
		}
	}
	q.wake.Broadcast()
}

// call runs the work within its time. A panic is an error.
func (q *Queue[R]) call(ctx context.Context, f *flight[R]) (result R, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, q.options.Time, ErrTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("jobs: panic: %v", p)
		}
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	return f.work(ctx, func(p Progress) {
		q.mu.Lock()
		defer q.mu.Unlock()
		f.progress = p
		for j := range f.jobs {
			j.state.Progress = p
			j.notify()
		}
	})
}

// leave takes a job off its work, which ends when it was the last.
func (q *Queue[R]) leave(j *Job[R]) {
	f := j.flight
	delete(f.jobs, j)
	q.end(j, Cancelled, nil)
	if len(f.jobs) > 0 {
		return
	}
	delete(q.flights, f.key)
	if f.place != nil {
		q.waiting.Remove(f.place)
	} else {
		f.cancel(errAbandoned)
	}
	q.wake.Broadcast()
}

func (q *Queue[R]) end(j *Job[R], s State, err error) {
	j.state.State, j.state.Err, j.state.Ended, j.flight = s, err, time.Now(), nil
	q.ended.PushBack(j)
	j.notify()
}

func (j *Job[R]) notify() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Snapshot is the job as it is. changed is closed when it is no longer so.
func (j *Job[R]) Snapshot() (s Snapshot[R], changed <-chan struct{}) {
	q := j.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	s = j.state
	if f := j.flight; f != nil && f.place != nil {
		for e := q.waiting.Front(); e != f.place; e = e.Next() {
			s.Position++
		}
	}
	return s, j.changed
}

// Wait returns the job's last snapshot when it is over, or an earlier one when ctx is done.
func (j *Job[R]) Wait(ctx context.Context) Snapshot[R] {
	for {
		s, changed := j.Snapshot()
		if s.State.Final() {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s
		}
	}
}

// Cancel takes the job off its work. A job that is over stays as it is.
func (j *Job[R]) Cancel() {
	j.queue.mu.Lock()
	defer j.queue.mu.Unlock()
	if !j.state.State.Final() {
		j.queue.leave(j)
	}
}
