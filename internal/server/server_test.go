package server_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/server"
)

// unpack writes the archive of an adapter into a folder.
func unpack(t testing.TB, raw []byte) string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, z); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A job goes from prompts to an adapter that the library reads, in every format, and the
// second time it is done at once.
func TestJob(t *testing.T) {
	s := start(t, nil)
	base := s.engine.Generators()[0].Manifest.Base
	for _, format := range []string{lora.PEFT, lora.GGUF, lora.MLX} {
		request := body(t, []string{"what is the capital of france", "name a colour"}, map[string]any{"format": format, "seed": 7, "draw": 2})
		made := s.wait(s.do("POST", "/v1/jobs", request, nil).job(t, http.StatusAccepted).ID)
		if made.State != "done" {
			t.Fatalf("%s: %+v", format, made)
		}
		r := made.Adapter.Report
		if r.Format != format || r.Seed != 7 || r.Draw != 2 || r.Prompts != 2 || !r.Cycled || r.Rank != base.Rank || len(r.Stages) != 3 {
			t.Errorf("report %+v", r)
		}
		answer := s.do("GET", made.Adapter.URL, "", nil)
		if answer.StatusCode != 200 || int64(len(answer.body)) != made.Adapter.Bytes || answer.Header.Get("Content-Type") != made.Adapter.MediaType {
			t.Errorf("%s: status %d, %d bytes of %s, want %+v", format, answer.StatusCode, len(answer.body), answer.Header.Get("Content-Type"), made.Adapter)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(answer.body)); sum != made.Adapter.SHA256 || answer.Header.Get("ETag") != `"`+sum+`"` {
			t.Errorf("%s: SHA-256 %s, want %s", format, sum, made.Adapter.SHA256)
		}
		if format == lora.GGUF {
			path := filepath.Join(t.TempDir(), made.Adapter.Name)
			if err := os.WriteFile(path, answer.body, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := lora.ReadGGUF(path, nil); err != nil {
				t.Error(err)
			}
		} else {
			dir := unpack(t, answer.body)
			if _, err := lora.Verify(dir); err != nil {
				t.Error(err)
			}
			a, err := lora.Read(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Pairs) != len(base.Targets) || a.Base.Model != base.Model {
				t.Errorf("%d pairs for %s, want %d for %s", len(a.Pairs), a.Base.Model, len(base.Targets), base.Model)
			}
		}
		before := s.runner.count()
		again := s.do("POST", "/v1/jobs", request, nil).job(t, http.StatusAccepted)
		if again.State != "done" || again.Adapter.URL != made.Adapter.URL || s.runner.count() != before {
			t.Errorf("the second time: %+v", again)
		}
	}
}

// The adapter that is the answer itself is the same, byte for byte; ranges and entity tags
// are honoured.
func TestAdapter(t *testing.T) {
	s := start(t, nil)
	request := body(t, []string{"one", "two"}, nil)
	first := s.do("POST", "/v1/adapters", request, nil)
	if first.StatusCode != 200 {
		t.Fatalf("status %d: %s", first.StatusCode, first.body)
	}
	if _, err := lora.Verify(unpack(t, first.body)); err != nil {
		t.Error(err)
	}
	url := first.Header.Get("Content-Location")
	if again := s.do("GET", url, "", nil); !bytes.Equal(again.body, first.body) || again.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Error("fetched again, it differs")
	}
	part := s.do("GET", url, "", func(r *http.Request) { r.Header.Set("Range", "bytes=10-19") })
	if part.StatusCode != http.StatusPartialContent || !bytes.Equal(part.body, first.body[10:20]) {
		t.Errorf("range: status %d, %d bytes", part.StatusCode, len(part.body))
	}
	same := s.do("GET", url, "", func(r *http.Request) { r.Header.Set("If-None-Match", first.Header.Get("ETag")) })
	if same.StatusCode != http.StatusNotModified {
		t.Errorf("If-None-Match: status %d", same.StatusCode)
	}
	// Other prompts, another seed, another draw: other adapters at other places.
	places := map[string]bool{url: true}
	for _, r := range []string{body(t, []string{"one", "three"}, nil), body(t, []string{"one", "two"}, map[string]any{"draw": 1}), body(t, []string{"one", "two"}, map[string]any{"seed": 1})} {
		places[s.do("POST", "/v1/adapters", r, nil).Header.Get("Content-Location")] = true
	}
	if len(places) != 4 {
		t.Errorf("%d places, want 4: %v", len(places), slices.Collect(maps.Keys(places)))
	}
}

