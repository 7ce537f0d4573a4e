package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/jobs"
)

// problem is an error as RFC 9457 has it.
type problem struct {
	Type   string `json:"type"` // "urn:dnd:" and a word that programs can compare
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Instance is the request, as the log names it.
	Instance string `json:"instance,omitempty"`

	wait time.Duration // Retry-After, if not 0
}

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

// The problems that there are. with adds what is wrong this time.
var (
	badRequest    = problem{Type: "bad-request", Title: "The request can not be read", Status: http.StatusBadRequest}
	unauthorized  = problem{Type: "unauthorized", Title: "A token is needed", Status: http.StatusUnauthorized}
	crossOrigin   = problem{Type: "cross-origin", Title: "Pages of other sites may not ask", Status: http.StatusForbidden}
	notFound      = problem{Type: "not-found", Title: "There is no such thing", Status: http.StatusNotFound}
	wrongMethod   = problem{Type: "method-not-allowed", Title: "The method is not allowed here", Status: http.StatusMethodNotAllowed}
	bodyTimeout   = problem{Type: "request-timeout", Title: "The request came too slowly", Status: http.StatusRequestTimeout}
	tooLarge      = problem{Type: "too-large", Title: "The request is too large", Status: http.StatusRequestEntityTooLarge}
	wrongType     = problem{Type: "unsupported-media-type", Title: "The request is of another type", Status: http.StatusUnsupportedMediaType}
	unprocessable = problem{Type: "unprocessable", Title: "There is no adapter for this request", Status: http.StatusUnprocessableEntity}
	queueFull     = problem{Type: "queue-full", Title: "Too many adapters wait already", Status: http.StatusTooManyRequests}
	internalError = problem{Type: "internal", Title: "The server failed", Status: http.StatusInternalServerError}
	notReady      = problem{Type: "not-ready", Title: "The weights are not loaded yet", Status: http.StatusServiceUnavailable, wait: 5 * time.Second}
	shutting      = problem{Type: "draining", Title: "The server is about to end", Status: http.StatusServiceUnavailable, wait: time.Second}
	broken        = problem{Type: "broken", Title: "Adapter after adapter failed", Status: http.StatusServiceUnavailable}
	outOfTime     = problem{Type: "timeout", Title: "The adapter took too long", Status: http.StatusGatewayTimeout}
)

func (p problem) with(detail string) *problem {
	p.Detail = detail
	return &p
}

// problemOf is the problem that an error is. What it does not know is internal, and not
// shown: it may name files.
func problemOf(err error) *problem {
	var p *problem
	var refused *engine.RequestError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refused):
		return unprocessable.with(refused.Reason)
	case errors.Is(err, jobs.ErrDraining):
		return shutting.with("another worker takes the request")
	case errors.Is(err, engine.ErrNotReady):
		return notReady.with("")
	case errors.Is(err, jobs.ErrTimeout):
		return outOfTime.with("it was given up")
	}
	return internalError.with("the server's log has the reason")
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := *problemOf(err)
	p.Type = "urn:dnd:" + p.Type
	p.Instance = "urn:dnd:request:" + requestID(r)
	if p.Status == http.StatusInternalServerError {
		s.log.Error("request failed", "request", requestID(r), "error", err)
	}
	if p.wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(p.wait/time.Second), 10))
	}
	s.send(w, r, p.Status, "application/problem+json", p)
}

// send answers with JSON.
func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, mediaType string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		s.log.Error("request failed", "request", requestID(r), "error", err)
		status, text = http.StatusInternalServerError, nil
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(text)+1))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_, _ = w.Write(append(text, '\n'))
}

// oneOf joins names for an error.
func oneOf(names []string) string { return strings.Join(names, ", ") }
