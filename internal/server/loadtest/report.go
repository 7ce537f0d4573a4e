package loadtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Report is what the clients of a run saw.
type Report struct {
	Clients int     `json:"clients"`
	Seconds float64 `json:"seconds"`
	Cores   int     `json:"cores"` // of the machine, clients included
	// Latencies are by what was asked for and what came of it: "own" and "shared" tasks that
	// were answered, requests that were "turned away", those "cut off by the kill".
	Latencies map[string]Latency `json:"latencies"`
	Statuses  map[int]int        `json:"statuses"`
	// Starts are the seconds that each start took until the server was ready, Drain the
	// seconds from SIGTERM to its end.
	Starts []float64 `json:"starts"`
	Drain  float64   `json:"drain"`
	Memory Memory    `json:"memory"`
	Again  int       `json:"again"` // adapters that were fetched again, and were the same
	Kept   int       `json:"kept"`  // files in the folder of results, all of them whole
	// Temporary are files that the killed server was writing.
	Temporary int      `json:"temporary"`
	Wrong     []string `json:"wrong"` // what should not have happened, the first of it
	Wrongs    int      `json:"wrongs"`

	mu    sync.Mutex
	times map[string][]time.Duration
}

// Latency is the distribution of some requests' times, in seconds.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Memory is the server's resident memory in bytes: the largest, and its mean in the second
// and in the last quarter of the time.
type Memory struct {
	Peak       int64 `json:"peak"`
	Second     int64 `json:"second_quarter"`
	Last       int64 `json:"last_quarter"`
	Goroutines int   `json:"goroutines"` // the most
}

func newReport(o Options) *Report {
	return &Report{Clients: o.Clients, Seconds: o.Time.Seconds(), Cores: runtime.NumCPU(), Latencies: map[string]Latency{}, Statuses: map[int]int{}, Wrong: []string{}, times: map[string][]time.Duration{}}
}

func (r *Report) add(kind string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times[kind] = append(r.times[kind], took)
}

// finish makes the distributions.
func (r *Report) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, times := range r.times {
		r.Latencies[kind] = latency(times)
	}
}

func (r *Report) status(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Statuses[code]++
}

// maxWrong is how many of its complaints a report shows.
const maxWrong = 20

func (r *Report) wrong(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Wrongs++
	if len(r.Wrong) < maxWrong {
		r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
	}
}

func latency(times []time.Duration) Latency {
	sorted := slices.Sorted(slices.Values(times))
	at := func(q float64) float64 { return sorted[int(math.Ceil(q*float64(len(sorted))))-1].Seconds() }
	return Latency{len(sorted), at(0.5), at(0.99), at(1)}
}

// watch looks at the server's metrics twice a second until ctx is done.
func (l *load) watch(ctx context.Context) {
	begin := time.Now()
	var quarters [4][]int64
	for ticks := time.Tick(500 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			m := &l.report.Memory
			m.Second, m.Last = mean(quarters[1]), mean(quarters[3])
			return
		case <-ticks:
		}
		values, err := l.metrics(ctx)
		if err != nil {
			continue // the server is away
		}
		memory := int64(values["process_resident_memory_bytes"])
		quarter := min(int(4*time.Since(begin)/l.Time), 3)
		quarters[quarter] = append(quarters[quarter], memory)
		l.report.Memory.Peak = max(l.report.Memory.Peak, memory)
		l.report.Memory.Goroutines = max(l.report.Memory.Goroutines, int(values["go_goroutines"]))
	}
}

func mean(values []int64) int64 {
	if len(values) == 0 {
		return 0
	}
	sum := int64(0)
	for _, v := range values {
		sum += v
	}
	return sum / int64(len(values))
}

// metrics reads the metrics that have no labels.
func (l *load) metrics(ctx context.Context) (map[string]float64, error) {
	l.mu.Lock()
	url := l.url + "metrics"
	l.mu.Unlock()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := l.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// Print writes the report as a table in Markdown.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "| requests | count | p50 | p99 | longest |\n|---|---|---|---|---|\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Latencies)) {
		l := r.Latencies[kind]
		fmt.Fprintf(w, "| %s | %d | %.2f s | %.2f s | %.2f s |\n", kind, l.Count, l.P50, l.P99, l.Max)
	}
	fmt.Fprintf(w, "\nstatuses  ")
	for _, s := range slices.Sorted(maps.Keys(r.Statuses)) {
		fmt.Fprintf(w, "  %d: %d", s, r.Statuses[s])
	}
	m := r.Memory
	fmt.Fprintf(w, "\nmemory      peak %d MB, mean of the second quarter %d MB, of the last %d MB; at most %d goroutines\n", m.Peak>>20, m.Second>>20, m.Last>>20, m.Goroutines)
	fmt.Fprintf(w, "ready       ")
	for i, s := range r.Starts {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%.2f s", s)
	}
	fmt.Fprintf(w, " after a start; ended %.2f s after SIGTERM\n", r.Drain)
	fmt.Fprintf(w, "adapters    %d places fetched again; %d files kept, all whole; %d temporary files left by the kill\n", r.Again, r.Kept, r.Temporary)
	fmt.Fprintf(w, "wrong       %d\n", r.Wrongs)
	for _, text := range r.Wrong {
		fmt.Fprintf(w, "  %s\n", text)
	}
}
