package hub_test

import (
	"encoding/json"
	"fmt"
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
)

func TestParse(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("here/gen", 0o755); err != nil {
		t.Fatal(err)
	}
	pin := "#sha256=" + strings.Repeat("0a", 32)
	for _, c := range []struct{ name, kind, shown string }{
		{"org/gen", "hub", "org/gen"},
		{"org/gen@v1.0", "hub", "org/gen@v1.0"},
		{"org/gen@refs/pr/1", "hub", "org/gen@refs/pr/1"},
		{"hf://org/gen", "hub", "org/gen"},
		{"hf://here/gen@" + commitA, "hub", "here/gen@" + commitA},
		{"org/gen" + pin, "hub", "org/gen"},
		{"here/gen", "folder", "here/gen"},
		{"gen", "folder", "gen"},
		{"./org/gen", "folder", "./org/gen"},
		{"../gen", "folder", "../gen"},
		{"/org/gen", "folder", "/org/gen"},
		{"a/b/c", "folder", "a/b/c"},
		{"org/gen@../../x", "folder", "org/gen@../../x"},
		{"https://example.org/gen/", "url", "https://example.org/gen/"},
		{"https://example.org/gen/generator.json?key=secret", "url", "https://example.org/gen"},
		{"http://localhost:1/gen", "url", "http://localhost:1/gen"},
		{"http://example.org/gen" + pin, "url", "http://example.org/gen"},
	} {
		kind, shown, err := hub.Parse(c.name)
		if err != nil || kind != c.kind || shown != c.shown {
			t.Errorf("%s: %s %q, %v, want %s %q", c.name, kind, shown, err, c.kind, c.shown)
		}
	}
	for name, word := range map[string]string{
		"http://example.org/gen":                "https",
		"ftp://example.org/gen":                 "https://",
		"https://me:secret@example.org/gen":     "without a user",
		"https:///gen":                          "host",
		"hf://gen":                              "hf://org/name",
		"hf://a/b/c":                            "hf://org/name",
		"org/gen#sha256=12":                     "64 hex digits",
		"org/gen#md5=" + strings.Repeat("a", 9): "#sha256=",
		"https://[::1":                          "not a URL",
		"":                                      "expected a folder",
		"#sha256=" + strings.Repeat("0a", 32):   "expected a folder",
	} {
		_, _, err := hub.Parse(name)
		fails(t, err, word)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"org/gen@main", "hf://a/b", "https://h/p?q#sha256=", "http://[::1]:1/%zz", "a#b", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		kind, shown, err := hub.Parse(name)
		if err == nil && kind == "hub" && (strings.Contains(shown, "..") || strings.Count(strings.SplitN(shown, "@", 2)[0], "/") != 1) {
			t.Errorf("%q is the repository %q", name, shown)
		}
	})
}

