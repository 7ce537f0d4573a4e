// Package server is the HTTP API of dndgen serve: prompts in, an adapter out, for programs.
// A request goes through the checks in this file, into the queue (package jobs), through
// the generator (package engine) and into the folder of results (package results), from
// where it is fetched. openapi.json, which it also serves, describes every answer; tests
// hold the handlers to it.
//
// A server is one worker. It keeps nothing that another could not compute again: adapters
// are named by the hash of the request, jobs live in memory and die with it. It does not
// listen, encrypt or serve the page: that is the command's and the load balancer's matter.
package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
	"github.com/drag-and-drop-lora/dnd/internal/server/results"
)

// Limits bound what clients can ask for. All must be positive.
type Limits struct {
	Body       int64         // bytes of a request
	Prompts    int           // in a request
	Prompt     int           // bytes of one prompt
	Queue      int           // adapters that wait for their turn
	Work       time.Duration // that an adapter may take, waiting aside
	BodyTime   time.Duration // that a request may take to arrive
	WriteTime  time.Duration // that a client may take to read 32 KiB
	Bodies     int           // requests that are read at a time
	Jobs       int           // that are remembered
	Remembered time.Duration // how long a job is remembered when it is over
}

// DefaultLimits suit one worker with a few dozen clients.
func DefaultLimits() Limits {
	return Limits{
		Body: 4 << 20, Prompts: 10_000, Prompt: 64 << 10, Queue: 32, Work: 10 * time.Minute,
		BodyTime: 30 * time.Second, WriteTime: 30 * time.Second, Bodies: 16, Jobs: 4096, Remembered: 15 * time.Minute,
	}
}

func (l Limits) check() error {
	if l.Body < 1 || l.Prompts < 1 || l.Prompt < 1 || l.Queue < 1 || l.Work <= 0 || l.BodyTime <= 0 || l.WriteTime <= 0 || l.Bodies < 1 || l.Jobs < 1 || l.Remembered <= 0 {
		return fmt.Errorf("server: limits %+v: expected positive numbers", l)
	}
	return nil
}

// Options say what a Server is made of.
type Options struct {
	Engine *engine.Engine // whose Load the caller calls
	Store  *results.Store
	Limits Limits
	// Tokens are the secrets of which a request must carry one. None: everybody is let in
	// who reaches the server.
	Tokens *Tokens
	Log    *slog.Logger
}

// Server is an http.Handler.
type Server struct {
	engine   *engine.Engine
	store    *results.Store
	limits   Limits
	tokens   *Tokens
	log      *slog.Logger
	queue    *jobs.Queue[made]
	metrics  *metrics
	handler  http.Handler
	bodies   chan struct{} // a place for each request that is being read
	draining atomic.Bool
	failures atomic.Int64 // pieces of work that failed since one went well
}

// made is the result of a job.
type made struct {
	key  results.Key
	info info
}

// info is kept with a result.
type info struct {
	MediaType string        `json:"media_type"`
	Name      string        `json:"name"` // of the file
	Bytes     int64         `json:"bytes"`
	SHA256    string        `json:"sha256"`
	Report    engine.Report `json:"report"`
}

// New makes a Server. Drain ends it.
func New(o Options) (*Server, error) {
	if err := o.Limits.check(); err != nil {
		return nil, err
	}
	s := &Server{engine: o.Engine, store: o.Store, limits: o.Limits, tokens: o.Tokens, log: o.Log, bodies: make(chan struct{}, o.Limits.Bodies)}
	var err error
	// One at a time: an adapter takes the whole device.
	s.queue, err = jobs.New[made](jobs.Options{
		Workers: 1, Waiting: o.Limits.Queue, Time: o.Limits.Work, Jobs: o.Limits.Jobs, Keep: o.Limits.Remembered,
	})
	if err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	s.handler = s.routes()
	return s, nil
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Drain takes no more prompts, says so on /readyz, and waits for the jobs that there are.
// When ctx is done it cancels the rest and returns ctx's error. Answers are given all the
// while.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	return s.queue.Drain(ctx)
}

// maxFailures is after how many failures in a row the server calls itself broken: a device
// that is lost fails everything.
const maxFailures = 5

// work makes an adapter, unless it was made before.
func (s *Server) work(key results.Key, r engine.Request) jobs.Work[made] {
	return func(ctx context.Context, report func(jobs.Progress)) (made, error) {
		begin := time.Now()
		m, err := s.make(ctx, key, r, func(p graph.Progress) { report(jobs.Progress(p)) })
		s.metrics.worked(ctx, time.Since(begin), err)
		switch {
		case err == nil:
			s.failures.Store(0)
		case ctx.Err() == nil:
			s.failures.Add(1)
			s.log.Error("adapter failed", "key", key.String(), "generator", r.Generator, "error", err)
		}
		return m, err
	}
}

func (s *Server) make(ctx context.Context, key results.Key, r engine.Request, report func(graph.Progress)) (made, error) {
	// It may have been made while this waited, by another process with the same folder.
	if m, ok, err := s.known(key); ok || err != nil {
		return m, err
	}
	a, err := s.engine.Generate(ctx, r, report)
	if err != nil {
		return made{}, err
	}
	for _, stage := range a.Report.Stages {
		s.metrics.stages.WithLabelValues(stage.Name).Observe(stage.Seconds)
	}
	m := made{key: key, info: info{Report: a.Report}}
	m.info.MediaType, m.info.Name = engine.FileType(r.Format)
	var size counter
	sum := sha256.New()
	if err := a.Pack(io.MultiWriter(&size, sum)); err != nil {
		return made{}, err
	}
	m.info.Bytes, m.info.SHA256 = int64(size), hex.EncodeToString(sum.Sum(nil))
	text, err := json.Marshal(m.info)
	if err != nil {
		return made{}, err
	}
	return m, s.store.Put(key, text, func(w io.Writer) error {
		if err := a.Pack(w); err != nil {
			return err
		}
		return ctx.Err()
	})
}

// known finds a result that there is.
func (s *Server) known(key results.Key) (m made, ok bool, err error) {
	r, err := s.store.Get(key)
	if errors.Is(err, results.ErrNotFound) {
		return made{}, false, nil
	}
	if err != nil {
		return made{}, false, err
	}
	defer r.Close()
	m.key = key
	if err := json.Unmarshal(r.Info, &m.info); err != nil {
		return made{}, false, fmt.Errorf("server: result %s: %w", key, err)
	}
	return m, true, nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
