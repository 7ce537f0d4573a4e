package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// event is one server-sent event.
type event struct {
	name string
	job  view
}

// readEvent reads the next event; ok is false at the end.
func readEvent(t testing.TB, s *service, r *bufio.Scanner) (e event, ok bool) {
	t.Helper()
	for r.Scan() {
		line := r.Text()
		if name, found := strings.CutPrefix(line, "event: "); found {
			e.name = name
		} else if data, found := strings.CutPrefix(line, "data: "); found {
			var loose any
			if err := errors.Join(json.Unmarshal([]byte(data), &loose), json.Unmarshal([]byte(data), &e.job)); err != nil {
				t.Fatal(err)
			}
			if err := s.doc.Components.Schemas["Job"].Value.VisitJSON(loose); err != nil {
				t.Error(err)
			}
		} else if line == "" && e.name != "" {
			return e, true
		}
	}
	return e, false
}

// A job's events tell its states in their order, its progress between them, and end.
func TestEvents(t *testing.T) {
	s := start(t, nil)
	release := s.runner.holdAll()
	defer release()
	first, second := s.post("one"), s.post("two")
	answer, _ := s.send(t.Context(), "GET", "/v1/jobs/"+second.ID+"/events", "", nil)
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("status %d, %s", answer.StatusCode, answer.Header.Get("Content-Type"))
	}
	scanner := bufio.NewScanner(answer.Body)
	e, _ := readEvent(t, s, scanner)
	if e.name != "queued" || e.job.ID != second.ID {
		t.Errorf("first event %+v", e)
	}
	release()
	states := []string{e.name}
	for {
		e, ok := readEvent(t, s, scanner)
		if !ok {
			break
		}
		if e.name != e.job.State {
			t.Errorf("event %s of a job that is %s", e.name, e.job.State)
		}
		states = append(states, e.name)
		if e.name == "done" && e.job.Adapter.URL == "" {
			t.Errorf("no adapter: %+v", e.job)
		}
	}
	if states = slices.Compact(states); !slices.Equal(states, []string{"queued", "running", "done"}) {
		t.Errorf("states %q", states)
	}
	if v := s.wait(first.ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
	// The events of a job that is over are its last one.
	over, _ := s.send(t.Context(), "GET", "/v1/jobs/"+first.ID+"/events", "", nil)
	defer over.Body.Close()
	scanner = bufio.NewScanner(over.Body)
	if e, _ := readEvent(t, s, scanner); e.name != "done" {
		t.Errorf("%+v", e)
	}
	if e, ok := readEvent(t, s, scanner); ok {
		t.Errorf("more after done: %+v", e)
	}
}

// Beyond the queue's bound the answer is 429 with a time, which turns nothing else away:
// not what is made already, not what others wait for.
func TestQueueFull(t *testing.T) {
	s := start(t, func(c *config) { c.limits.Queue = 2 })
	made := s.do("POST", "/v1/adapters", body(t, []string{"made before"}, nil), nil)
	release := s.runner.holdAll()
	defer release()
	running := s.post("running")
	until(t, "it runs", func() bool {
		return s.do("GET", "/v1/jobs/"+running.ID, "", nil).job(t, 200).State == "running"
	})
	waiting := []view{s.post("waits"), s.post("waits, too")}
	if waiting[1].Position != 1 {
		t.Errorf("position %d, want 1", waiting[1].Position)
	}
	for _, path := range []string{"/v1/jobs", "/v1/adapters"} {
		full := s.do("POST", path, body(t, []string{"one too many"}, nil), nil)
		full.problem(t, http.StatusTooManyRequests, "queue-full")
		if n, err := strconv.Atoi(full.Header.Get("Retry-After")); err != nil || n < 1 || n > 120 {
			t.Errorf("Retry-After %q", full.Header.Get("Retry-After"))
		}
	}
	if again := s.do("POST", "/v1/adapters", body(t, []string{"made before"}, nil), nil); again.Header.Get("ETag") != made.Header.Get("ETag") {
		t.Errorf("made before: status %d", again.StatusCode)
	}
	shared := s.post("waits")
	if shared.ID == waiting[0].ID || shared.State != "queued" {
		t.Errorf("%+v", shared)
	}
	// A place that becomes free is taken.
	s.do("DELETE", "/v1/jobs/"+waiting[1].ID, "", nil).job(t, 200)
	late := s.post("late")
	release()
	before := s.runner.count()
	for _, id := range []string{running.ID, waiting[0].ID, shared.ID, late.ID} {
		if v := s.wait(id); v.State != "done" {
			t.Errorf("%+v", v)
		}
	}
	if n := s.runner.count() - before; n > 2 {
		t.Errorf("%d more adapters were made, want 2: equal jobs share one", n)
	}
}

