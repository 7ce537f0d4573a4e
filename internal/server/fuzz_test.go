package server_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/internal/server"
)

// Any method, path and headers: an answer, and none that blames the server.
func FuzzRoutes(f *testing.F) {
	s := start(f, func(c *config) { c.tokens = "0123456789abcdef" })
	f.Add("GET", "/v1/generators", "Bearer 0123456789abcdef", "application/json", "")
	f.Add("DELETE", "/v1/jobs/x", "Bearer 0123456789abcdef", "", "")
	f.Add("GET", "/v1/jobs/x/events", "bearer  0123456789abcdef", "text/event-stream", "0")
	f.Add("GET", "/v1/adapters/00?a=%zz", "Basic x", "*/*;q=2", "")
	f.Add("PUT", "/../metrics", "", "", "")
	f.Fuzz(func(t *testing.T, method, target, authorization, accept, last string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || method == "" || strings.ContainsFunc(method, func(r rune) bool { return r < 'A' || r > 'Z' }) {
			return // net/http lets none of these through
		}
		r := (&http.Request{Method: method, URL: u, RequestURI: target, Host: "localhost", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Authorization": {authorization}, "Accept": {accept}, "Last-Event-Id": {last}}, Body: http.NoBody}).WithContext(t.Context())
		w := httptest.NewRecorder()
		s.server.ServeHTTP(w, r)
		answer := w.Result()
		if answer.StatusCode >= 500 || answer.StatusCode < 200 {
			t.Errorf("status %d: %s", answer.StatusCode, w.Body)
		}
		open := map[string]bool{"/livez": true, "/readyz": true, "/openapi.json": true}
		if answer.StatusCode == http.StatusOK && !open[u.Path] && !strings.HasSuffix(authorization, "0123456789abcdef") {
			t.Errorf("%s %s let in with %q", method, target, authorization)
		}
	})
}

// The file of tokens.
func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("0123456789abcdef\n# comment\n\nfedcba9876543210\n"))
	f.Add([]byte("short"))
	f.Add([]byte("0123456789abcdef\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tokens, err := server.ParseTokens(raw)
		if err == nil && tokens.String() == "0 tokens" {
			t.Fatalf("%q: no token and no error", raw)
		}
		if err != nil && len(raw) > 40 && strings.Contains(err.Error(), string(raw)) {
			t.Fatalf("the error shows them: %v", err)
		}
	})
}