// A result that is damaged on disk is never handed out: it is removed, and made again.
func TestCorruptResult(t *testing.T) {
	s := start(t, nil)
	request := body(t, []string{"one"}, nil)
	first := s.do("POST", "/v1/adapters", request, nil)
	url := first.Header.Get("Content-Location")
	files, err := filepath.Glob(filepath.Join(s.dir, "*.result"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func([]byte) []byte{
		"a bit":       func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"the end":     func(b []byte) []byte { return b[:len(b)-1] },
		"half":        func(b []byte) []byte { return b[:len(b)/2] },
		"everything":  func(b []byte) []byte { return nil },
		"the hash":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"the magic":   func(b []byte) []byte { b[0] ^= 1; return b },
		"the length":  func(b []byte) []byte { b[10] ^= 0xff; return b },
		"the key":     func(b []byte) []byte { b[20] ^= 1; return b },
		"grown":       func(b []byte) []byte { return append(b, 0) },
		"the adapter": func(b []byte) []byte { b[len(b)-100] ^= 0x80; return b },
	}
	for name, damage := range damages {
		if err := os.WriteFile(files[0], damage(slices.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.do("GET", url, "", nil).problem(t, http.StatusNotFound, "not-found")
		before := s.runner.count()
		again := s.do("POST", "/v1/adapters", request, nil)
		if !bytes.Equal(again.body, first.body) || s.runner.count() != before+1 {
			t.Errorf("%s: %d adapters were made, status %d", name, s.runner.count()-before, again.StatusCode)
		}
	}
	if metrics := string(s.do("GET", "/metrics", "", nil).body); !strings.Contains(metrics, fmt.Sprintf("dndgen_results_corrupt_total %d\n", len(damages))) {
		t.Errorf("metrics do not count %d corrupt results", len(damages))
	}
}

// A server that is started again finds the results of the one before.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	first := start(t, func(c *config) { c.dir = dir })
	request := body(t, []string{"one"}, nil)
	made := first.do("POST", "/v1/adapters", request, nil)
	first.stop()
	second := start(t, func(c *config) { c.dir = dir })
	before := second.runner.count()
	if again := second.do("GET", made.Header.Get("Content-Location"), "", nil); !bytes.Equal(again.body, made.body) {
		t.Error("another adapter after the restart")
	}
	if again := second.do("POST", "/v1/adapters", request, nil); !bytes.Equal(again.body, made.body) || second.runner.count() != before {
		t.Error("it was made again")
	}
}

func TestGenerators(t *testing.T) {
	s := start(t, nil)
	answer := s.do("GET", "/v1/generators", "", nil)
	var list struct {
		Backend    string
		Generators []struct {
			Name, SHA256 string
			Default      bool
			BaseModel    string `json:"base_model"`
			Texts        int
		}
	}
	if err := json.Unmarshal(answer.body, &list); err != nil {
		t.Fatal(err)
	}
	p := s.engine.Generators()[0]
	if g := list.Generators; len(g) != 1 || g[0].Name != p.Manifest.Name || g[0].SHA256 != p.SHA256 || !g[0].Default || g[0].Texts != p.Manifest.Condition.Texts {
		t.Errorf("%s", answer.body)
	}
	by := s.do("POST", "/v1/jobs", body(t, []string{"one"}, map[string]any{"generator": p.Manifest.Name}), nil).job(t, http.StatusAccepted)
	if v := s.wait(by.ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
}

// Requests choose among several generators. One that does not fit into memory beside the
// others is read from its files, and says so.
func TestTwoGenerators(t *testing.T) {
	s := start(t, func(c *config) { c.second, c.memory = true, 5_000_000 })
	first := s.engine.Generators()[0]
	if bytes := first.Summary().Bytes; bytes > 5_000_000 || 2*bytes <= 5_000_000 {
		t.Fatalf("a generator of %d bytes: the test expects that one fits into 5 MB and two do not", bytes)
	}
	for _, want := range []string{first.Manifest.Name + ": ", "second: ", "are in memory", "are read from " + s.engine.Generators()[1].Dir} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q does not say %q", s.log, want)
		}
	}
	urls := map[string]bool{}
	for _, name := range []string{"", first.Manifest.Name, "second"} {
		v := s.wait(s.do("POST", "/v1/jobs", body(t, []string{"one"}, map[string]any{"generator": name}), nil).job(t, http.StatusAccepted).ID)
		if v.State != "done" {
			t.Fatalf("%q: %+v", name, v)
		}
		if want := name; want != "" && v.Adapter.Report.Generator != want {
			t.Errorf("made by %s, want %s", v.Adapter.Report.Generator, want)
		}
		urls[v.Adapter.URL] = true
	}
	if len(urls) != 2 {
		t.Errorf("%d adapters, want 2", len(urls))
	}
}

// The server is ready when its weights are loaded, and not before.
func TestReady(t *testing.T) {
	s := start(t, func(c *config) { c.unloaded = true })
	if s.do("GET", "/livez", "", nil).StatusCode != 200 {
		t.Error("not live")
	}
	p := s.do("GET", "/readyz", "", nil)
	p.problem(t, http.StatusServiceUnavailable, "not-ready")
	if p.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.do("POST", "/v1/jobs", body(t, []string{"one"}, nil), nil).problem(t, http.StatusServiceUnavailable, "not-ready")
	if err := s.engine.Load(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if s.do("GET", "/readyz", "", nil).StatusCode != 200 {
		t.Error("not ready")
	}
	if v := s.wait(s.post("one").ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
}

// Weights that do not fit their checksums never become ready.
func TestDamagedWeights(t *testing.T) {
	s := start(t, func(c *config) { c.unloaded = true })
	path := filepath.Join(s.engine.Generators()[0].Dir, "decoder.safetensors")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.engine.Load(t.Context(), func(string) {}); err == nil || !strings.Contains(err.Error(), "decoder.safetensors: SHA-256") {
		t.Errorf("loaded: %v", err)
	}
	s.do("GET", "/readyz", "", nil).problem(t, http.StatusServiceUnavailable, "not-ready")
}

// The weights are read once: the adapters after that need no file.
func TestWeightsStay(t *testing.T) {
	s := start(t, nil)
	if err := os.RemoveAll(s.engine.Generators()[0].Dir); err != nil {
		t.Fatal(err)
	}
	if v := s.wait(s.post("one").ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
}

// A device that fails, fails jobs, with no more than a problem for the client; one that
// only fails makes the server ask for a restart.
func TestBrokenDevice(t *testing.T) {
	s := start(t, nil)
	s.runner.failWith(errors.New("/secret/path: device lost"))
	for i := range 5 {
		if s.do("GET", "/livez", "", nil).StatusCode != 200 {
			t.Errorf("not live after %d failures", i)
		}
		v := s.wait(s.post(fmt.Sprint("prompt ", i)).ID)
		if v.State != "failed" || v.Problem.Type != "urn:dnd:internal" || strings.Contains(v.Problem.Detail, "secret") {
			t.Errorf("%+v, %+v", v, v.Problem)
		}
	}
	s.do("POST", "/v1/adapters", body(t, []string{"one"}, nil), nil).problem(t, http.StatusInternalServerError, "internal")
	s.do("GET", "/livez", "", nil).problem(t, http.StatusServiceUnavailable, "broken")
	if !strings.Contains(s.log.String(), "device lost") {
		t.Error("the log lacks the reason")
	}
	s.runner.failWith(nil)
	if v := s.wait(s.post("well again").ID); v.State != "done" {
		t.Errorf("%+v", v)
	}
	if s.do("GET", "/livez", "", nil).StatusCode != 200 {
		t.Error("not live when all is well again")
	}
}

// What openapi.json has, the server has, and nothing else; and all of it is under Paths.
func TestDocument(t *testing.T) {
	s := start(t, nil)
	if err := s.doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if !s.doc.IsOpenAPI31OrLater() {
		t.Errorf("OpenAPI %s", s.doc.OpenAPI)
	}
	for path, item := range s.doc.Paths.Map() {
		if !slices.ContainsFunc(server.Paths(), func(p string) bool { return p == path || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) }) {
			t.Errorf("%s is not under any of Paths", path)
		}
		at := strings.NewReplacer("{id}", "missing", "{key}", strings.Repeat("0", 64)).Replace(path)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			answer := s.do(method, at, "", nil)
			if known := item.GetOperation(method) != nil; known == (answer.StatusCode == http.StatusMethodNotAllowed) {
				t.Errorf("%s %s: status %d; in the document: %v", method, path, answer.StatusCode, known)
			}
			if item.GetOperation(method) == nil {
				answer.problem(t, http.StatusMethodNotAllowed, "method-not-allowed")
			}
		}
	}
	s.do("GET", "/v1/other", "", nil).problem(t, http.StatusNotFound, "not-found")
}

func TestMetrics(t *testing.T) {
	s := start(t, nil)
	s.wait(s.post("one").ID)
	s.post("one")
	s.do("POST", "/v1/jobs", "{", nil)
	metrics := string(s.do("GET", "/metrics", "", nil).body)
	for _, want := range []string{
		`dndgen_submissions_total{outcome="queued"} 1`, `dndgen_submissions_total{outcome="cached"} 1`, `dndgen_submissions_total{outcome="full"} 0`,
		`dndgen_http_requests_total{route="POST /v1/jobs",status="202"} 2`, `dndgen_http_requests_total{route="POST /v1/jobs",status="400"} 1`,
		`dndgen_adapter_seconds_count{outcome="done"} 1`, `dndgen_stage_seconds_count{stage="decode"} 1`, "dndgen_ready 1", "dndgen_queue_waiting 0",
		"dndgen_running 0", "dndgen_results_hits_total 1", "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(metrics, want+"\n") && !strings.Contains(metrics, "\n"+want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
