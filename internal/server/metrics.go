package server

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
)

// metrics are what /metrics shows. docs/operations.md says what to watch.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec   // by route and status
	seconds     *prometheus.HistogramVec // by route
	submissions *prometheus.CounterVec   // by what became of them
	adapters    *prometheus.HistogramVec // seconds of work by outcome
	stages      *prometheus.HistogramVec // seconds by stage
}

// The label values of submissions.
const (
	submittedQueued = "queued"
	submittedCached = "cached"
	submittedFull   = "full"
)

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dndgen_http_requests_total", Help: "HTTP requests by route and status."}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dndgen_http_request_seconds", Help: "Time to the end of the answer, by route.", Buckets: seconds}, []string{"route"}),
		submissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dndgen_submissions_total", Help: "Valid requests for an adapter: queued, cached (made before) or full (turned away)."}, []string{"outcome"}),
		adapters: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dndgen_adapter_seconds", Help: "Time that an adapter took, waiting aside, by outcome: done, failed, cancelled or timeout.", Buckets: seconds}, []string{"outcome"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dndgen_stage_seconds", Help: "Time of a stage of one adapter: encode, decode, finish.", Buckets: seconds}, []string{"stage"}),
	}
	for _, outcome := range []string{submittedQueued, submittedCached, submittedFull} {
		m.submissions.WithLabelValues(outcome)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	count := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
		m.requests, m.seconds, m.submissions, m.adapters, m.stages,
		gauge("dndgen_ready", "1 when prompts are taken.", func() float64 {
			if s.unready() == nil {
				return 1
			}
			return 0
		}),
		gauge("dndgen_queue_waiting", "Adapters that wait for their turn.", func() float64 { n, _ := s.queue.Load(); return float64(n) }),
		gauge("dndgen_queue_capacity", "Adapters that may wait.", func() float64 { return float64(s.limits.Queue) }),
		gauge("dndgen_running", "Adapters that are being made.", func() float64 { _, n := s.queue.Load(); return float64(n) }),
		gauge("dndgen_results_bytes", "Size of the folder of results.", func() float64 { return float64(s.store.Stats().Bytes) }),
		count("dndgen_results_hits_total", "Results that were found in the folder.", func() int64 { return s.store.Stats().Hits }),
		count("dndgen_results_misses_total", "Results that were not.", func() int64 { return s.store.Stats().Misses }),
		count("dndgen_results_corrupt_total", "Results that did not fit their hash, and were removed.", func() int64 { return s.store.Stats().Corrupt }),
		count("dndgen_results_evicted_total", "Results that were removed to make room.", func() int64 { return s.store.Stats().Evicted }),
	)
	return m
}

// seconds are buckets from an answer out of memory to a large generator on a CPU.
var seconds = []float64{0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600}

func (m *metrics) answered(route string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) worked(ctx context.Context, took time.Duration, err error) {
	outcome := "failed"
	switch {
	case err == nil:
		outcome = "done"
	case errors.Is(context.Cause(ctx), jobs.ErrTimeout):
		outcome = "timeout"
	case ctx.Err() != nil:
		outcome = "cancelled"
	}
	m.adapters.WithLabelValues(outcome).Observe(took.Seconds())
}
