package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// pageFolder is a page of one file, with its guest.
func pageFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"index.html", "dnd.wasm"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("contents of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The server says where it is, serves, and ends well with Ctrl-C, even while a browser
// holds connections open.
func TestServe(t *testing.T) {
	p := madeup.Open(t)
	base := write(t, "base.gguf", "GGUF")
	cmd := clitest.Command(t, "serve", "--json", "--generator", p.Dir, "--web", pageFolder(t), "--base", base, "--listen", "localhost:0", "--open=false")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var r served
	if err := json.NewDecoder(stdout).Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Generator != p.Manifest.Name || r.Base != "/base.gguf" {
		t.Errorf("%+v", r)
	}
	for path, want := range map[string]string{"": "contents of index.html", "dnd.wasm": "contents of dnd.wasm", "generator/generator.json": "{", "base.gguf": "GGUF"} {
		answer, err := http.Get(r.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != 200 || !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: status %d, body %.30q, %v", path, answer.StatusCode, body, err)
		}
	}
	begin := time.Now()
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil || time.Since(begin) > time.Second {
		t.Errorf("ended after %v: %v", time.Since(begin), err)
	}
}

func TestServeErrors(t *testing.T) {
	p, page := madeup.Open(t), pageFolder(t)
	fails := func(code int, words []string, args ...string) {
		t.Helper()
		clitest.Fails(t, code, words, append([]string{"serve", "--quiet", "--open=false", "--generator", p.Dir}, args...)...)
	}
	for _, address := range []string{"8737", ":8737", "0.0.0.0:8737", "example.org:80", "192.168.1.2:80"} {
		fails(2, []string{"--listen"}, "--web", page, "--listen", address)
	}
	fails(1, []string{"--listen localhost:99999"}, "--web", page, "--listen", "localhost:99999")
	fails(2, []string{"--connect"}, "--web", page, "--connect", "http://example.org")
	fails(2, []string{"--connect"}, "--web", page, "--connect", "https://example.org/path")
	fails(2, []string{"--connect"}, "--web", page, "--connect", "https://example.org; script-src *")
	fails(1, []string{"index.html"}, "--web", t.TempDir())
	fails(1, []string{"missing.gguf"}, "--web", page, "--base", "missing.gguf")
	fails(1, []string{"missing"}, "--web", page, "--generator", "missing")
}
