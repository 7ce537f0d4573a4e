package site_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/internal/site"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// page makes a folder of a page's files.
func page(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"index.html": "<!doctype html>" + strings.Repeat("<p>text</p>", 200), "worker-4F2WQ7XK.js": "postMessage(1)", "page.0123abcd.css": "p{}",
		"icons/logo.svg": "<svg/>", "dnd.wasm": "\x00asm", ".env": "secret", ".git/config": "secret", "template-old.js": "1",
	} {
		write(t, filepath.Join(dir, filepath.FromSlash(name)), text)
	}
	return dir
}

func start(t testing.TB, o site.Options) (*site.Site, *generator.Package) {
	t.Helper()
	p := madeup.Open(t)
	o.Generator = p
	if o.Page == "" {
		o.Page = page(t)
	}
	s, err := site.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// get asks for a path; headers are pairs of name and value.
func get(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost:8737/", nil)
	r.URL.Path = path
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestFiles(t *testing.T) {
	base := write(t, filepath.Join(t.TempDir(), "base.gguf"), "GGUF")
	s, p := start(t, site.Options{Base: base})
	manifest, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, kind, cache, body string }{
		{"/", "text/html; charset=utf-8", "no-cache", "<!doctype html>"},
		{"/index.html", "text/html; charset=utf-8", "no-cache", "<!doctype html>"},
		{"/worker-4F2WQ7XK.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable", "postMessage(1)"},
		{"/page.0123abcd.css", "text/css; charset=utf-8", "public, max-age=31536000, immutable", "p{}"},
		{"/template-old.js", "text/javascript; charset=utf-8", "no-cache", "1"},
		{"/icons/logo.svg", "image/svg+xml", "no-cache", "<svg/>"},
		{"/dnd.wasm", "application/wasm", "no-cache", "\x00asm"},
		{"/generator/generator.json", "application/json", "no-cache", string(manifest)},
		{"/generator/encoder/vocab.txt", "text/plain; charset=utf-8", "no-cache", "[PAD]\n[UNK]\n"},
		{"/base.gguf", "application/octet-stream", "no-cache", "GGUF"},
	} {
		w := get(s, "GET", c.path)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), c.body) {
			t.Errorf("%s: status %d, body %.40q", c.path, w.Code, w.Body)
		}
		h := w.Header()
		if h.Get("Content-Type") != c.kind || h.Get("Cache-Control") != c.cache {
			t.Errorf("%s: %v", c.path, h)
		}
		again := get(s, "GET", c.path, "If-None-Match", h.Get("ETag"))
		if h.Get("ETag") == "" || again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s: with its entity tag %q, status %d", c.path, h.Get("ETag"), again.Code)
		}
		if head := get(s, "HEAD", c.path); head.Code != 200 || head.Body.Len() > 0 || head.Header().Get("Content-Length") == "" {
			t.Errorf("%s: HEAD gives status %d, %v", c.path, head.Code, head.Header())
		}
	}
	for _, f := range p.Manifest.Files {
		if w := get(s, "GET", "/generator/"+f.Path); w.Code != 200 || int64(w.Body.Len()) != f.Bytes || w.Header().Get("ETag") != `"`+f.SHA256+`"` {
			t.Errorf("%s: status %d, %d bytes, %v", f.Path, w.Code, w.Body.Len(), w.Header())
		}
	}
}

func TestNotServed(t *testing.T) {
	s, p := start(t, site.Options{})
	write(t, filepath.Join(p.Dir, "notes.txt"), "private")
	for _, path := range []string{
		"/generator/", "/generator", "/generator/encoder/", "/generator/notes.txt", "/icons/", "/icons", "/.env", "/.git/config", "/missing",
		"/base.gguf", "//index.html", "/./index.html", "/icons/../index.html", "/../index.html", "/generator/../../index.html",
		"/generator/..\\notes.txt", "/generator/encoder\\vocab.txt", "", "/index.html\x00", "/INDEX.HTML",
	} {
		if w := get(s, "GET", path); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "private") {
			t.Errorf("%q: status %d, body %.40q", path, w.Code, w.Body)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if w := get(s, method, "/"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
			t.Errorf("%s: status %d", method, w.Code)
		}
	}
	// A file that was replaced since is an error, not other bytes under an old tag.
	write(t, filepath.Join(p.Dir, "encoder", "vocab.txt"), "other")
	if w := get(s, "GET", "/generator/encoder/vocab.txt"); w.Code != http.StatusInternalServerError {
		t.Errorf("a changed file: status %d", w.Code)
	}
}

