package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/internal/server"
	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/results"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// runner computes with the Go backend. It counts what it encodes and, while held, waits.
type runner struct {
	backend backend.Backend
	infer   *infer.Runner

	mu      sync.Mutex
	encoded int
	hold    chan struct{} // nil: nothing waits
	fault   error
}

func newRunner(t testing.TB) *runner {
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{backend: b, infer: infer.New(b)}
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *runner) Name() string   { return r.backend.Name }
func (r *runner) Device() string { return r.backend.Device }
func (r *runner) Close() error   { r.infer.Close(); return nil }

func (r *runner) Encode(ctx context.Context, p *generator.Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	r.mu.Lock()
	r.encoded++
	hold, fault := r.hold, r.fault
	r.mu.Unlock()
	if fault != nil {
		return nil, fault
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m := &p.Manifest
	return r.infer.Encode(ctx, m.Encoder.Config, p.Weights(), b.IDs, b.Mask, b.Texts, b.Length, m.Condition.Pads, report)
}

func (r *runner) Decode(ctx context.Context, p *generator.Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	return r.infer.Decode(ctx, p.Manifest.Decoder, p.Weights(), condition, batch, report)
}

// holdAll lets no adapter through until release is called.
func (r *runner) holdAll() (release func()) {
	c := make(chan struct{})
	r.mu.Lock()
	r.hold = c
	r.mu.Unlock()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		r.hold = nil
		r.mu.Unlock()
		close(c)
	})
}

func (r *runner) failWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = err
}

func (r *runner) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.encoded
}

// service is a server under test, and a client that holds every answer to openapi.json.
type service struct {
	*httptest.Server
	t       testing.TB
	server  *server.Server
	engine  *engine.Engine
	runner  *runner
	dir     string // of the results
	log     *buffer
	doc     *openapi3.T
	router  routers.Router
	headers http.Header
}

// buffer is a log that may be written to while it is read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type config struct {
	limits    server.Limits
	tokens    string
	unloaded  bool
	dir       string
	cacheSize int64
	memory    int64 // for weights
	second    bool  // a second generator
}

func start(t testing.TB, set func(*config)) *service {
	t.Helper()
	c := config{limits: server.DefaultLimits(), cacheSize: 1 << 30, memory: 1 << 30, dir: filepath.Join(t.TempDir(), "results")}
	if set != nil {
		set(&c)
	}
	packages := []*generator.Package{madeup.Open(t)}
	if c.second {
		packages = append(packages, renamed(t, packages[0]))
	}
	s := &service{t: t, runner: newRunner(t), dir: c.dir, log: &buffer{}, headers: http.Header{}}
	var err error
	s.engine, err = engine.New(engine.Options{
		Runner: s.runner, Generators: packages, Memory: c.memory, Weights: "f32", Tool: "test 1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !c.unloaded {
		if err := s.engine.Load(t.Context(), func(note string) { fmt.Fprintln(s.log, note) }); err != nil {
			t.Fatal(err)
		}
	}
	store, err := results.Open(c.dir, c.cacheSize)
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{Engine: s.engine, Store: store, Limits: c.limits, Log: slog.New(slog.NewTextHandler(s.log, nil))}
	if c.tokens != "" {
		if o.Tokens, err = server.ParseTokens([]byte(c.tokens)); err != nil {
			t.Fatal(err)
		}
	}
	if s.server, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(s.server)
	t.Cleanup(s.stop)
	s.readDocument()
	return s
}

// renamed is a copy of a generator under the name "second".
func renamed(t testing.TB, p *generator.Package) *generator.Package {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "second")
	if err := os.CopyFS(dir, os.DirFS(p.Dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, generator.ManifestName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte(`"`+p.Manifest.Name+`"`), []byte(`"second"`), 1)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := generator.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	return second
}

// stop ends the server, and its jobs.
func (s *service) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The jobs that were left are cancelled, as they should be.
	_ = s.server.Drain(ctx)
	s.Server.CloseClientConnections()
	s.Server.Close()
}

