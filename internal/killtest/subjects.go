package killtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// workshop is what the commands work on.
type workshop struct {
	Options
	prompts                   string
	generator, encoder, base  string
	data, collected           string
	layout                    string
	server                    *httptest.Server
	ranges                    atomic.Int64 // requests that go on in a file
	rank, chunk, texts, words int
}

func newWorkshop(ctx context.Context, o Options) (*workshop, error) {
	w := &workshop{Options: o, rank: 2, chunk: 32, texts: 2, words: 16}
	w.prompts, w.generator = filepath.Join(o.Dir, "prompts.txt"), filepath.Join(o.Dir, "generator")
	w.encoder, w.base = filepath.Join(o.Dir, "encoder"), filepath.Join(o.Dir, "base.gguf")
	w.data, w.layout = filepath.Join(o.Dir, "data"), filepath.Join(o.Dir, "layout.json")
	b := madeup.SmallBase("llama")
	b.Rank, b.Alpha = w.rank, float64(2*w.rank)
	err := errors.Join(
		os.WriteFile(w.prompts, []byte("what is one\nname a colour\n"), 0o600),
		madeup.Write(ctx, w.generator), madeup.WriteEncoder(w.encoder),
		madeup.WriteBase(w.base, madeup.BaseOptions{Base: b, Types: []gguf.TensorType{gguf.F32}}),
		os.Mkdir(w.data, 0o755),
	)
	for _, name := range []string{"ayes", "noes", "ones"} {
		var records []map[string]string
		for i := range 12 {
			records = append(records, map[string]string{"prompt": fmt.Sprintf("the %s, %d", name, i), "response": name[:3]})
		}
		err = errors.Join(err, writeJSON(filepath.Join(w.data, name+".json"), records))
	}
	if err != nil {
		return nil, err
	}
	tiling := lora.Tiling{Kind: "custom", Height: w.rank + 2, Width: w.chunk + 2, Chunk: w.chunk}
	l, err := lora.NewLayout(b, tiling)
	if err != nil {
		return nil, err
	}
	t, h, width := l.Shape()
	err = writeJSON(w.layout, map[string]any{
		"class": "HyperConvDecoderModel_FullCond", "features": [][3]int{{w.texts, w.words, 384}, {8, 8, 16}, {t, h, width}},
		"kernel_size": 3, "affine": true, "tokenizer": "custom", "chunk": w.chunk,
	})
	w.server = httptest.NewServer(http.HandlerFunc(w.slowly))
	return w, err
}

func (w *workshop) close() { w.server.Close() }

func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// slowly serves the generator's files, with pauses in the large ones.
func (w *workshop) slowly(out http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Range") != "" {
		w.ranges.Add(1)
	}
	path := filepath.Join(w.generator, filepath.FromSlash(r.URL.Path))
	if strings.HasSuffix(path, ".safetensors") {
		out = &slow{out}
	}
	http.ServeFile(out, r, path)
}

// slow lets a file take a quarter of a second or so.
type slow struct{ http.ResponseWriter }

func (s *slow) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		m, err := s.ResponseWriter.Write(p[:min(len(p), 16<<10)])
		n += m
		if err != nil {
			return n, err
		}
		s.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(2 * time.Millisecond)
		p = p[m:]
	}
	return n, nil
}

// timed runs a command to its end.
func timed(cmd *exec.Cmd) (seconds float64, err error) {
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%q: %w: %s", cmd.Args, err, out)
	}
	return time.Since(begin).Seconds(), nil
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// subject prepares a command: it runs once without being killed, for its result and time.
func (w *workshop) subject(ctx context.Context, name string) (*subject, error) {
	s := &subject{row: Row{Command: name, Wrong: []string{}}, resumed: func() int { return 0 }}
	var err error
	switch name {
	case Pull:
		err = w.pull(s)
	case Generate:
		err = w.generate(ctx, s)
	case Collect:
		err = w.collect(s)
	case Fit:
		err = w.fit(s)
	default:
		err = errors.New("no such command here")
	}
	return s, err
}

