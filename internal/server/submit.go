package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

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
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset, named := params["charset"]; err != nil || kind != "application/json" || named && !strings.EqualFold(charset, "utf-8") {
		return none, wrongType.with("expected Content-Type: application/json, in UTF-8")
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
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.limits.Body))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return none, tooLarge.with(fmt.Sprintf("more than %d bytes", s.limits.Body))
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return none, bodyTimeout.with(fmt.Sprintf("expected all of it within %v", s.limits.BodyTime))
	case err != nil:
		return none, badRequest.with("the body broke off")
	}
	in, err := parseSubmission(body)
	if err != nil {
		return none, badRequest.with("the body: " + err.Error())
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

// parseSubmission reads a body, and says what is wrong with it in the words of JSON. What is
// no UTF-8 would become other prompts than were sent.
func parseSubmission(body []byte) (in submission, err error) {
	if !utf8.Valid(body) {
		return in, errors.New("expected UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(&in)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			return in, errors.New("there is more after the object")
		}
		return in, nil
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return in, fmt.Errorf("is a JSON %s, expected an object", wrong.Value)
	case errors.As(err, &wrong):
		// A list's own name stands for its members, too: prompts.
		what := map[string]string{"prompts": "a list of strings", "seed": "a whole number of 64 bits", "draw": "a whole number of 32 bits"}[wrong.Field]
		if what == "" {
			what = "a string"
		}
		return in, fmt.Errorf("%s: a JSON %s, expected %s", wrong.Field, wrong.Value, what)
	}
	return in, errors.New(strings.TrimPrefix(err.Error(), "json: "))
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
