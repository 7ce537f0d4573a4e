package server_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server"
)

// What is no request is refused, by a problem that says why.
func TestBadRequests(t *testing.T) {
	s := start(t, func(c *config) { c.limits.Body, c.limits.Prompts, c.limits.Prompt = 2000, 3, 100 })
	long := strings.Repeat("a", 101)
	for _, c := range []struct {
		name, body string
		status     int
		kind, says string
	}{
		{"nothing", "", 415, "unsupported-media-type", "application/json"},
		{"half", `{"prompts": ["a"`, 400, "bad-request", "unexpected EOF"},
		{"no object", `["a"]`, 400, "bad-request", "is a JSON array, expected an object"},
		{"no list", `{"prompts": "a"}`, 400, "bad-request", "prompts: a JSON string, expected a list of strings"},
		{"unknown field", `{"prompts": ["a"], "promts": []}`, 400, "bad-request", "promts"},
		{"more after it", `{"prompts": ["a"]} {}`, 400, "bad-request", "more"},
		{"a fraction", `{"prompts": ["a"], "seed": 0.5}`, 400, "bad-request", "seed"},
		{"no prompts", `{}`, 422, "unprocessable", "no prompts"},
		{"an empty list", `{"prompts": []}`, 422, "unprocessable", "no prompts"},
		{"an empty prompt", `{"prompts": ["a", " \n"]}`, 422, "unprocessable", "prompt 1"},
		{"format", `{"prompts": ["a"], "format": "onnx"}`, 422, "unprocessable", "peft, gguf, mlx"},
		{"draw", `{"prompts": ["a"], "draw": -1}`, 422, "unprocessable", "draw -1"},
		{"generator", `{"prompts": ["a"], "generator": "other"}`, 422, "unprocessable", s.engine.Generators()[0].Manifest.Name},
		{"too many prompts", `{"prompts": ["a", "b", "c", "d"]}`, 413, "too-large", "4 prompts"},
		{"a long prompt", `{"prompts": ["a", "` + long + `"]}`, 413, "too-large", "prompt 1 has 101 bytes"},
		{"a large body", `{"prompts": ["a"]` + strings.Repeat(" ", 2000) + `}`, 413, "too-large", "2000"},
		{"no text", "\x00", 400, "bad-request", "invalid character"},
		{"no UTF-8", "{\"prompts\": [\"\xff\"]}", 400, "bad-request", "expected UTF-8"},
		{"a number", `{"prompts": [1]}`, 400, "bad-request", "prompts: a JSON number, expected a list of strings"},
		{"a name", `{"prompts": ["a"], "generator": {}}`, 400, "bad-request", "generator: a JSON object, expected a string"},
	} {
		for _, path := range []string{"/v1/jobs", "/v1/adapters"} {
			p := s.do("POST", path, c.body, nil).problem(t, c.status, c.kind)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("%s: %q does not say %q", c.name, p.Detail, c.says)
			}
		}
	}
	// A length that is not told is counted.
	answer := s.do("POST", "/v1/jobs", `{"prompts": ["a"]`+strings.Repeat(" ", 2000)+`}`, func(r *http.Request) { r.ContentLength = -1 })
	answer.problem(t, 413, "too-large")
	s.do("POST", "/v1/jobs", "a", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }).problem(t, 415, "unsupported-media-type")
	s.do("POST", "/v1/jobs", `{"prompts": ["a"]}`, func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-16") }).problem(t, 415, "unsupported-media-type")
	s.do("GET", "/v1/adapters/x", "", nil).problem(t, 404, "not-found")
	s.do("GET", "/v1/adapters/..%2f..%2fetc%2fpasswd", "", nil).problem(t, 404, "not-found")
	s.do("GET", "/v1/adapters/"+strings.Repeat("A", 64), "", nil).problem(t, 404, "not-found")
}

// A client that sends too slowly is told so, and its connection closed.
func TestSlowBody(t *testing.T) {
	s := start(t, func(c *config) { c.limits.BodyTime = 100 * time.Millisecond })
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestTimeout || !answer.Close {
		t.Errorf("status %d, close %v", answer.StatusCode, answer.Close)
	}
}

