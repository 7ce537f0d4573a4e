// Package loadtest puts dndgen serve --api under load, kills it in the middle and starts it
// again, and says what its clients saw. The clients ask for adapters of tasks of their own,
// and now and then of a task that others ask for, too; they wait when they are told to come
// again. Every adapter is checked when it arrives, and all are fetched again at the end.
//
// What must never happen is an error of Run or counted in Report.Wrong: a status that is no
// adapter and no "come again", an adapter that is not whole, one that differs from what
// another client got for the same prompts, a damaged file in the folder of results.
package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/results"
)

// Options say what is put under which load.
type Options struct {
	// Command makes the command dndgen with arguments. Run adds none but --listen,
	// --results and --api's own.
	Command func(args ...string) *exec.Cmd
	// Args are more flags for serve: --generator, --backend, --queue.
	Args    []string
	Dir     string // an empty folder, for the results
	Clients int
	Time    time.Duration
	// Kill ends the server with SIGKILL after half of the time and starts it again.
	Kill bool
	// Note is told what happens. It may be nil.
	Note func(string)
}

// start is the most time that a server may take to become ready.
const startTime = 2 * time.Minute

// process is a server that runs.
type process struct {
	*exec.Cmd
	url string
}

// load is one run.
type load struct {
	Options
	client  *http.Client
	address string
	report  *Report

	mu       sync.Mutex
	url      string
	expected atomic.Bool       // the server is away: answers may fail
	adapters map[string]string // SHA-256 of the adapter by its place
}

// Run puts a server under load. It returns an error when it could not, not for what the
// server did wrong: that is in the Report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Note == nil {
		o.Note = func(string) {}
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = o.Clients + 2
	l := &load{Options: o, client: &http.Client{Transport: transport}, address: address, report: newReport(o), adapters: map[string]string{}}
	p, err := l.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { p.stop(syscall.SIGKILL) }()
	working, finish := context.WithTimeout(ctx, o.Time)
	defer finish()
	watching := make(chan struct{})
	go func() { defer close(watching); l.watch(working) }()
	var clients sync.WaitGroup
	for i := range o.Clients {
		clients.Go(func() { l.work(ctx, working, i) })
	}
	if o.Kill {
		select {
		case <-time.After(o.Time / 2):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		o.Note("kill -9")
		l.expected.Store(true)
		p.stop(syscall.SIGKILL)
		if p, err = l.start(ctx); err != nil {
			return nil, err
		}
		l.expected.Store(false)
	}
	clients.Wait()
	<-watching
	l.report.finish()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	o.Note("SIGTERM")
	begin := time.Now()
	if err := p.stop(syscall.SIGTERM); err != nil {
		l.report.wrong("after SIGTERM it ended with %v", err)
	}
	l.report.Drain = time.Since(begin).Seconds()
	if p, err = l.start(ctx); err != nil {
		return nil, err
	}
	o.Note(fmt.Sprintf("fetching %d adapters again", len(l.adapters)))
	l.fetchAgain(ctx)
	return l.report, l.checkFolder()
}

// freeAddress is an address that nobody listens on now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// start starts the server and waits until it is ready.
func (l *load) start(ctx context.Context) (*process, error) {
	begin := time.Now()
	p := &process{Cmd: l.Command(append([]string{"serve", "--api", "--json", "--quiet", "--open=false", "--listen", l.address, "--results", l.Dir}, l.Args...)...)}
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	var served struct{ URL string }
	if err := json.NewDecoder(out).Decode(&served); err != nil {
		return nil, errors.Join(fmt.Errorf("loadtest: the server did not start: %w", err), p.Wait())
	}
	p.url = served.URL
	for {
		answer, err := l.client.Get(p.url + "readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Since(begin) > startTime || ctx.Err() != nil {
			return nil, errors.Join(errors.New("loadtest: the server does not become ready"), err, ctx.Err(), p.stop(syscall.SIGKILL))
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.url = p.url
	l.report.Starts = append(l.report.Starts, time.Since(begin).Seconds())
	l.Note(fmt.Sprintf("ready after %.2f s", time.Since(begin).Seconds()))
	return p, nil
}

// stop ends the server and waits for its end. It returns how it ended.
func (p *process) stop(s syscall.Signal) error {
	if p.ProcessState != nil {
		return nil
	}
	if err := p.Process.Signal(s); err != nil {
		return err
	}
	return p.Wait()
}

// fetchAgain fetches all adapters from where they were said to be.
func (l *load) fetchAgain(ctx context.Context) {
	for place, want := range l.adapters {
		_, sum, err := l.fetch(ctx, "GET", place, "")
		if err != nil {
			l.report.wrong("fetched again, %s: %v", place, err)
		} else if sum != want {
			l.report.wrong("fetched again, %s is another adapter", place)
		}
		l.report.Again++
	}
}

// checkFolder checks all files in the folder of results.
func (l *load) checkFolder() error {
	store, err := results.Open(l.Dir, 1<<62)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		const hex = 64
		if len(e.Name()) < hex {
			continue
		}
		key, err := results.ParseKey(e.Name()[:hex])
		if err != nil {
			l.report.Temporary++ // what a killed server was writing
			continue
		}
		r, err := store.Get(key)
		if err != nil {
			l.report.wrong("%s: damaged: %v", e.Name(), err)
			continue
		}
		l.report.Kept++
		r.Close()
	}
	return nil
}
