package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Sample is what a server held after so many adapters.
type Sample struct {
	Adapters   int     `json:"adapters"`
	Seconds    float64 `json:"seconds"`
	Resident   int64   `json:"resident"`   // bytes of the process
	Heap       int64   `json:"heap"`       // bytes that Go's heap has in use
	Goroutines int     `json:"goroutines"` // of the server
	Files      int     `json:"files"`      // that are open
}

// soakClients keep the server at work without filling its queue.
const soakClients = 4

// Soak lets a server make count adapters, no two of the same prompts, and looks at what it
// holds after every part of them. Each adapter is checked when it arrives. o's Clients, Time
// and Kill do not matter.
func Soak(ctx context.Context, o Options, count, every int) ([]Sample, error) {
	if o.Note == nil {
		o.Note = func(string) {}
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = soakClients + 2
	l := &load{Options: o, client: &http.Client{Transport: transport}, address: address, report: newReport(o), adapters: map[string]string{}}
	p, err := l.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { p.stop(syscall.SIGKILL) }()
	begin := time.Now()
	var samples []Sample
	for made := 0; made < count; {
		part := min(every, count-made)
		if err := l.soakPart(ctx, made, part); err != nil {
			return samples, err
		}
		made += part
		s, err := l.sample(ctx, made, time.Since(begin))
		if err != nil {
			return samples, err
		}
		samples = append(samples, s)
		o.Note(fmt.Sprintf("%6d adapters: resident %d MB, heap %d MB, %d goroutines, %d files", made, s.Resident>>20, s.Heap>>20, s.Goroutines, s.Files))
	}
	transport.CloseIdleConnections()
	if err := p.stop(syscall.SIGTERM); err != nil {
		return samples, fmt.Errorf("after SIGTERM it ended with %w", err)
	}
	return samples, nil
}

// soakPart asks for adapters from number first on.
func (l *load) soakPart(ctx context.Context, first, count int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var clients sync.WaitGroup
	for range soakClients {
		clients.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count || ctx.Err() != nil {
					return
				}
				body, err := json.Marshal(map[string]any{"prompts": []string{fmt.Sprintf("what is one, add two and %d", first+i)}, "format": "peft"})
				if err == nil {
					_, _, err = l.fetch(ctx, "POST", "/v1/adapters", string(body))
				}
				if err != nil {
					stop(fmt.Errorf("adapter %d: %w", first+i, err))
				}
			}
		})
	}
	clients.Wait()
	return context.Cause(ctx)
}

func (l *load) sample(ctx context.Context, made int, took time.Duration) (Sample, error) {
	v, err := l.metrics(ctx)
	if err != nil {
		return Sample{}, err
	}
	s := Sample{Adapters: made, Seconds: took.Seconds(), Resident: int64(v["process_resident_memory_bytes"]), Heap: int64(v["go_memstats_heap_inuse_bytes"]),
		Goroutines: int(v["go_goroutines"]), Files: int(v["process_open_fds"])}
	if s.Resident == 0 || s.Goroutines == 0 {
		return s, errors.New("loadtest: /metrics tells of no memory: the system has no /proc")
	}
	return s, nil
}

// Flat says what has grown from the second quarter of a soak to its last: memory by more
// than a twentieth and 8 MiB, goroutines or open files by more than the clients account for.
func Flat(samples []Sample) error {
	n := len(samples)
	if n < 8 {
		return fmt.Errorf("%d samples, expected at least 8", n)
	}
	mean := func(part []Sample, of func(Sample) int64) int64 {
		sum := int64(0)
		for _, s := range part {
			sum += of(s)
		}
		return sum / int64(len(part))
	}
	var all []error
	for _, m := range []struct {
		name  string
		of    func(Sample) int64
		slack func(before int64) int64
	}{
		{"resident memory", func(s Sample) int64 { return s.Resident }, func(b int64) int64 { return b/20 + 8<<20 }},
		{"heap", func(s Sample) int64 { return s.Heap }, func(b int64) int64 { return b/20 + 8<<20 }},
		{"goroutines", func(s Sample) int64 { return int64(s.Goroutines) }, func(int64) int64 { return 4 * soakClients }},
		{"open files", func(s Sample) int64 { return int64(s.Files) }, func(int64) int64 { return 2 * soakClients }},
	} {
		before, after := mean(samples[n/4:n/2], m.of), mean(samples[n-n/4:], m.of)
		if after > before+m.slack(before) {
			all = append(all, fmt.Errorf("%s: %d in the second quarter, %d in the last", m.name, before, after))
		}
	}
	return errors.Join(all...)
}

// PrintSamples writes samples as a table in Markdown.
func PrintSamples(w io.Writer, samples []Sample) {
	fmt.Fprintf(w, "| adapters | seconds | resident | Go's heap | goroutines | open files |\n|---|---|---|---|---|---|\n")
	for _, s := range samples {
		fmt.Fprintf(w, "| %d | %.0f | %.1f MB | %.1f MB | %d | %d |\n", s.Adapters, s.Seconds, float64(s.Resident)/1e6, float64(s.Heap)/1e6, s.Goroutines, s.Files)
	}
}
