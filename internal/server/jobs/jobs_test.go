package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
)

var options = jobs.Options{Workers: 2, Waiting: 3, Time: time.Minute, Jobs: 100, Keep: time.Minute}

func open(t testing.TB, o jobs.Options) *jobs.Queue[int] {
	t.Helper()
	q, err := jobs.New[int](o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		// Jobs that a test left are cancelled.
		_ = q.Drain(ctx)
	})
	return q
}

func value(n int) jobs.Work[int] {
	return func(context.Context, func(jobs.Progress)) (int, error) { return n, nil }
}

// until waits for c, or ctx.
func until(c <-chan struct{}) jobs.Work[int] {
	return func(ctx context.Context, _ func(jobs.Progress)) (int, error) {
		select {
		case <-c:
			return 1, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func state[R any](j *jobs.Job[R]) jobs.State {
	s, _ := j.Snapshot()
	return s.State
}

func TestResult(t *testing.T) {
	q := open(t, options)
	fault := errors.New("fault")
	for _, c := range []struct {
		work  jobs.Work[int]
		state jobs.State
		err   error
	}{
		{value(7), jobs.Done, nil},
		{func(context.Context, func(jobs.Progress)) (int, error) { return 0, fault }, jobs.Failed, fault},
	} {
		j, err := q.Submit("a", c.work)
		if err != nil {
			t.Fatal(err)
		}
		s := j.Wait(t.Context())
		if s.State != c.state || !errors.Is(s.Err, c.err) || s.State == jobs.Done && s.Result != 7 || s.Started.Before(s.Created) || s.Ended.Before(s.Started) {
			t.Errorf("%+v", s)
		}
		if got, ok := q.Get(s.ID); !ok || got != j {
			t.Error("it is not remembered")
		}
	}
	if j, err := q.Add(3); err != nil || state(j) != jobs.Done {
		t.Errorf("%v", err)
	}
}

// A panic fails its job and nothing else.
func TestPanic(t *testing.T) {
	q := open(t, options)
	j, err := q.Submit("a", func(context.Context, func(jobs.Progress)) (int, error) { panic("no") })
	if err != nil {
		t.Fatal(err)
	}
	if s := j.Wait(t.Context()); s.State != jobs.Failed || s.Err.Error() != "jobs: panic: no" {
		t.Errorf("%+v", s)
	}
	if j, err = q.Submit("a", value(1)); err != nil || j.Wait(t.Context()).State != jobs.Done {
		t.Errorf("after it: %v", err)
	}
}

// Progress and changes of state wake whoever follows.
func TestChanges(t *testing.T) {
	q := open(t, options)
	step := make(chan struct{})
	j, err := q.Submit("a", func(_ context.Context, report func(jobs.Progress)) (int, error) {
		for i := range 3 {
			<-step
			report(jobs.Progress{Stage: "s", Done: int64(i + 1), Total: 3})
		}
		<-step
		return 1, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		var changed <-chan struct{}
		for {
			var s jobs.Snapshot[int]
			if s, changed = j.Snapshot(); s.State == jobs.Running && s.Progress.Done == int64(i) {
				break
			}
			<-changed
		}
		step <- struct{}{}
		<-changed
	}
	if s := j.Wait(t.Context()); s.State != jobs.Done || s.Progress.Done != 3 {
		t.Errorf("%+v", s)
	}
}

// The queue holds as many as may wait beside those that run, whether they run already or
// are about to.
func TestFull(t *testing.T) {
	q := open(t, options)
	release := make(chan struct{})
	var all []*jobs.Job[int]
	for i := range options.Workers + options.Waiting {
		j, err := q.Submit(fmt.Sprint(i), until(release))
		if err != nil {
			t.Fatalf("job %d: %v", i, err)
		}
		all = append(all, j)
	}
	if _, err := q.Submit("more", value(1)); !errors.Is(err, jobs.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := q.Submit("0", value(1)); err != nil {
		t.Errorf("work that is there already: %v", err)
	}
	if w := q.Wait(); w < time.Second || w > 2*time.Minute {
		t.Errorf("wait %v", w)
	}
	last := all[len(all)-1]
	last.Cancel()
	if _, err := q.Submit("more", value(1)); err != nil {
		t.Errorf("after a cancellation: %v", err)
	}
	if state(last) != jobs.Cancelled {
		t.Errorf("%s", state(last))
	}
	close(release)
	for _, j := range all[:len(all)-1] {
		if s := j.Wait(t.Context()); s.State != jobs.Done {
			t.Errorf("%+v", s)
		}
	}
}

// Shared work ends when its last job is cancelled, not before, and can be begun again while
// the old one still ends.
func TestShare(t *testing.T) {
	q := open(t, options)
	running, ended := make(chan struct{}), make(chan error)
	work := func(ctx context.Context, _ func(jobs.Progress)) (int, error) {
		close(running)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return 0, ctx.Err()
	}
	first, err := q.Submit("a", work)
	if err != nil {
		t.Fatal(err)
	}
	<-running
	second, err := q.Submit("a", value(1))
	if err != nil {
		t.Fatal(err)
	}
	first.Cancel()
	if state(second) != jobs.Running {
		t.Errorf("the second is %s", state(second))
	}
	second.Cancel()
	again, err := q.Submit("a", value(5))
	if err != nil {
		t.Fatal(err)
	}
	if s := again.Wait(t.Context()); s.Result != 5 {
		t.Errorf("%+v", s)
	}
	if err := <-ended; err == nil {
		t.Error("no cause")
	}
	if state(first) != jobs.Cancelled || state(second) != jobs.Cancelled {
		t.Errorf("%s, %s", state(first), state(second))
	}
}

func TestTime(t *testing.T) {
	o := options
	o.Time = 10 * time.Millisecond
	q := open(t, o)
	j, err := q.Submit("a", until(nil))
	if err != nil {
		t.Fatal(err)
	}
	if s := j.Wait(t.Context()); s.State != jobs.Failed || !errors.Is(s.Err, jobs.ErrTimeout) {
		t.Errorf("%+v", s)
	}
}

// Jobs are forgotten by age and by number; those that are not over never are.
func TestForget(t *testing.T) {
	o := options
	o.Jobs, o.Keep = 3, 30*time.Millisecond
	q := open(t, o)
	defer close(func() chan struct{} {
		c := make(chan struct{})
		for i := range 2 {
			if _, err := q.Submit(fmt.Sprint("stays ", i), until(c)); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}())
	old, err := q.Add(1)
	if err != nil {
		t.Fatal(err)
	}
	id := func(j *jobs.Job[int]) string { s, _ := j.Snapshot(); return s.ID }
	newer, err := q.Add(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := q.Get(id(old)); ok {
		t.Error("the oldest is still there")
	}
	time.Sleep(2 * o.Keep)
	if _, ok := q.Get(id(newer)); ok {
		t.Error("it is still there after its time")
	}
	if _, err := q.Submit("third", until(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Add(1); !errors.Is(err, jobs.ErrFull) {
		t.Errorf("with three jobs that are not over: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []jobs.Options{{}, {Workers: 1, Jobs: 1}, {Workers: 1, Jobs: 1, Time: 1, Waiting: -1}} {
		if _, err := jobs.New[int](o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// Whatever many clients do at once, every job ends, nothing runs more often than there are
// workers, and the queue is empty then.
func TestSoak(t *testing.T) {
	q := open(t, jobs.Options{Workers: 3, Waiting: 8, Time: time.Minute, Jobs: 50, Keep: time.Minute})
	var running, done, cancelled, full atomic.Int64
	work := func(ctx context.Context, report func(jobs.Progress)) (int, error) {
		if n := running.Add(1); n > 3 {
			t.Errorf("%d run at a time", n)
		}
		defer running.Add(-1)
		report(jobs.Progress{Done: 1, Total: 2})
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Duration(rand.IntN(200)) * time.Microsecond):
			return 1, nil
		}
	}
	var wg sync.WaitGroup
	for c := range 16 {
		random := rand.New(rand.NewPCG(1, uint64(c)))
		wg.Go(func() {
			for range 300 {
				j, err := q.Submit(fmt.Sprint(random.IntN(20)), work)
				if errors.Is(err, jobs.ErrFull) {
					full.Add(1)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if random.IntN(3) == 0 {
					j.Cancel()
				}
				switch s := j.Wait(t.Context()); s.State {
				case jobs.Done:
					done.Add(1)
				case jobs.Cancelled:
					cancelled.Add(1)
				default:
					t.Errorf("%+v", s)
				}
			}
		})
	}
	wg.Wait()
	if err := q.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if waiting, n := q.Load(); waiting != 0 || n != 0 || running.Load() != 0 {
		t.Errorf("%d wait and %d run", waiting, n)
	}
	if done.Load() == 0 || cancelled.Load() == 0 || full.Load() == 0 {
		t.Errorf("%d done, %d cancelled, %d refused: the test tests too little", done.Load(), cancelled.Load(), full.Load())
	}
	if _, err := q.Submit("late", value(1)); !errors.Is(err, jobs.ErrDraining) {
		t.Errorf("after draining: %v", err)
	}
}
