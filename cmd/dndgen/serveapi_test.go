package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/internal/server/loadtest"
)

// apiProcess is dndgen serve --api as a process of its own.
type apiProcess struct {
	*exec.Cmd
	served
	token string
	log   bytes.Buffer
}

func startAPI(t *testing.T, results, token string, args ...string) *apiProcess {
	t.Helper()
	generator := madeup.Open(t).Dir
	p := &apiProcess{token: token}
	p.Cmd = clitest.Command(t, append([]string{"serve", "--json", "--api", "--backend", "cpu", "--open=false",
		"--generator", generator, "--results", results}, args...)...)
	if token != "" {
		p.Env = append(p.Env, tokenVariable+"="+token)
	}
	p.Stderr = &p.log
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(stdout).Decode(&p.served); err != nil {
		p.Wait()
		t.Fatalf("%v\n%s", err, p.log.String())
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		answer, err := http.Get(p.URL + "readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return p
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not become ready: %v\n%s", err, p.log.String())
		}
	}
}

// adapter asks for an adapter and returns the answer's status and body.
func (p *apiProcess) adapter(prompt string) (int, []byte, error) {
	return p.post(fmt.Sprintf(`{"prompts": [%q]}`, prompt))
}

func (p *apiProcess) post(body string) (int, []byte, error) {
	request, err := http.NewRequest("POST", p.API+"adapters", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return answer.StatusCode, raw, err
}

// On a WebGPU device the generator that was last used stays there. Another one takes its
// place and gives it back, and no adapter depends on what was asked for before.
func TestServeResident(t *testing.T) {
	other := t.TempDir()
	if err := os.CopyFS(other, os.DirFS(madeup.Open(t).Dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(other, "generator.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var manifest map[string]any
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	manifest["name"] = "other"
	if raw, err = json.Marshal(manifest); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"--listen", "localhost:0", "--backend", "webgpu", "--also", other}
	used := startAPI(t, t.TempDir(), "", args...)
	ask := func(p *apiProcess, generator, prompt string) []byte {
		t.Helper()
		status, body, err := p.post(fmt.Sprintf(`{"prompts": [%q], "generator": %q}`, prompt, generator))
		if status != 200 || err != nil {
			t.Fatalf("%s, %s: status %d, %v: %s\n%s", generator, prompt, status, err, body, p.log.String())
		}
		return body
	}
	for _, r := range [][2]string{{"", "one"}, {"", "two"}, {"other", "two"}, {"", "three"}, {"other", "three"}} {
		ask(used, r[0], r[1])
	}
	fresh := startAPI(t, t.TempDir(), "", args...)
	for _, generator := range []string{"", "other"} {
		if !bytes.Equal(ask(used, generator, "last"), ask(fresh, generator, "last")) {
			t.Errorf("generator %q: other bytes after other requests", generator)
		}
	}
	for _, p := range []*apiProcess{used, fresh} {
		p.Process.Signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Errorf("%v\n%s", err, p.log.String())
		}
		if n := strings.Count(p.log.String(), "packed and transformed once"); n != 2 {
			t.Errorf("%d generators were prepared, expected both:\n%s", n, p.log.String())
		}
	}
}

// On localhost the API is open, beside the page; for others than this machine it answers
// to tokens only, without the page.
func TestServeAPI(t *testing.T) {
	page := pageFolder(t)
	local := startAPI(t, t.TempDir(), "", "--web", page, "--listen", "localhost:0")
	if status, body, err := local.adapter("one"); status != 200 || err != nil {
		t.Errorf("status %d, %v: %s", status, err, body)
	}
	get := func(url, host string) (int, string) {
		request, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	if status, body := get(local.URL, ""); status != 200 || body != "contents of index.html" {
		t.Errorf("the page: status %d, %.40q", status, body)
	}
	if status, _ := get(local.API+"generators", "rebound.example"); status != http.StatusForbidden {
		t.Errorf("under another name: status %d", status)
	}
	const token = "a token that is long enough"
	open := startAPI(t, t.TempDir(), strings.ReplaceAll(token, " ", "-"), "--listen", "0.0.0.0:0")
	if status, _, err := open.adapter("one"); status != 200 || err != nil {
		t.Errorf("with a token: status %d, %v", status, err)
	}
	if status, _ := get(open.API+"generators", "api.example"); status != http.StatusUnauthorized {
		t.Errorf("without a token: status %d", status)
	}
	if status, body := get(open.URL, "api.example"); status != http.StatusNotFound {
		t.Errorf("the page: status %d, %.40q", status, body)
	}
	for _, p := range []*apiProcess{local, open} {
		p.Process.Signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Errorf("%v\n%s", err, p.log.String())
		}
	}
	if strings.Contains(open.log.String(), open.token) {
		t.Error("the log shows the token")
	}
}

// SIGTERM lets what runs be finished, and answered.
func TestServeDrains(t *testing.T) {
	p := startAPI(t, t.TempDir(), "", "--listen", "localhost:0")
	type result struct {
		status int
		err    error
	}
	results := make(chan result, 8)
	for i := range cap(results) {
		go func() {
			status, _, err := p.adapter(fmt.Sprint("prompt ", i))
			results <- result{status, err}
		}()
	}
	for {
		answer, err := http.Get(p.URL + "metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if strings.Contains(string(body), fmt.Sprintf(`dndgen_submissions_total{outcome="queued"} %d`, cap(results))) {
			break
		}
	}
	p.Process.Signal(syscall.SIGTERM)
	for range cap(results) {
		if r := <-results; r.status != 200 || r.err != nil {
			t.Errorf("status %d, %v", r.status, r.err)
		}
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.log.String())
	}
}

// Killed at any moment, the server leaves no result that is not whole: the next one gives
// out the same bytes as one that was never killed, and makes again what is missing.
func TestServeKilled(t *testing.T) {
	const prompts = 12
	want := map[string][]byte{}
	calm := startAPI(t, t.TempDir(), "", "--listen", "localhost:0")
	for i := range prompts {
		prompt := fmt.Sprint("prompt ", i)
		status, body, err := calm.adapter(prompt)
		if status != 200 || err != nil {
			t.Fatalf("status %d, %v", status, err)
		}
		want[prompt] = body
	}
	calm.Process.Kill()
	calm.Wait()
	dir := t.TempDir()
	for round := range 6 {
		p := startAPI(t, dir, "", "--listen", "localhost:0")
		for i := range prompts {
			go p.adapter(fmt.Sprint("prompt ", i))
		}
		time.Sleep(time.Duration(10+37*round) * time.Millisecond)
		p.Process.Kill()
		p.Wait()
	}
	p := startAPI(t, dir, "", "--listen", "localhost:0")
	for prompt, adapter := range want {
		if status, body, err := p.adapter(prompt); status != 200 || err != nil || !bytes.Equal(body, adapter) {
			t.Errorf("%s: status %d, %v, %d bytes, want %d", prompt, status, err, len(body), len(adapter))
		}
	}
	p.Process.Signal(syscall.SIGTERM)
	p.Wait()
}

// Under more load than it can do, killed in the middle, the server gives out nothing but
// whole adapters and the advice to come again.
func TestServeLoad(t *testing.T) {
	generator := madeup.Open(t).Dir
	r, err := loadtest.Run(t.Context(), loadtest.Options{
		Command: func(args ...string) *exec.Cmd { return clitest.Command(t, args...) },
		Args:    []string{"--generator", generator, "--backend", "cpu", "--queue", "4"},
		Dir:     t.TempDir(), Clients: 24, Time: 3 * time.Second, Kill: true, Note: func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	r.Print(&table)
	t.Logf("\n%s", table.String())
	if r.Wrongs > 0 || r.Latencies["own"].Count == 0 || r.Latencies["turned away"].Count == 0 || r.Again == 0 || len(r.Starts) != 3 {
		t.Error("see above: nothing should be wrong, and of all kinds there should be some")
	}
}

// make soak, but shorter: too short for memory to be level, not for goroutines and files.
func TestServeSoak(t *testing.T) {
	list, err := loadtest.Soak(t.Context(), loadtest.Options{
		Command: func(args ...string) *exec.Cmd { return clitest.Command(t, args...) },
		Args:    []string{"--generator", madeup.Open(t).Dir, "--backend", "cpu", "--results-bytes", "1000000"}, Dir: t.TempDir(),
	}, 80, 8)
	if err != nil {
		t.Fatal(err)
	}
	first, last := list[2], list[len(list)-1]
	if last.Adapters != 80 || last.Goroutines > first.Goroutines+8 || last.Files > first.Files+4 {
		t.Errorf("after %d adapters %d goroutines and %d open files, after %d %d and %d", first.Adapters, first.Goroutines, first.Files, last.Adapters, last.Goroutines, last.Files)
	}
}

func TestServeAPIErrors(t *testing.T) {
	generator := madeup.Open(t).Dir
	short := write(t, "tokens", "short\n")
	fails := func(code int, words []string, args ...string) {
		t.Helper()
		clitest.Fails(t, code, words, append([]string{"serve", "--quiet", "--open=false", "--generator", generator, "--results", t.TempDir()}, args...)...)
	}
	api := func(args ...string) []string { return append([]string{"--api", "--backend", "cpu"}, args...) }
	fails(2, []string{"--results", "--api"})
	clitest.Fails(t, 2, []string{"--queue", "--api"}, "serve", "--queue", "3")
	fails(2, []string{"--listen", "--token-file", tokenVariable}, api("--listen", "0.0.0.0:0")...)
	fails(2, []string{"--web"}, api("--listen", "0.0.0.0:0", "--token-file", write(t, "good", "0123456789abcdef"), "--web", t.TempDir())...)
	fails(1, []string{"tokens", "line 1"}, api("--token-file", short)...)
	fails(1, []string{"missing"}, api("--token-file", "missing")...)
	fails(2, []string{"--queue"}, api("--queue", "0")...)
	fails(2, []string{"--drain"}, api("--drain", "2h")...)
	fails(2, []string{"--backend"}, "--api", "--backend", "abacus")
	fails(1, []string{"is named"}, api("--also", generator, "--listen", "localhost:0")...)
	// Damaged weights end the server before it is ready.
	dir := filepath.Join(t.TempDir(), "damaged")
	if err := os.CopyFS(dir, os.DirFS(generator)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "decoder.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "decoder.safetensors"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	r := clitest.Run(t, "serve", "--api", "--backend", "cpu", "--quiet", "--open=false", "--generator", dir, "--results", t.TempDir(), "--listen", "localhost:0")
	if r.Code != 1 || !strings.Contains(r.Stderr, "damaged or changed") {
		t.Errorf("exit code %d, %s", r.Code, r.Stderr)
	}
}
