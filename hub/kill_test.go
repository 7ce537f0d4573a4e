package hub_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
)

// env makes the test binary a process that pulls org/gen into a cache, for tests that kill
// it or start several.
const env = "DND_HUB_TEST_CACHE"

func TestMain(m *testing.M) {
	dir := os.Getenv(env)
	if dir == "" {
		goleak.VerifyTestMain(m) // no test leaves a goroutine behind
		return
	}
	c, err := hub.New(dir)
	if err == nil {
		_, err = c.Pull(context.Background(), "org/gen")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// puller is a process that pulls org/gen.
func puller(t *testing.T, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+dir)
	return cmd
}

// slow sends large files in pieces, each after a pause.
func slow(s *server, pause time.Duration) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		text := s.commits[commitA][weights]
		if !strings.HasSuffix(r.URL.Path, weights) {
			return false
		}
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(text)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(text)-1, len(text)))
			w.WriteHeader(http.StatusPartialContent)
		}
		for from < len(text) && r.Context().Err() == nil {
			n := min(len(text)/100+1, len(text)-from)
			io.WriteString(w, text[from:from+n])
			w.(http.Flusher).Flush()
			from += n
			time.Sleep(pause)
		}
		return true
	}
}

// Whenever a process is killed, the cache holds a whole package or none, and the next
// process goes on where that one stopped.
func TestKill(t *testing.T) {
	s := serve(t)
	s.on(slow(s, 3*time.Millisecond))
	_, dir := cache(t, s)
	random := rand.New(rand.NewPCG(1, 2))
	killed := 0
	for i := range 40 {
		asked := s.asked(weights)
		cmd := puller(t, dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Half of them at any time, half of them in the middle of the large file.
		for end := time.Now().Add(time.Second); i%2 == 0 && s.asked(weights) == asked && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		list, err := reopen(t, dir).List()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if !e.Unfinished {
				whole(t, e, s.commits[commitA])
				if _, err := reopen(t, dir).Remove(t.Context(), e.SHA256); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	resumed := s.asked(weights + " bytes=")
	t.Logf("%d processes killed, %d downloads resumed", killed, resumed)
	if killed < 10 || resumed < 5 {
		t.Errorf("%d processes killed, %d downloads resumed: the test is not what it should be", killed, resumed)
	}
	e, err := reopen(t, dir).Get(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, e, s.commits[commitA])
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) > 0 {
		t.Errorf("partial holds %v", left)
	}
}

// A process that was killed when its package was whole, and nothing else done: the next one
// takes the empty folder of what had arrived away.
func TestKilledAtTheEnd(t *testing.T) {
	c, dir := cache(t, serve(t))
	e, err := c.Pull(t.Context(), "org/gen")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "refs")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "partial", e.SHA256), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(t, dir).Pull(t.Context(), "org/gen"); err != nil {
		t.Fatal(err)
	}
	list, err := reopen(t, dir).List()
	if err != nil || len(list) != 1 || list[0].Unfinished || list[0].Source == "" {
		t.Errorf("the cache lists %+v (%v), expected the package with its source alone", list, err)
	}
}

// Several processes that want the same package fetch it once; all get it.
func TestTwoProcesses(t *testing.T) {
	s := serve(t)
	s.on(slow(s, 5*time.Millisecond))
	c, dir := cache(t, s)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if out, err := puller(t, dir).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	// So do goroutines of one process.
	for range 2 {
		wg.Go(func() {
			if _, err := c.Get(t.Context(), "org/gen"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.asked(weights); n != 1 {
		t.Errorf("%d requests for %s, want 1", n, weights)
	}
	list, err := c.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	whole(t, list[0], s.commits[commitA])
	if list[0].SHA256 != sumOf(s.commits[commitA][generator.ManifestName]) {
		t.Errorf("%+v", list[0])
	}
}

// One process stops waiting for another when its context ends.
func TestWaitEnds(t *testing.T) {
	s := serve(t)
	s.on(slow(s, 20*time.Millisecond))
	c, dir := cache(t, s)
	cmd := puller(t, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for s.asked(weights) == 0 {
		time.Sleep(time.Millisecond)
	}
	waiting := make(chan string, 1)
	c.Note = func(text string) { waiting <- text }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if text := <-waiting; !strings.Contains(text, "another process") {
			t.Errorf("note %q", text)
		}
		cancel()
	}()
	_, err := c.Pull(ctx, "org/gen")
	fails(t, err, "canceled")
}