func TestFetch(t *testing.T) {
	s := serve(t)
	c, dir := cache(t, s)
	var most int64
	c.Progress = func(done, total int64) {
		if done < most || done > total {
			t.Errorf("progress %d of %d after %d", done, total, most)
		}
		most = done
	}
	e, err := c.Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if e.Source != "org/gen" || e.Commit != commitA || most == 0 {
		t.Errorf("entry %+v, progress %d", e, most)
	}
	// From now on it is pinned, and the network is not needed.
	asked := len(s.requests)
	s.main = commitB
	s.commits[commitB] = renamed(t, "moved")
	most = 0
	again, err := c.Get(t.Context(), "org/gen")
	if err != nil || again.Dir != e.Dir || len(s.requests) != asked {
		t.Errorf("the second time %+v, %v, %d requests", again, err, len(s.requests)-asked)
	}
	// Pull looks again; the two packages share nothing but the source's name.
	moved, err := c.Pull(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, moved, s.commits[commitB])
	if again, err = c.Get(t.Context(), "org/gen"); err != nil || again.Commit != commitB {
		t.Errorf("after pull %+v, %v", again, err)
	}
	// A commit asks for no listing.
	listings := s.asked("/api/")
	old, err := c.Get(t.Context(), "org/gen@"+commitA)
	if err != nil || old.Dir != e.Dir || s.asked("/api/") != listings {
		t.Errorf("pinned commit: %+v, %v", old, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) > 0 {
		t.Errorf("partial holds %v", left)
	}
}

// renamed is the package under another name, which makes it another package.
func renamed(t testing.TB, name string) map[string]string {
	t.Helper()
	return edited(t, func(m *generator.Manifest) { m.Name = name })
}

// edited is the package with another manifest.
func edited(t testing.TB, change func(m *generator.Manifest)) map[string]string {
	t.Helper()
	f := files(t)
	m, err := generator.ParseManifest([]byte(f[generator.ManifestName]))
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	f[generator.ManifestName] = string(raw)
	return f
}

func TestURL(t *testing.T) {
	s := serve(t)
	c, _ := cache(t, s)
	t.Setenv("HF_TOKEN", "hf_secret")
	base := s.URL + "/files/" + commitA
	sum := sumOf(s.commits[commitA][generator.ManifestName])
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("key") != "secret" {
			t.Errorf("%s without the query", r.URL)
		}
		return false
	}
	e, err := c.Get(t.Context(), base+"/generator.json?key=secret#sha256="+sum)
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if e.Source != base {
		t.Errorf("source %q", e.Source)
	}
	for _, token := range s.tokens {
		if strings.Contains(token, "hf_secret") {
			t.Error("a URL of no hub got the hub's token")
		}
	}
	// The pin is enough to find it, wherever it is said to be.
	s.Close()
	if e, err = c.Get(t.Context(), "org/elsewhere#sha256="+sum); err != nil || e.SHA256 != sum {
		t.Errorf("by pin: %+v, %v", e, err)
	}
}

func TestWrongPin(t *testing.T) {
	s := serve(t)
	c, dir := cache(t, s)
	_, err := c.Get(t.Context(), "org/gen#sha256="+strings.Repeat("0", 64))
	fails(t, err, "org/gen", "SHA-256", sumOf(s.commits[commitA][generator.ManifestName]))
	nothing(t, dir)
	folder := filepath.Join(t.TempDir(), "gen")
	for path, text := range s.commits[commitA] {
		put(t, filepath.Join(folder, path), text)
	}
	_, err = c.Get(t.Context(), folder+"#sha256="+strings.Repeat("0", 64))
	fails(t, err, folder, "SHA-256")
	if e, err := c.Get(t.Context(), folder); err != nil || e.Dir != folder {
		t.Errorf("%+v, %v", e, err)
	}
	_, err = c.Pull(t.Context(), folder)
	fails(t, err, folder, "needs no pull")
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	status := func(code int, message string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Error-Message", message)
			w.WriteHeader(code)
			return true
		}
	}
	on := func(path string, do func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, path) && do(w, r)
		}
	}
	for _, c := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		spoil  func(s *server)
		words  []string
	}{
		{"401", status(401, "Invalid username or\n password."), nil, []string{"org/gen", "401", "Invalid username or password.", "HF_TOKEN"}},
		{"403", status(403, ""), nil, []string{"403", "HF_TOKEN", "terms"}},
		{"404", status(404, "Repository not found"), nil, []string{"org/gen", "404", "Repository not found", "folder"}},
		{"500", status(500, ""), nil, []string{"org/gen", "500"}},
		{"no generator", on(generator.ManifestName, status(404, "")), nil, []string{"org/gen", "no generator package"}},
		{"file missing", on(weights, status(404, "Entry not found")), nil, []string{"org/gen", weights, "404"}},
		{"no commit", nil, func(s *server) { s.listing = `{"sha": "../../x"}` }, []string{"org/gen", "../../x", "40 hex digits"}},
		{"no listing", nil, func(s *server) { s.listing = `<html>` }, []string{"org/gen"}},
		{"listing cut off", nil, func(s *server) { s.listing = `{"sha": "` }, []string{"org/gen"}},
		{"huge listing", nil, func(s *server) { s.listing = `{"siblings": [` + strings.Repeat(" ", 65<<20) + `]}` }, []string{"org/gen", "67108864 bytes"}},
		{"huge manifest", nil, func(s *server) {
			s.commits[commitA][generator.ManifestName] = strings.Repeat(" ", 5<<20)
		}, []string{"org/gen", generator.ManifestName, "4194304"}},
		{"no manifest", nil, func(s *server) { s.commits[commitA][generator.ManifestName] = "<html>" }, []string{"org/gen", generator.ManifestName}},
		{"path outside", nil, func(s *server) {
			s.commits[commitA] = edited(t, func(m *generator.Manifest) { m.Files[0].Path = "../../.bashrc" })
		}, []string{"org/gen", ".bashrc"}},
		{"terabytes", nil, func(s *server) {
			s.commits[commitA] = edited(t, func(m *generator.Manifest) { m.Files[0].Bytes, m.Files[1].Bytes = 1<<62, 1<<62 })
		}, []string{"org/gen", "68719476736"}},
		{"wrong hash", nil, func(s *server) {
			s.commits[commitA][weights] = strings.Replace(s.commits[commitA][weights], "a", "b", 1)
		}, []string{"org/gen", weights, "SHA-256", "changed"}},
		{"too short", nil, func(s *server) { s.commits[commitA][weights] = "version https://git-lfs" }, []string{"org/gen", weights, "has 23 bytes"}},
		{"too long", nil, func(s *server) { s.commits[commitA][weights] += "x" }, []string{"org/gen", weights}},
		{"too long, in chunks", on(weights, func(w http.ResponseWriter, r *http.Request) bool {
			w.(http.Flusher).Flush()
			for range 100 {
				w.Write(make([]byte, 1<<20))
			}
			return true
		}), nil, []string{"org/gen", weights, "more than the"}},
		{"other range", on(weights, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 7-8/9")
			w.WriteHeader(206)
			return true
		}), nil, []string{"org/gen", weights, "bytes 7-8/9"}},
		{"circle", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}, nil, []string{"10 redirects"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			s.before = c.before
			if c.spoil != nil {
				c.spoil(s)
			}
			cache, dir := cache(t, s)
			_, err := cache.Get(t.Context(), "org/gen")
			fails(t, err, c.words...)
			nothing(t, dir)
		})
	}
}