// DELETE ends a job, whether it waits or runs; its worker does the next one. A job that is
// over stays so.
func TestCancel(t *testing.T) {
	s := start(t, nil)
	release := s.runner.holdAll()
	defer release()
	running, waiting, third := s.post("one"), s.post("two"), s.post("three")
	until(t, "it runs", func() bool { return s.runner.count() > 1 })
	for _, v := range []view{waiting, running} {
		if got := s.do("DELETE", "/v1/jobs/"+v.ID, "", nil).job(t, 200); got.State != "cancelled" {
			t.Errorf("%+v", got)
		}
	}
	until(t, "the third runs", func() bool { return s.do("GET", "/v1/jobs/"+third.ID, "", nil).job(t, 200).State == "running" })
	release()
	if v := s.wait(third.ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
	if v := s.do("DELETE", "/v1/jobs/"+third.ID, "", nil).job(t, 200); v.State != "done" {
		t.Errorf("%+v", v)
	}
	s.do("DELETE", "/v1/jobs/none", "", nil).problem(t, http.StatusNotFound, "not-found")
}

// A client that goes takes its adapter with it, if it waited for that or for its events;
// another's job for the same adapter goes on.
func TestDisconnect(t *testing.T) {
	s := start(t, nil)
	release := s.runner.holdAll()
	defer release()
	running := func() string {
		for line := range strings.Lines(string(s.do("GET", "/metrics", "", nil).body)) {
			if n, ok := strings.CutPrefix(line, "dndgen_running "); ok {
				return strings.TrimSpace(n)
			}
		}
		return ""
	}
	for _, accept := range []string{"", "text/event-stream"} {
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		path := "/v1/adapters"
		if accept != "" {
			path = "/v1/jobs"
		}
		before := s.runner.count()
		wg.Go(func() {
			request, err := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader(body(t, []string{"leaves " + accept}, nil)))
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Accept", accept)
			if answer, err := http.DefaultClient.Do(request); err == nil {
				defer answer.Body.Close()
				<-ctx.Done()
			}
		})
		until(t, "it runs", func() bool { return s.runner.count() > before })
		leave()
		wg.Wait()
		until(t, "nothing runs", func() bool { return running() == "0" })
	}
	if metrics := string(s.do("GET", "/metrics", "", nil).body); !strings.Contains(metrics, `dndgen_adapter_seconds_count{outcome="cancelled"} 2`) {
		t.Error("two adapters should be cancelled")
	}
	stays := s.post("shared")
	ctx, leave := context.WithCancel(t.Context())
	answer, _ := s.send(ctx, "POST", "/v1/jobs", body(t, []string{"shared"}, nil), func(r *http.Request) { r.Header.Set("Accept", "text/event-stream") })
	readEvent(t, s, bufio.NewScanner(answer.Body))
	leave()
	answer.Body.Close()
	// Following a job does not own it.
	ctx, leave = context.WithCancel(t.Context())
	answer, _ = s.send(ctx, "GET", "/v1/jobs/"+stays.ID+"/events", "", nil)
	readEvent(t, s, bufio.NewScanner(answer.Body))
	leave()
	answer.Body.Close()
	release()
	if v := s.wait(stays.ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
}

// An adapter that takes too long is given up.
func TestTimeout(t *testing.T) {
	s := start(t, func(c *config) { c.limits.Work = 200 * time.Millisecond })
	release := s.runner.holdAll()
	defer release()
	if v := s.wait(s.post("slow").ID); v.State != "failed" || v.Problem.Type != "urn:dnd:timeout" {
		t.Errorf("%+v", v)
	}
	s.do("POST", "/v1/adapters", body(t, []string{"slow"}, nil), nil).problem(t, http.StatusGatewayTimeout, "timeout")
}

// A server that drains takes nothing new, is not ready, finishes what it has, and answers.
func TestDrain(t *testing.T) {
	s := start(t, nil)
	release := s.runner.holdAll()
	defer release()
	jobs := []view{s.post("one"), s.post("two")}
	drained := make(chan error, 1)
	go func() { drained <- s.server.Drain(context.Background()) }()
	until(t, "it drains", func() bool { return s.do("GET", "/readyz", "", nil).StatusCode == 503 })
	s.do("POST", "/v1/jobs", body(t, []string{"three"}, nil), nil).problem(t, http.StatusServiceUnavailable, "draining")
	if s.do("GET", "/livez", "", nil).StatusCode != 200 {
		t.Error("not live")
	}
	select {
	case err := <-drained:
		t.Fatalf("drained while two jobs wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	for _, j := range jobs {
		v := s.do("GET", "/v1/jobs/"+j.ID, "", nil).job(t, 200)
		if v.State != "done" || s.do("GET", v.Adapter.URL, "", nil).StatusCode != 200 {
			t.Errorf("%+v", v)
		}
	}
}

// When the time to drain is over, what is left is cancelled.
func TestDrainTimeout(t *testing.T) {
	s := start(t, nil)
	defer s.runner.holdAll()()
	j := s.post("one")
	until(t, "it runs", func() bool { return s.runner.count() > 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.server.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained: %v", err)
	}
	if v := s.do("GET", "/v1/jobs/"+j.ID, "", nil).job(t, 200); v.State != "cancelled" {
		t.Errorf("%+v", v)
	}
}

// Many clients with few tasks: each adapter is made once, and all get the same bytes.
func TestManyClients(t *testing.T) {
	s := start(t, nil)
	before := s.runner.count()
	var mu sync.Mutex
	tags := map[string]map[string]bool{}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			task := fmt.Sprint("task ", i%4)
			answer, err := http.Post(s.URL+"/v1/adapters", "application/json", strings.NewReader(body(t, []string{task}, nil)))
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if tags[task] == nil {
				tags[task] = map[string]bool{}
			}
			tags[task][answer.Header.Get("ETag")] = true
			if answer.StatusCode != 200 {
				t.Errorf("status %d", answer.StatusCode)
			}
		})
	}
	wg.Wait()
	if n := s.runner.count() - before; n != 4 {
		t.Errorf("%d adapters were made, want 4", n)
	}
	for task, t2 := range tags {
		if len(t2) != 1 {
			t.Errorf("%s: entity tags %v", task, t2)
		}
	}
}
