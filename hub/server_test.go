package hub_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// commitA and commitB are what main is before and after it has moved.
const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	weights = "decoder.safetensors"
)

// made is a package that all tests share: its files by path.
var made = sync.OnceValues(func() (map[string]string, error) {
	dir, err := os.MkdirTemp("", "hub-test-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	dir = filepath.Join(dir, "generator")
	if err := madeup.Write(context.Background(), dir); err != nil {
		return nil, err
	}
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(rel)] = string(raw)
		return err
	})
	return files, err
})

func files(t testing.TB) map[string]string {
	t.Helper()
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return maps.Clone(f)
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// server speaks the part of the Hub's API that is used, for the repository org/gen. The
// files of a commit are also served as plain ones under /files/COMMIT/.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	main     string                       // commit
	commits  map[string]map[string]string // files by path
	requests []string                     // method, path and range
	tokens   []string                     // Authorization of each
	listing  string                       // in place of the usual one
	// before handles a request, and tells whether the usual answer is not wanted.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB) *server {
	t.Helper()
	s := &server{main: commitA, commits: map[string]map[string]string{commitA: files(t)}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
	s.tokens = append(s.tokens, r.Header.Get("Authorization"))
	before, main, listing := s.before, s.main, s.listing
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if r.URL.Path == "/api/models/org/gen/revision/main" {
		if listing == "" {
			listing = fmt.Sprintf(`{"id": "org/gen", "sha": %q, "siblings": [{"rfilename": "generator.json"}], "gated": false, "cardData": {"license": ["mit"]}}`, main)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, listing)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/org/gen/resolve/")
	if !ok {
		rest, ok = strings.CutPrefix(r.URL.Path, "/files/")
	}
	commit, path, _ := strings.Cut(rest, "/")
	text, found := s.commits[commit][path]
	if !ok || !found {
		w.Header().Set("X-Error-Message", "Entry not found")
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
}

// on lets before see all requests from now on, also those of other processes.
func (s *server) on(before func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

// asked counts requests for a path.
func (s *server) asked(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// cache is an empty cache for which the server is the hub.
func cache(t testing.TB, s *server) (*hub.Cache, string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HF_HOME", filepath.Join(home, "huggingface"))
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HF_TOKEN_PATH", "")
	t.Setenv("HF_HUB_OFFLINE", "")
	t.Setenv("HF_ENDPOINT", s.URL)
	dir := filepath.Join(home, "cache")
	return reopen(t, dir), dir
}

// reopen reads the environment again.
func reopen(t testing.TB, dir string) *hub.Cache {
	t.Helper()
	c, err := hub.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Hurry(time.Millisecond, 20*time.Second)
	return c
}

// whole checks that an entry is the package of a commit.
func whole(t testing.TB, e hub.Entry, want map[string]string) {
	t.Helper()
	if e.SHA256 != sumOf(want[generator.ManifestName]) {
		t.Errorf("SHA-256 %s, want %s", e.SHA256, sumOf(want[generator.ManifestName]))
	}
	for path, text := range want {
		got, err := os.ReadFile(filepath.Join(e.Dir, filepath.FromSlash(path)))
		if err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v, want %d", path, len(got), err, len(text))
		}
	}
	if _, err := generator.Verify(t.Context(), e.Dir, nil); err != nil {
		t.Error(err)
	}
}

// fails checks an error: one line that has all of words in it.
func fails(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q, want %q in it", err, word)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error of several lines: %q", err)
	}
}

// nothing checks that no package and no source is in a cache.
func nothing(t testing.TB, dir string) {
	t.Helper()
	for _, sub := range []string{"packages", "refs"} {
		if list, _ := os.ReadDir(filepath.Join(dir, sub)); len(list) > 0 {
			t.Errorf("%s holds %v", sub, list)
		}
	}
}