func (s *service) readDocument() {
	s.t.Helper()
	answer, err := http.Get(s.URL + "/openapi.json")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.doc, err = openapi3.NewLoader().LoadFromData(raw); err != nil {
		s.t.Fatal(err)
	}
	s.doc.Servers = openapi3.Servers{{URL: s.URL}}
	if s.router, err = legacy.NewRouter(s.doc); err != nil {
		s.t.Fatal(err)
	}
}

// reply is an answer that was read.
type reply struct {
	*http.Response
	body []byte
}

// do sends a request and holds the answer to the document; if the answer says that all went
// well, the request, too.
func (s *service) do(method, path, body string, set func(*http.Request)) reply {
	s.t.Helper()
	answer, request := s.send(s.t.Context(), method, path, body, set)
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	r := reply{answer, raw}
	s.conform(request, body, r)
	return r
}

// send sends a request; the answer's body is the caller's.
func (s *service) send(ctx context.Context, method, path, body string, set func(*http.Request)) (*http.Response, *http.Request) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range s.headers {
		request.Header[k] = v
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if set != nil {
		set(request)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer, request
}

func (s *service) conform(request *http.Request, body string, r reply) {
	s.t.Helper()
	route, params, err := s.router.FindRoute(request)
	if err != nil {
		if r.StatusCode != http.StatusNotFound && r.StatusCode != http.StatusMethodNotAllowed {
			s.t.Errorf("%s %s: status %d, and it is not in the document: %v", request.Method, request.URL.Path, r.StatusCode, err)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: request.Clone(context.Background()), PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	in.Request.Body = io.NopCloser(strings.NewReader(body))
	if r.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			s.t.Errorf("%s %s: %v", request.Method, request.URL.Path, err)
		}
	}
	in.Options.ExcludeResponseBody = !strings.Contains(r.Header.Get("Content-Type"), "json")
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: r.StatusCode, Header: r.Header, Options: in.Options}
	out.SetBodyBytes(r.body)
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		s.t.Errorf("%s %s, status %d: %v\n%s", request.Method, request.URL.Path, r.StatusCode, err, r.body)
	}
}

// view is a job's JSON, as far as tests look at it.
type view struct {
	ID       string
	State    string
	Position int
	Progress *struct {
		Stage    string
		Fraction float64
	}
	Adapter *struct {
		URL, Name string
		MediaType string `json:"media_type"`
		SHA256    string
		Bytes     int64
		Report    engine.Report
	}
	Problem *problem
}

type problem struct {
	Type, Title, Detail, Instance string
	Status                        int
}

// job decodes an answer that must be a job.
func (r reply) job(t testing.TB, status int) (v view) {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", r.StatusCode, status, r.body)
	}
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// problem decodes an answer that must be a problem, of a type without its "urn:dnd:".
func (r reply) problem(t testing.TB, status int, kind string) (p problem) {
	t.Helper()
	if err := json.Unmarshal(r.body, &p); err != nil {
		t.Fatalf("status %d, %v in %s", r.StatusCode, err, r.body)
	}
	if r.StatusCode != status || p.Status != status || p.Type != "urn:dnd:"+kind || p.Instance == "" || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("status %d, %s %s, want %d %s", r.StatusCode, r.Header.Get("Content-Type"), r.body, status, kind)
	}
	return p
}

// post makes a job of prompts.
func (s *service) post(prompts ...string) view {
	s.t.Helper()
	return s.do("POST", "/v1/jobs", body(s.t, prompts, nil), nil).job(s.t, http.StatusAccepted)
}

// wait waits for a job's last state.
func (s *service) wait(id string) view {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		v := s.do("GET", "/v1/jobs/"+id, "", nil).job(s.t, http.StatusOK)
		if v.State != "queued" && v.State != "running" {
			return v
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("job %+v does not end", v)
		}
	}
}

// until waits for something to become true.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for it in vain: %s", what)
		}
	}
}

func body(t testing.TB, prompts []string, more map[string]any) string {
	t.Helper()
	m := map[string]any{"prompts": prompts}
	for k, v := range more {
		m[k] = v
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
