// Package chromium is a graph.Executor on the WebGPU of a headless Chromium: the page's own
// executor (web/src/executor.ts) in a real browser, with Tint for a compiler, so that the
// conformance table that holds native devices holds the browser too. Only tests import it.
//
// Open serves a page with one script on localhost and starts Chromium on it. The script
// asks for one run at a time (/next), fetches inputs and ranges of weights as it needs them
// and posts what it read back (/done).
package chromium

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
)

// startTime is how long Chromium may take to open a device.
const startTime = time.Minute

// Executor is one browser. It runs one Program at a time.
type Executor struct {
	cmd     *exec.Cmd
	server  *http.Server
	profile string
	limits  graph.Limits
	device  string

	turn  sync.Mutex
	holds int // Programs that were held so far
	jobs  chan *job
	mu    sync.Mutex
	now   *job

	ready chan error // once
	ended chan error // Chromium's exit
}

type job struct {
	program []byte
	held    string // the name of one that stays, empty for a Program that is run once
	stage   string // of it to run, empty to end it
	weights graph.Weights
	inputs  []graph.Input
	done    chan answer
}

type answer struct {
	result *graph.Result
	err    error
}

// Open starts Chromium. script is the path of remote.js, which make web builds.
func Open(ctx context.Context, script string) (*Executor, error) {
	code, err := os.ReadFile(script)
	if err != nil {
		return nil, fmt.Errorf("chromium: %w: run make web", err)
	}
	program := os.Getenv("CHROMIUM")
	if program == "" {
		if program, err = exec.LookPath("chromium"); err != nil {
			return nil, fmt.Errorf("chromium: %w: install it, or name it in CHROMIUM", err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("chromium: %w", err)
	}
	e := &Executor{jobs: make(chan *job), ready: make(chan error, 1), ended: make(chan error, 1)}
	e.server = &http.Server{Handler: e.handler(code), ReadHeaderTimeout: time.Minute}
	go e.server.Serve(listener)
	if e.profile, err = os.MkdirTemp("", "dnd-chromium-"); err != nil {
		e.server.Close()
		return nil, fmt.Errorf("chromium: %w", err)
	}
	args := []string{"--headless", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
		"--no-first-run", "--disable-extensions", "--user-data-dir=" + e.profile}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's own does not run as root
	}
	e.cmd = exec.Command(program, append(args, "http://"+listener.Addr().String()+"/")...)
	if err := e.cmd.Start(); err != nil {
		e.Close()
		return nil, fmt.Errorf("chromium: %w", err)
	}
	go func() { e.ended <- e.cmd.Wait() }()
	select {
	case err = <-e.ready:
	case err = <-e.ended:
		err = fmt.Errorf("it ended at once: %v", err)
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(startTime):
		err = fmt.Errorf("no device within %v", startTime)
	}
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("chromium: %w", err)
	}
	return e, nil
}

// Device is the browser's name for its GPU.
func (e *Executor) Device() string { return e.device }

// Limits implements graph.Executor.
func (e *Executor) Limits() graph.Limits { return e.limits }

// Run implements graph.Executor. report is not called.
func (e *Executor) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, _ func(graph.Progress)) (*graph.Result, error) {
	raw, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return e.do(ctx, &job{program: raw, weights: w, inputs: in})
}

func (e *Executor) do(ctx context.Context, j *job) (*graph.Result, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	j.done = make(chan answer, 1)
	select {
	case e.jobs <- j:
	case err := <-e.ended:
		e.ended <- err
		return nil, fmt.Errorf("chromium: it ended: %v", err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-j.done:
		return a.result, a.err
	case err := <-e.ended:
		e.ended <- err
		return nil, fmt.Errorf("chromium: it ended in the middle of a program: %v", err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// held is a Program that stays in the browser.
type held struct {
	e       *Executor
	name    string
	program []byte
	weights graph.Weights
}

var _ graph.Holder = (*Executor)(nil)

// Hold implements graph.Holder. reports are not called.
func (e *Executor) Hold(p *graph.Program, w graph.Weights) (graph.Held, error) {
	raw, err := p.Encode()
	if err != nil {
		return nil, err
	}
	e.turn.Lock()
	defer e.turn.Unlock()
	e.holds++
	return &held{e, strconv.Itoa(e.holds), raw, w}, nil
}

func (h *held) Run(ctx context.Context, stage string, in []graph.Input, _ func(graph.Progress)) (*graph.Result, error) {
	return h.e.do(ctx, &job{program: h.program, held: h.name, stage: stage, weights: h.weights, inputs: in})
}

func (h *held) Close() error {
	_, err := h.e.do(context.Background(), &job{held: h.name})
	return err
}

// Close ends Chromium and removes its profile.
func (e *Executor) Close() error {
	if e.cmd != nil && e.cmd.Process != nil {
		e.cmd.Process.Kill()
		err := <-e.ended
		e.ended <- err
	}
	return errors.Join(e.server.Close(), os.RemoveAll(e.profile))
}

func (e *Executor) handler(script []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><title>conformance</title><script type="module" src="remote.js"></script>`)
	})
	mux.HandleFunc("GET /remote.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		w.Write(script)
	})
	mux.HandleFunc("POST /ready", func(_ http.ResponseWriter, r *http.Request) {
		var hello struct {
			Device, Error string
			Limits        graph.Limits
		}
		err := json.NewDecoder(r.Body).Decode(&hello)
		if err == nil && hello.Error != "" {
			err = errors.New(hello.Error)
		}
		e.device, e.limits = hello.Device, hello.Limits
		e.ready <- err
	})
	mux.HandleFunc("GET /next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case j := <-e.jobs:
			e.mu.Lock()
			e.now = j
			e.mu.Unlock()
			message := guest.Message{{Name: "program", Data: j.program}, {Name: "held", Data: []byte(j.held)}, {Name: "stage", Data: []byte(j.stage)}}
			for _, in := range j.inputs {
				message = append(message, guest.Part{Name: "input/" + in.Name, Data: in.Data})
			}
			raw, err := message.Encode()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Write(raw)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /weights", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		offset, err1 := strconv.ParseInt(q.Get("offset"), 10, 64)
		n, err2 := strconv.ParseInt(q.Get("n"), 10, 32)
		j := e.current()
		if err1 != nil || err2 != nil || n < 0 || j == nil {
			http.Error(w, "malformed", http.StatusBadRequest)
			return
		}
		p := make([]byte, n)
		if err := j.weights.ReadWeights(q.Get("name"), q.Get("dtype"), offset, p); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Write(p)
	})
	mux.HandleFunc("POST /done", func(_ http.ResponseWriter, r *http.Request) {
		j := e.current()
		if j == nil {
			return
		}
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			j.done <- answer{err: err}
			return
		}
		j.done <- read(raw)
	})
	return mux
}

func (e *Executor) current() *job {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// read turns the browser's answer, a message of outputs or of an error, into a result.
func read(raw []byte) answer {
	m, err := guest.Decode(raw)
	if err != nil {
		return answer{err: fmt.Errorf("chromium: %w", err)}
	}
	if text, ok := m.Get(guest.PartError); ok {
		return answer{err: fmt.Errorf("chromium: %s", text)}
	}
	r := &graph.Result{}
	for _, p := range m {
		r.Outputs = append(r.Outputs, graph.Output{Name: p.Name, Data: p.Data})
	}
	return answer{result: r}
}

// Script is where make web puts remote.js, for a test in folder dir of the repository.
func Script(root string) string { return filepath.Join(root, "build", "web-test", "remote.js") }
