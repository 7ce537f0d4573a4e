package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
	"github.com/drag-and-drop-lora/dnd/internal/server/results"
)

// submission is the body of POST /v1/jobs and /v1/adapters.
type submission struct {
	Prompts   []string `json:"prompts"`
	Generator string   `json:"generator"`
	Format    string   `json:"format"`
	Seed      int64    `json:"seed"`
	Draw      int      `json:"draw"`
}

// submit reads a request for an adapter and makes a job of it. Cheap checks come first, and
// the queue's bound last: what was made before needs no place in it.
func (s *Server) submit(w http.ResponseWriter, r *http.Request) (*jobs.Job[made], error) {
	if p := s.unready(); p != nil {
		return nil, p
	}
	request, err := s.read(w, r)
	if err != nil {
		return nil, err
	}
	if err := s.engine.Check(&request); err != nil {
		return nil, err
	}
	sum, err := s.engine.Key(request)
	if err != nil {
		return nil, err
	}
	key := results.Key(sum)
	m, ok, err := s.known(key)
	if err != nil {
		return nil, err
	}
	if ok {
		s.metrics.submissions.WithLabelValues(submittedCached).Inc()
		return s.queue.Add(m)
	}
	j, err := s.queue.Submit(key.String(), s.work(key, request))
	if errors.Is(err, jobs.ErrFull) {
		s.metrics.submissions.WithLabelValues(submittedFull).Inc()
		p := queueFull.with("try again after the time in Retry-After")
		p.wait = s.queue.Wait()
		return nil, p
	}
	if err == nil {
		s.metrics.submissions.WithLabelValues(submittedQueued).Inc()
	}
	return j, err
}

// read reads a body within its limits of size and time.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (engine.Request, error) {
	var none engine.Request
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return none, wrongType.with("expected Content-Type: application/json")
	}
	if r.ContentLength > s.limits.Body {
		return none, tooLarge.with(fmt.Sprintf("%d bytes, expected at most %d", r.ContentLength, s.limits.Body))
	}
	// So many bodies are in memory at a time. Each has its time, so the wait ends.
	select {
	case s.bodies <- struct{}{}:
		defer func() { <-s.bodies }()
	case <-r.Context().Done():
		return none, r.Context().Err()
	}
	c := http.NewResponseController(w)
	// Only a test's recorder has no deadlines. The deadline must go, or the server would
	// take it for the end of the connection while the client waits.
	_ = c.SetReadDeadline(time.Now().Add(s.limits.BodyTime))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	body := http.MaxBytesReader(w, r.Body, s.limits.Body)
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	var in submission
	err := d.Decode(&in)
	if err == nil {
		if _, err = d.Token(); err == nil {
			err = errors.New("there is more after the object")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return none, tooLarge.with(fmt.Sprintf("more than %d bytes", s.limits.Body))
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return none, bodyTimeout.with(fmt.Sprintf("expected all of it within %v", s.limits.BodyTime))
	case err != nil:
		return none, badRequest.with("the body: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if len(in.Prompts) > s.limits.Prompts {
		return none, tooLarge.with(fmt.Sprintf("%d prompts, expected at most %d", len(in.Prompts), s.limits.Prompts))
	}
	for i, p := range in.Prompts {
		if len(p) > s.limits.Prompt {
			return none, tooLarge.with(fmt.Sprintf("prompt %d has %d bytes, expected at most %d", i, len(p), s.limits.Prompt))
		}
	}
	return engine.Request{Generator: in.Generator, Prompts: in.Prompts, Format: in.Format, Seed: in.Seed, Draw: in.Draw}, nil
}

// postJob takes prompts and answers at once, with the job; or, to a client that accepts
// text/event-stream, with its events for as long as the client stays.
func (s *Server) postJob(w http.ResponseWriter, r *http.Request) {
	j, err := s.submit(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		defer j.Cancel()
		s.follow(w, r, j)
		return
	}
	snapshot, _ := j.Snapshot()
	w.Header().Set("Location", "/v1/jobs/"+snapshot.ID)
	s.send(w, r, http.StatusAccepted, "application/json", view(snapshot))
}

// postAdapter takes prompts and answers with the adapter. It is given up if the client goes.
func (s *Server) postAdapter(w http.ResponseWriter, r *http.Request) {
	j, err := s.submit(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer j.Cancel()
	snapshot := j.Wait(r.Context())
	switch snapshot.State {
	case jobs.Done:
		s.serve(w, r, snapshot.Result.key)
	case jobs.Failed:
		s.fail(w, r, snapshot.Err)
	case jobs.Cancelled:
		s.fail(w, r, shutting.with("the adapter was not finished in time"))
	}
}