// A repository of very many files costs memory for one listing, no more.
func TestHugeListing(t *testing.T) {
	s := serve(t)
	var b strings.Builder
	fmt.Fprintf(&b, `{"sha": %q, "siblings": [{"rfilename": "a"}`, commitA)
	for i := range 100_000 {
		fmt.Fprintf(&b, `,{"rfilename": "../../../checkpoint-%d/optimizer.pt"}`, i)
	}
	s.listing = b.String() + "]}"
	c, _ := cache(t, s)
	e, err := c.Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if n := s.asked("checkpoint"); n > 0 {
		t.Errorf("%d files were asked for that %s does not list", n, generator.ManifestName)
	}
}

// A server that breaks off is asked for the rest; one that cannot send a part sends all.
func TestTruncated(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprint("ranges ", ranges), func(t *testing.T) {
			s := serve(t)
			text := s.commits[commitA][weights]
			var mu sync.Mutex
			broken := 0
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if !ranges {
					r.Header.Del("Range")
				}
				if !strings.HasSuffix(r.URL.Path, weights) || broken == 3 {
					return false
				}
				broken++
				var from int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				w.Header().Set("Content-Length", fmt.Sprint(len(text)-from))
				if from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(text)-1, len(text)))
					w.WriteHeader(206)
				}
				fmt.Fprint(w, text[from:from+len(text)/5])
				return true
			}
			c, _ := cache(t, s)
			e, err := c.Get(t.Context(), "org/gen")
			if err != nil {
				t.Fatal(err)
			}
			whole(t, e, s.commits[commitA])
			if n := s.asked(weights + " bytes="); n != 3 {
				t.Errorf("%d requests for a rest, want 3: %q", n, s.requests)
			}
		})
	}
}