// pull fetches the generator into an empty cache.
func (w *workshop) pull(s *subject) error {
	s.out = filepath.Join(w.Dir, "cache")
	s.command = func() *exec.Cmd {
		cmd := w.Dndgen("pull", "--quiet", w.server.URL)
		if cmd.Env == nil {
			cmd.Env = os.Environ()
		}
		cmd.Env = append(cmd.Env, "DND_CACHE="+s.out, "HF_HUB_OFFLINE=")
		return cmd
	}
	s.clear = func() error { return os.RemoveAll(s.out) }
	// The first run brings programs and files into memory.
	for range 2 {
		var err error
		if s.row.Seconds, err = timed(s.command()); err != nil {
			return err
		}
		if err := s.clear(); err != nil {
			return err
		}
	}
	s.look = func() (bool, error) {
		cache, err := hub.New(s.out)
		if err != nil {
			return false, err
		}
		list, err := cache.List()
		if err != nil {
			return false, err
		}
		finished := false
		for _, e := range list {
			if !e.Unfinished {
				// A package without a source may be there before the last file says whose it is.
				finished = finished || e.Source != ""
				if err := sameFolder(e.Dir, w.generator, func(string) bool { return false }); err != nil {
					return finished, err
				}
			}
		}
		return finished, nil
	}
	s.check = func() error {
		if left, _ := os.ReadDir(filepath.Join(s.out, "partial")); len(left) > 0 {
			return fmt.Errorf("finished, but partial holds %v", left)
		}
		return nil
	}
	s.resumed = func() int { return int(w.ranges.Load()) }
	return nil
}

// generate makes an adapter where there is none, and then one in place of it.
func (w *workshop) generate(ctx context.Context, s *subject) error {
	dir := filepath.Join(w.Dir, "generate")
	wants := [2]string{filepath.Join(dir, "want 0"), filepath.Join(dir, "want 1")}
	s.out = filepath.Join(dir, "here")
	out := filepath.Join(s.out, "adapter")
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	made := 0
	command := func(out string, seed int) *exec.Cmd {
		return w.Dndgen("generate", "--quiet", "--generator", w.generator, "--prompts", w.prompts, "--backend", "cpu", "--seed", fmt.Sprint(seed), "--out", out)
	}
	for seed, want := range wants {
		var err error
		if s.row.Seconds, err = timed(command(want, seed)); err != nil {
			return err
		}
	}
	s.command = func() *exec.Cmd { return command(out, made%2) }
	is := func(seed int) error { return sameFolder(out, wants[seed], func(string) bool { return false }) }
	s.look = func() (bool, error) {
		switch {
		case !exists(out) && made%2 == 1:
			return false, errors.New("the adapter that was there is gone")
		case !exists(out):
			return false, nil
		case is(made%2) == nil:
			return true, nil
		case made%2 == 1 && is(0) == nil:
			return false, nil // the one that was there before
		}
		return false, errors.Join(errors.New("neither the adapter nor what was there before"), is(made%2))
	}
	s.check = func() error { _, err := lora.Verify(out); return err }
	s.clear = func() error {
		// Every other result stays, for the next to take its place.
		made++
		if made%2 == 0 {
			return errors.Join(os.RemoveAll(s.out), os.Mkdir(s.out, 0o755))
		}
		return nil
	}
	return ctx.Err()
}