// A client may be slower to wait than to send: the time to send is not the time to wait.
func TestWaitOutlastsBodyTime(t *testing.T) {
	s := start(t, func(c *config) { c.limits.BodyTime, c.limits.WriteTime = 50*time.Millisecond, 50*time.Millisecond })
	release := s.runner.holdAll()
	time.AfterFunc(300*time.Millisecond, release)
	for range 2 { // the second on the same connection
		if answer := s.do("POST", "/v1/adapters", body(t, []string{"one"}, nil), nil); answer.StatusCode != 200 {
			t.Errorf("status %d: %s", answer.StatusCode, answer.body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Jobs that are over are forgotten, the oldest first, so that their number stays bounded.
func TestJobsAreForgotten(t *testing.T) {
	s := start(t, func(c *config) { c.limits.Jobs = 3 })
	var ids []string
	for range 5 {
		v := s.post("one")
		s.wait(v.ID)
		ids = append(ids, v.ID)
	}
	for i, id := range ids {
		if status := s.do("GET", "/v1/jobs/"+id, "", nil).StatusCode; (status == 200) != (i >= 2) {
			t.Errorf("job %d: status %d", i, status)
		}
	}
}

// Results are evicted, those first that nobody asked for the longest, so that the folder
// stays within its bound.
func TestResultsAreEvicted(t *testing.T) {
	one := start(t, nil)
	size := one.wait(one.post("one").ID).Adapter.Bytes
	s := start(t, func(c *config) { c.cacheSize = 3*size + size/2 })
	var urls []string
	for i := range 4 {
		if i == 3 { // the first is asked for
			time.Sleep(20 * time.Millisecond)
			s.do("GET", urls[0], "", nil)
			time.Sleep(20 * time.Millisecond)
		}
		urls = append(urls, s.wait(s.post(fmt.Sprint("task ", i)).ID).Adapter.URL)
		time.Sleep(20 * time.Millisecond)
	}
	for i, url := range urls {
		if status := s.do("GET", url, "", nil).StatusCode; (status == 200) != (i != 1) {
			t.Errorf("result %d: status %d", i, status)
		}
	}
}

func TestTokens(t *testing.T) {
	const secret, other = "0123456789abcdef-first", "0123456789abcdef-other"
	s := start(t, func(c *config) { c.tokens = "# two\n" + secret + "\n\n" + other + "\n" })
	request := body(t, []string{"one"}, nil)
	for _, header := range []string{"", secret, "Bearer", "Bearer ", "Bearer wrong", "Bearer " + secret[:len(secret)-1], "Bearer " + secret + "x", "Basic " + secret} {
		with := func(r *http.Request) {
			if header != "" {
				r.Header.Set("Authorization", header)
			}
		}
		for _, path := range []string{"/v1/generators", "/v1/jobs/x", "/v1/jobs/x/events", "/v1/adapters/" + strings.Repeat("0", 64), "/metrics"} {
			answer := s.do("GET", path, "", with)
			answer.problem(t, http.StatusUnauthorized, "unauthorized")
			if answer.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: no WWW-Authenticate", path)
			}
		}
		for _, path := range []string{"/v1/jobs", "/v1/adapters"} {
			s.do("POST", path, request, with).problem(t, http.StatusUnauthorized, "unauthorized")
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/openapi.json"} {
		if status := s.do("GET", path, "", nil).StatusCode; status != 200 {
			t.Errorf("%s without a token: status %d", path, status)
		}
	}
	for _, token := range []string{secret, other} {
		s.headers.Set("Authorization", "Bearer "+token)
		if v := s.wait(s.do("POST", "/v1/jobs", request, nil).job(t, http.StatusAccepted).ID); v.State != "done" {
			t.Errorf("%+v", v)
		}
	}
	for _, hidden := range []string{secret, other, "wrong", "one"} {
		if strings.Contains(s.log.String(), hidden) {
			t.Errorf("the log shows %q", hidden)
		}
	}
}

func TestParseTokens(t *testing.T) {
	for text, says := range map[string]string{
		"": "no token", "# none\n": "no token", "short": "line 1", "# one\n0123456789 abcdef": "line 2", "0123456789abcdef\nümlaut-ümlaut-ümlaut": "line 2",
		strings.Repeat("0123456789abcdef\n", 1001): "1000", strings.Repeat("a", 70_000): "token too long",
	} {
		if _, err := server.ParseTokens([]byte(text)); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "abcdef") {
			t.Errorf("%.20q: %v, want %q", text, err, says)
		}
	}
	tokens, err := server.ParseTokens([]byte("0123456789abcdef\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(tokens) + fmt.Sprintf("%v", tokens); strings.Contains(text, "0123456789abcdef") {
		t.Errorf("tokens print themselves: %s", text)
	}
}

// A page of another site cannot send prompts through a browser on this machine.
func TestCrossOrigin(t *testing.T) {
	s := start(t, nil)
	for _, header := range [][2]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}} {
		answer := s.do("POST", "/v1/jobs", body(t, []string{"one"}, nil), func(r *http.Request) { r.Header.Set(header[0], header[1]) })
		answer.problem(t, http.StatusForbidden, "cross-origin")
		if answer.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Error("another site may read answers")
		}
	}
}

// After many requests of all kinds no goroutine is left.
func TestNoLeaks(t *testing.T) {
	s := start(t, nil)
	round := func() {
		for i := range 20 {
			s.wait(s.post(fmt.Sprint("task ", i%3)).ID)
			s.do("POST", "/v1/jobs", "{", nil)
		}
		release := s.runner.holdAll()
		for i := range 10 {
			v := s.post(fmt.Sprint("cancelled ", i))
			s.do("DELETE", "/v1/jobs/"+v.ID, "", nil)
		}
		release()
		http.DefaultClient.CloseIdleConnections()
	}
	round()
	time.Sleep(50 * time.Millisecond)
	before := runtime.NumGoroutine()
	for range 3 {
		round()
	}
	until(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// FuzzSubmit sends any bytes as a request: the answer is a job or a problem, never a
// failure of the server.
func FuzzSubmit(f *testing.F) {
	s := start(f, func(c *config) { c.limits.Work = 5 * time.Second })
	f.Add([]byte(`{"prompts": ["what is one"], "seed": 1, "draw": 2, "format": "gguf"}`), "application/json")
	f.Add([]byte(`{"prompts": ["a", 1]}`), "application/json; charset=utf-8")
	f.Add([]byte("{\"prompts\": [\"\xff\xfe\"]}"), "application/json")
	f.Add([]byte(`{"prompts": null, "seed": 1e400}`), "application/json")
	f.Add([]byte{}, "text/plain;;")
	f.Fuzz(func(t *testing.T, raw []byte, kind string) {
		r := httptest.NewRequest("POST", "/v1/jobs", strings.NewReader(string(raw)))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		s.server.ServeHTTP(w, r)
		answer := w.Result()
		if answer.StatusCode >= 500 || answer.StatusCode < 200 {
			t.Errorf("status %d: %s", answer.StatusCode, w.Body)
		}
	})
}