// Only a request that names this machine is answered, whatever it resolves to.
func TestGuard(t *testing.T) {
	s, _ := start(t, site.Options{Connect: []string{"https://example.org"}})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8737": 200, "LOCALHOST:1": 200, "127.0.0.1:8737": 200, "[::1]:8737": 200, "127.8.9.10": 200, "[::1]": 200,
		"example.org": 403, "example.org:8737": 403, "localhost.example.org": 403, "127.0.0.1.example.org:80": 403, "192.168.1.2": 403, "": 403, "0.0.0.0:8737": 403,
	} {
		if w := get(s, "GET", "/", "Host", host); w.Code != want {
			t.Errorf("host %q: status %d, want %d", host, w.Code, want)
		}
	}
	h := get(s, "GET", "/").Header()
	for name, want := range map[string]string{
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin",
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want)
		}
	}
	policy := h.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self' 'wasm-unsafe-eval';", "connect-src 'self' https://example.org;", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe-inline") || strings.Contains(policy, "*") {
		t.Errorf("policy %q allows too much", policy)
	}
	if w := get(s, "GET", "/missing"); w.Header().Get("Content-Security-Policy") != policy {
		t.Error("an error comes without the policy")
	}
}

func TestRanges(t *testing.T) {
	s, p := start(t, site.Options{})
	const path = "/generator/decoder.safetensors"
	whole, err := os.ReadFile(filepath.Join(p.Dir, "decoder.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	tag := get(s, "HEAD", path).Header().Get("ETag")
	w := get(s, "GET", path, "Range", "bytes=100-299", "If-Range", tag)
	if w.Code != http.StatusPartialContent || w.Body.String() != string(whole[100:300]) || !strings.HasPrefix(w.Header().Get("Content-Range"), "bytes 100-299/") {
		t.Errorf("status %d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
	if w := get(s, "GET", path, "Range", "bytes=100-299", "If-Range", `"other"`); w.Code != 200 || w.Body.Len() != len(whole) {
		t.Errorf("another tag: status %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := get(s, "GET", path, "Range", "bytes=999999999-"); w.Code != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: status %d", w.Code)
	}
	if w := get(s, "GET", "/index.html", "Range", "bytes=0-1", "Accept-Encoding", "gzip"); w.Code != http.StatusPartialContent || w.Body.String() != "<!" {
		t.Errorf("range of the page: status %d, body %q", w.Code, w.Body)
	}
}

func TestGzip(t *testing.T) {
	s, _ := start(t, site.Options{})
	plain := get(s, "GET", "/")
	w := get(s, "GET", "/", "Accept-Encoding", "gzip, br")
	if w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Vary") != "Accept-Encoding" || w.Header().Get("ETag") == plain.Header().Get("ETag") {
		t.Errorf("%v", w.Header())
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != plain.Body.String() {
		t.Errorf("%d bytes, %v, want the page", len(text), err)
	}
	if w := get(s, "GET", "/", "Accept-Encoding", "gzip", "If-None-Match", w.Header().Get("ETag")); w.Code != http.StatusNotModified {
		t.Errorf("the same again: status %d", w.Code)
	}
}

func TestNew(t *testing.T) {
	p := madeup.Open(t)
	empty, noGuest := t.TempDir(), t.TempDir()
	write(t, filepath.Join(noGuest, "index.html"), "page")
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret.txt"), "secret")
	linked := page(t)
	if err := os.Symlink(filepath.Join(outside, "secret.txt"), filepath.Join(linked, "link.txt")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options site.Options
		want    string
	}{
		{site.Options{Page: filepath.Join(empty, "missing")}, "missing"},
		{site.Options{Page: empty}, "index.html"},
		{site.Options{Page: noGuest, Guest: filepath.Join(empty, "dnd.wasm")}, "dnd.wasm"},
		{site.Options{Page: page(t), Base: empty}, "no file"},
		{site.Options{Page: page(t), Base: filepath.Join(empty, "base.gguf")}, "base.gguf"},
	} {
		c.options.Generator = p
		if _, err := site.New(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one of %q", c.options, err, c.want)
		}
	}
	given := write(t, filepath.Join(t.TempDir(), "given.wasm"), "given")
	for dir, want := range map[string]string{noGuest: "given", page(t): "\x00asm"} {
		s, err := site.New(site.Options{Page: dir, Guest: given, Generator: p})
		if err != nil {
			t.Fatal(err)
		}
		if w := get(s, "GET", "/dnd.wasm"); w.Body.String() != want || w.Header().Get("Content-Type") != "application/wasm" {
			t.Errorf("dnd.wasm is %q, want %q", w.Body, want)
		}
	}
	s, err := site.New(site.Options{Page: linked, Generator: p})
	if err != nil {
		t.Fatal(err)
	}
	if w := get(s, "GET", "/link.txt"); w.Code != http.StatusNotFound {
		t.Errorf("a link out of the folder: status %d", w.Code)
	}
}