// collect tunes LoRAs on three data sets.
func (w *workshop) collect(s *subject) error {
	dir := filepath.Join(w.Dir, "collect")
	w.collected = filepath.Join(dir, "want")
	s.out = filepath.Join(dir, "here")
	command := func(out string) *exec.Cmd {
		return w.Dndtrain("collect", "--quiet", "--backend", "cpu", "--base", w.base, "--data", w.data, "--out", out, "--rank", fmt.Sprint(w.rank),
			"--alpha", fmt.Sprint(2*w.rank), "--steps", "6", "--warm-up", "1", "--late-steps", "3", "--batch", "4")
	}
	var err error
	if s.row.Seconds, err = timed(command(w.collected)); err != nil {
		return err
	}
	wanted, err := sets(w.collected)
	if err != nil {
		return err
	}
	s.command = func() *exec.Cmd { return command(s.out) }
	resumed := 0
	s.look = func() (bool, error) {
		have, err := sets(s.out)
		if err != nil {
			return false, err
		}
		for _, name := range have {
			if err := sameFolder(filepath.Join(s.out, name), filepath.Join(w.collected, name), func(name string) bool { return name == "collect.json" }); err != nil {
				return false, err
			}
			if !exists(filepath.Join(s.out, name, "collect.json")) {
				return false, fmt.Errorf("%s has no collect.json", name)
			}
		}
		if len(have) > 0 && len(have) < len(wanted) {
			resumed++
		}
		return len(have) == len(wanted), nil
	}
	s.resumed = func() int { return resumed }
	s.check = func() error { return nil }
	s.clear = func() error { return os.RemoveAll(s.out) }
	return nil
}

// sets are the data sets in a collection.
func sets(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// fit fits a decoder on what collect made, with a checkpoint every three steps.
func (w *workshop) fit(s *subject) error {
	if w.collected == "" {
		if err := w.collect(&subject{}); err != nil {
			return err
		}
	}
	dir := filepath.Join(w.Dir, "fit")
	want := filepath.Join(dir, "want")
	s.out = filepath.Join(dir, "here")
	const steps, every = 12, 3
	command := func(out string) *exec.Cmd {
		return w.Dndtrain("fit", "--quiet", "--backend", "cpu", "--data", w.collected, "--layout", w.layout, "--encoder", w.encoder, "--out", out,
			"--batch", "4", "--steps", fmt.Sprint(steps), "--save-every", fmt.Sprint(every), "--average", "0.9")
	}
	var err error
	if s.row.Seconds, err = timed(command(want)); err != nil {
		return err
	}
	s.command = func() *exec.Cmd { return command(s.out) }
	last, resumed := 0, 0
	s.look = func() (bool, error) {
		step, err := savedStep(s.out)
		if err != nil {
			return false, err
		}
		if step < last || step%every != 0 {
			return false, fmt.Errorf("the checkpoint is of step %d, a process before has saved step %d", step, last)
		}
		if last > 0 {
			resumed++
		}
		last = step
		return step == steps, nil
	}
	s.resumed = func() int { return resumed }
	s.check = func() error {
		last = 0
		return errors.Join(sameFile(filepath.Join(s.out, "checkpoint.safetensors"), filepath.Join(want, "checkpoint.safetensors")),
			sameFile(filepath.Join(s.out, "coverage.json"), filepath.Join(want, "coverage.json")), checkMetrics(s.out, steps))
	}
	s.clear = func() error { return os.RemoveAll(s.out) }
	return nil
}

// savedStep is the step of a run's checkpoint, 0 if there is none. It reads every value.
func savedStep(dir string) (int, error) {
	f, err := safetensors.Open(filepath.Join(dir, "checkpoint.safetensors"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for _, t := range f.Tensors {
		if _, err := f.Float32s(t.Name); err != nil {
			return 0, err
		}
	}
	var curve struct{ Points []any }
	err = json.Unmarshal([]byte(f.Metadata["curve"]), &curve)
	return len(curve.Points), err
}

// checkMetrics looks for one line a step in metrics.jsonl.
func checkMetrics(dir string, steps int) error {
	f, err := os.Open(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		return err
	}
	defer f.Close()
	var have []int
	for d := json.NewDecoder(f); ; {
		var m struct{ Step int }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		have = append(have, m.Step)
	}
	for i := range steps {
		if i >= len(have) || have[i] != i+1 {
			return fmt.Errorf("%s: steps %v, want 1 to %d", f.Name(), slices.Clip(have), steps)
		}
	}
	return nil
}