// What an earlier process left is used, and if it is damaged, not.
func TestResume(t *testing.T) {
	for _, left := range []struct {
		name  string
		spoil func(text string) string
		again bool // all of the file is fetched
	}{
		{"half", func(text string) string { return text[:len(text)/2] }, false},
		{"all", func(text string) string { return text }, false},
		{"half, damaged", func(text string) string { return strings.Repeat("x", len(text)/2) }, true},
		{"too much", func(text string) string { return text + "x" }, true},
	} {
		t.Run(left.name, func(t *testing.T) {
			s := serve(t)
			c, dir := cache(t, s)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, weights) {
					return false
				}
				w.WriteHeader(404)
				return true
			}
			_, err := c.Get(t.Context(), "org/gen")
			fails(t, err, weights)
			s.before = nil
			text := s.commits[commitA][weights]
			partial := filepath.Join(dir, "partial", sumOf(s.commits[commitA][generator.ManifestName]))
			put(t, filepath.Join(partial, "parts", "0"), left.spoil(text))
			asked := s.asked(weights)
			e, err := c.Get(t.Context(), "org/gen")
			if err != nil {
				t.Fatal(err)
			}
			whole(t, e, s.commits[commitA])
			from := fmt.Sprintf("%s bytes=%d-", weights, len(text)/2)
			if left.again && s.asked(weights) == asked || left.name == "half" && s.asked(from) != 1 || left.name == "all" && s.asked(weights) != asked {
				t.Errorf("requests %q", s.requests)
			}
			if _, err := os.Stat(partial); err == nil {
				t.Error("the partial folder is still there")
			}
		})
	}
}

// The hub's large files are on another server, which must not see the token.
func TestRedirect(t *testing.T) {
	s := serve(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the other server got the token")
		}
		if r.URL.RawQuery != "signature=1" {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(s.commits[commitA][weights]))
	}))
	defer other.Close()
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer hf_secret" {
			w.WriteHeader(401)
			return true
		}
		switch {
		case strings.HasSuffix(r.URL.Path, weights):
			http.Redirect(w, r, other.URL+"/blob?signature=1", http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/org/gen/resolve/"):
			// Small files are elsewhere on the hub itself, which wants the token again.
			http.Redirect(w, r, strings.Replace(r.URL.Path, "/org/gen/resolve/", "/files/", 1), http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	}
	_, dir := cache(t, s)
	t.Setenv("HF_TOKEN_PATH", filepath.Join(t.TempDir(), "token"))
	put(t, os.Getenv("HF_TOKEN_PATH"), "hf_secret\n")
	e, err := reopen(t, dir).Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
}

// From https to http nobody is led.
func TestDowngrade(t *testing.T) {
	s := serve(t)
	tls := httptest.NewTLSServer(http.RedirectHandler(s.URL, http.StatusFound))
	defer tls.Close()
	c, _ := cache(t, s)
	c.Trust(tls)
	_, err := c.Get(t.Context(), tls.URL+"/gen")
	fails(t, err, "redirect from https to http")
}

// Offline, what was fetched before is found, and nothing is asked for.
func TestOffline(t *testing.T) {
	s := serve(t)
	c, dir := cache(t, s)
	e, err := c.Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	asked := len(s.requests)
	c = reopen(t, dir)
	if again, err := c.Get(t.Context(), "org/gen"); err != nil || again != e {
		t.Errorf("%+v, %v, want %+v", again, err, e)
	}
	for _, name := range []string{"org/other", "org/gen@v2", "org/other@" + commitB, s.URL + "/files/" + commitA} {
		_, err = c.Get(t.Context(), name)
		fails(t, err, name, "HF_HUB_OFFLINE")
	}
	if len(s.requests) != asked {
		t.Errorf("%d requests while offline", len(s.requests)-asked)
	}
}

// A server that cannot be reached, and one that falls silent, are errors soon.
func TestUnreachable(t *testing.T) {
	s := serve(t)
	c, _ := cache(t, s)
	c.Hurry(time.Millisecond, 50*time.Millisecond)
	release := make(chan bool)
	defer close(release)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, weights) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(s.commits[commitA][weights])))
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
	_, err := c.Get(t.Context(), "org/gen")
	fails(t, err, weights, "nothing came for")
	closed := httptest.NewServer(nil)
	closed.Close()
	_, err = c.Get(t.Context(), closed.URL+"/gen")
	fails(t, err, closed.URL, "refused")
}

