package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
	"github.com/drag-and-drop-lora/dnd/internal/server/results"
)

// job is a job as clients see it.
type job struct {
	ID       string       `json:"id"`
	State    jobs.State   `json:"state"`
	Position int          `json:"position"` // adapters before it, while it is queued
	Progress *progress    `json:"progress,omitempty"`
	Created  time.Time    `json:"created"`
	Started  *time.Time   `json:"started,omitempty"`
	Ended    *time.Time   `json:"ended,omitempty"`
	Adapter  *adapterView `json:"adapter,omitempty"`
	Problem  *problem     `json:"problem,omitempty"`
}

type progress struct {
	Stage    string  `json:"stage"`
	Fraction float64 `json:"fraction"` // of the stage
}

// adapterView says where an adapter is and what it is.
type adapterView struct {
	URL string `json:"url"`
	info
}

func view(s jobs.Snapshot[made]) job {
	v := job{ID: s.ID, State: s.State, Position: s.Position, Created: s.Created.UTC(), Started: moment(s.Started), Ended: moment(s.Ended)}
	if p := s.Progress; s.State == jobs.Running && p.Total > 0 {
		v.Progress = &progress{p.Stage, float64(p.Done) / float64(p.Total)}
	}
	switch s.State {
	case jobs.Done:
		v.Adapter = &adapterView{"/v1/adapters/" + s.Result.key.String(), s.Result.info}
	case jobs.Failed:
		p := *problemOf(s.Err)
		p.Type = "urn:dnd:" + p.Type
		v.Problem = &p
	}
	return v
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// find finds the job that the path names.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (*jobs.Job[made], bool) {
	j, ok := s.queue.Get(r.PathValue("id"))
	if !ok {
		s.fail(w, r, notFound.with("no such job here: it is over for long, or another worker's; the same prompts make a new one"))
	}
	return j, ok
}

func (s *Server) getJob(w http.ResponseWriter, r *http.Request) {
	if j, ok := s.find(w, r); ok {
		snapshot, _ := j.Snapshot()
		s.send(w, r, http.StatusOK, "application/json", view(snapshot))
	}
}

func (s *Server) deleteJob(w http.ResponseWriter, r *http.Request) {
	if j, ok := s.find(w, r); ok {
		j.Cancel()
		snapshot, _ := j.Snapshot()
		s.send(w, r, http.StatusOK, "application/json", view(snapshot))
	}
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if j, ok := s.find(w, r); ok {
		s.follow(w, r, j)
	}
}

const (
	// eventTime is the least time between two events that differ in progress only.
	eventTime = 200 * time.Millisecond
	// aliveTime is after what time without an event a comment shows that the server lives.
	aliveTime = 15 * time.Second
)

// follow sends a job as events, at every change, until it is over or the client goes. An
// event is the job as it is then: one that was missed is not missed.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, j *jobs.Job[made]) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	c := http.NewResponseController(w)
	send := func(format string, args ...any) bool {
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && c.Flush() == nil
	}
	var last jobs.Snapshot[made]
	var sent time.Time
	timer := time.NewTimer(aliveTime)
	defer timer.Stop()
	for {
		snapshot, changed := j.Snapshot()
		news := snapshot.State != last.State || snapshot.Position != last.Position
		wait := aliveTime - time.Since(sent)
		switch {
		case news || snapshot.Progress != last.Progress && time.Since(sent) >= eventTime:
			text, err := json.Marshal(view(snapshot))
			if err != nil || !send("event: %s\ndata: %s\n\n", snapshot.State, text) {
				return
			}
			last, sent, wait = snapshot, time.Now(), aliveTime
		case snapshot.Progress != last.Progress:
			wait = eventTime - time.Since(sent)
		case wait <= 0:
			if !send(": alive\n\n") {
				return
			}
			sent, wait = time.Now(), aliveTime
		}
		if snapshot.State.Final() {
			return
		}
		timer.Reset(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) getAdapter(w http.ResponseWriter, r *http.Request) {
	key, err := results.ParseKey(r.PathValue("key"))
	if err != nil {
		s.fail(w, r, notFound.with("expected the URL that a finished job names"))
		return
	}
	s.serve(w, r, key)
}

// serve answers with an adapter, or the range of it that is asked for.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, key results.Key) {
	result, err := s.store.Get(key)
	if errors.Is(err, results.ErrNotFound) {
		s.fail(w, r, notFound.with("the adapter is not kept any more: the same prompts make it again"))
		return
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer result.Close()
	var i info
	if err := json.Unmarshal(result.Info, &i); err != nil {
		s.fail(w, r, fmt.Errorf("server: result %s: %w", key, err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", i.MediaType)
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": i.Name}))
	h.Set("Content-Location", "/v1/adapters/"+key.String())
	h.Set("Cache-Control", "private, no-cache")
	h.Set("ETag", `"`+i.SHA256+`"`)
	http.ServeContent(w, r, "", time.Time{}, result)
}

// generatorView is a generator as clients see it.
type generatorView struct {
	Name      string   `json:"name"`
	SHA256    string   `json:"sha256"`
	Default   bool     `json:"default"`
	BaseModel string   `json:"base_model"`
	Rank      int      `json:"rank"`
	Alpha     float64  `json:"alpha"`
	Texts     int      `json:"texts"`  // prompts that it reads
	Tokens    int      `json:"tokens"` // of a prompt that it reads
	Formats   []string `json:"formats"`
}

func (s *Server) generators(w http.ResponseWriter, r *http.Request) {
	var list struct {
		Backend    string          `json:"backend"`
		Generators []generatorView `json:"generators"`
	}
	list.Backend = s.engine.Backend()
	for i, p := range s.engine.Generators() {
		m := &p.Manifest
		list.Generators = append(list.Generators, generatorView{
			Name: m.Name, SHA256: p.SHA256, Default: i == 0, BaseModel: m.Base.Model, Rank: m.Base.Rank, Alpha: m.Base.Alpha,
			Texts: m.Condition.Texts, Tokens: m.Condition.Length, Formats: engine.Formats(),
		})
	}
	s.send(w, r, http.StatusOK, "application/json", list)
}
