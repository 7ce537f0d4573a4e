package server

import (
	"net/http"
)

// unready is why no prompts are taken, nil if they are.
func (s *Server) unready() *problem {
	switch {
	case s.draining.Load():
		return shutting.with("another worker takes the request")
	case !s.engine.Ready():
		return notReady.with("")
	}
	return nil
}

type health struct {
	Status string `json:"status"`
}

// isReady says whether prompts are taken: the weights are loaded and checked, an adapter
// was made of them, and the server is not about to end. A full queue is no reason to be
// left out: 429 says when to come again.
func (s *Server) isReady(w http.ResponseWriter, r *http.Request) {
	if p := s.unready(); p != nil {
		s.fail(w, r, p)
		return
	}
	s.send(w, r, http.StatusOK, "application/json", health{"ready"})
}

// live says whether a restart would not help.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	if s.failures.Load() >= maxFailures {
		s.fail(w, r, broken.with("the device may be lost: start the server again"))
		return
	}
	s.send(w, r, http.StatusOK, "application/json", health{"live"})
}

// document serves the description of all this.
func (s *Server) document(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	// A client that is gone needs no answer.
	_, _ = w.Write(openAPI)
}