// What Hugging Face's own tools have fetched is used, offline too; files that are missing
// there come from the hub.
func TestMirror(t *testing.T) {
	s := serve(t)
	_, dir := cache(t, s)
	snapshot := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--gen", "snapshots", commitA)
	put(t, filepath.Join(snapshot, "..", "..", "refs", "main"), commitA)
	for path, text := range s.commits[commitA] {
		blob := filepath.Join(snapshot, "..", "..", "blobs", sumOf(text))
		put(t, blob, text)
		link := filepath.Join(snapshot, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(blob, link); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	t.Setenv("HF_HUB_OFFLINE", "true")
	e, err := reopen(t, dir).Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if len(s.requests) > 0 {
		t.Errorf("requests %q", s.requests)
	}
	if err := os.Remove(filepath.Join(snapshot, weights)); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "cache")
	_, err = reopen(t, other).Get(t.Context(), "org/gen")
	fails(t, err, weights)
	t.Setenv("HF_HUB_OFFLINE", "")
	if e, err = reopen(t, other).Get(t.Context(), "org/gen"); err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if s.asked("/resolve/") != 1 {
		t.Errorf("requests %q, want one file", s.requests)
	}
}

func TestListAndRemove(t *testing.T) {
	s := serve(t)
	s.commits[commitB] = renamed(t, "other")
	c, dir := cache(t, s)
	if list, err := c.List(); err != nil || len(list) != 0 {
		t.Errorf("an empty cache lists %v, %v", list, err)
	}
	for _, name := range []string{"org/gen", "org/gen@" + commitA, s.URL + "/files/" + commitB} {
		if _, err := c.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.List()
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list {
		if e.Name == "" || e.Base == "" || e.Bytes < 1000 || e.Fetched.IsZero() || e.Unfinished {
			t.Errorf("%+v", e)
		}
	}
	// Two sources of one package: the package stays for the other.
	gone, err := c.Remove(t.Context(), "org/gen")
	if err != nil || len(gone) != 1 {
		t.Fatalf("%+v, %v", gone, err)
	}
	if _, err := generator.Open(gone[0].Dir); err != nil {
		t.Error(err)
	}
	if gone, err = c.Remove(t.Context(), gone[0].SHA256[:8]); err != nil || len(gone) != 1 {
		t.Fatalf("%+v, %v", gone, err)
	}
	if _, err := os.Stat(gone[0].Dir); err == nil {
		t.Error("the package is still there")
	}
	_, err = c.Remove(t.Context(), "org/gen")
	fails(t, err, "org/gen", "dndgen list")
	// A package whose source is not known, and one that is not finished.
	sum := strings.Repeat("ab", 32)
	put(t, filepath.Join(dir, "partial", sum, "parts", "0"), "half")
	if err := os.RemoveAll(filepath.Join(dir, "refs")); err != nil {
		t.Fatal(err)
	}
	if list, err = c.List(); err != nil || len(list) != 2 || list[0].Source != "" || !list[1].Unfinished || list[1].Bytes != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list {
		if _, err := c.Remove(t.Context(), e.SHA256); err != nil {
			t.Error(err)
		}
	}
	if list, err = c.List(); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "trash")); len(left) > 0 {
		t.Errorf("trash holds %v", left)
	}
	// A damaged file of the cache's own is named.
	put(t, filepath.Join(dir, "refs", "0.json"), "{")
	_, err = c.List()
	fails(t, err, "0.json", "remove it")
}

func TestBadEndpoint(t *testing.T) {
	t.Setenv("HF_ENDPOINT", "hub.example.org")
	_, err := hub.New(t.TempDir())
	fails(t, err, "HF_ENDPOINT", "https://huggingface.co")
}

func TestDefaultDir(t *testing.T) {
	want := t.TempDir()
	t.Setenv("DND_CACHE", want)
	if dir, err := hub.DefaultDir(); err != nil || dir != want {
		t.Errorf("%s, %v, want %s", dir, err, want)
	}
	t.Setenv("DND_CACHE", "")
	if dir, err := hub.DefaultDir(); err != nil || filepath.Base(dir) != "generators" {
		t.Errorf("%s, %v", dir, err)
	}
}
