package server

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed openapi.json
var openAPI []byte

// Paths are the patterns of all that a Server answers, for whoever serves more beside it.
func Paths() []string { return []string{"/v1/", "/livez", "/readyz", "/metrics", "/openapi.json"} }

// route is one operation.
type route struct {
	method, path string
	open         bool // no token is asked for
	handle       http.HandlerFunc
}

func (s *Server) routes() http.Handler {
	routes := []route{
		{"GET", "/v1/generators", false, s.generators},
		{"POST", "/v1/jobs", false, s.postJob},
		{"GET", "/v1/jobs/{id}", false, s.getJob},
		{"DELETE", "/v1/jobs/{id}", false, s.deleteJob},
		{"GET", "/v1/jobs/{id}/events", false, s.events},
		{"POST", "/v1/adapters", false, s.postAdapter},
		{"GET", "/v1/adapters/{key}", false, s.getAdapter},
		{"GET", "/metrics", false, promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP},
		{"GET", "/livez", true, s.live},
		{"GET", "/readyz", true, s.isReady},
		{"GET", "/openapi.json", true, s.document},
	}
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+r.path, s.guarded(r))
		methods[r.path] = append(methods[r.path], r.method)
		if r.method == "GET" {
			methods[r.path] = append(methods[r.path], "HEAD")
		}
	}
	for path, allowed := range methods {
		slices.Sort(allowed)
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", oneOf(allowed))
			s.fail(w, r, wrongMethod.with("expected "+oneOf(allowed)))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, notFound.with("/openapi.json lists what there is"))
	})
	return s.outer(mux)
}

// guarded lets in who may come in.
func (s *Server) guarded(r route) http.HandlerFunc {
	// Where no token is asked for, any page in a browser on this machine could send prompts.
	sites := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, req *http.Request) {
		if !r.open {
			if err := sites.Check(req); err != nil {
				s.fail(w, req, crossOrigin.with(err.Error()))
				return
			}
			if s.tokens != nil && !s.tokens.admit(req) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="dndgen"`)
				s.fail(w, req, unauthorized.with("send Authorization: Bearer and the token"))
				return
			}
		}
		r.handle(w, req)
	}
}

type requestKey struct{}

// requestID is the name of a request in the log.
func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestKey{}).(string)
	return id
}

// outer names, logs and counts every request, and answers for handlers that panic. The log
// has no headers, queries or bodies: there are tokens and prompts in them.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		id := rand.Text()
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		out := &response{ResponseWriter: w, time: s.limits.WriteTime}
		out.hurry()
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.log.Error("panic", "request", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
			begun := out.status != 0
			if p != nil && !begun {
				s.fail(out, r, errors.New("panic"))
			}
			// ServeMux has set the pattern by now; a path itself could be anything.
			s.metrics.answered(r.Pattern, out.status, time.Since(begin))
			s.log.Info("request", "request", id, "method", r.Method, "route", r.Pattern, "status", out.status, "bytes", out.bytes, "seconds", time.Since(begin).Seconds())
			if p != nil && begun {
				panic(http.ErrAbortHandler) // the client must not take the rest for the whole
			}
		}()
		next.ServeHTTP(out, r)
	})
}

// response notes what was answered. The client has so much time for each piece of it.
type response struct {
	http.ResponseWriter
	time   time.Duration
	status int
	bytes  int64
}

// hurry begins the time for the next piece.
func (r *response) hurry() {
	// Only a test's recorder has no deadlines.
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(r.time))
}

func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.hurry()
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.hurry()
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
