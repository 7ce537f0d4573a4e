package host_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/host"
	"github.com/drag-and-drop-lora/dnd/internal/guestwasm"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

func dndWASM(t testing.TB) []byte {
	t.Helper()
	raw, err := guestwasm.Build()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// cacheDir is shared by the tests of one run: compiling the guest takes seconds.
var cacheDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "host-test-*")
	if err != nil {
		panic(err)
	}
	cacheDir = dir
	// No test leaves a goroutine behind.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func start(t testing.TB, o host.Options) *host.Host {
	t.Helper()
	if o.Guest == nil {
		o.Guest = dndWASM(t)
	}
	if o.Executor == nil {
		o.Executor = &pretender{}
	}
	if o.CacheDir == "" {
		o.CacheDir = cacheDir
	}
	h, err := host.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// pretender is an executor without a device: the tokens it gives depend on the inputs.
type pretender struct {
	mu       sync.Mutex
	programs [][]byte // that it was given
	spoil    bool     // give NaN
}

func (e *pretender) Limits() graph.Limits { return graph.DefaultLimits() }

func (e *pretender) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.programs = append(e.programs, text)
	e.mu.Unlock()
	sum := sha256.New()
	for _, i := range in {
		fmt.Fprintf(sum, "%s %d ", i.Name, len(i.Data))
		sum.Write(i.Data)
	}
	random := rand.New(rand.NewChaCha8([32]byte(sum.Sum(nil))))
	r := &graph.Result{Stages: []graph.StageTime{{Stage: "decode", Duration: 1}}, PeakBytes: 5}
	for _, read := range p.Reads {
		data := make([]byte, read.Bytes)
		for i := 0; i < len(data); i += 4 {
			binary.LittleEndian.PutUint32(data[i:], uint32(0x3c000000+random.IntN(0x03000000)))
			if e.spoil {
				binary.LittleEndian.PutUint32(data[i:], 0x7fc00000)
			}
		}
		r.Outputs = append(r.Outputs, graph.Output{Name: read.Name, Data: data})
	}
	if report != nil {
		report(graph.Progress{Stage: "decode", Done: 1, Total: 1})
	}
	return r, ctx.Err()
}

// direct makes an adapter's files without a guest.
func direct(t testing.TB, p *generator.Package, e graph.Executor, r host.Request) map[string][]byte {
	t.Helper()
	m := &p.Manifest
	list, err := text.ParsePrompts(r.Prompts, strings.ToLower(filepath.Ext(r.Name)), r.Field)
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := p.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := text.Draw(list, m.Condition.Texts, r.Seed, r.Draw)
	batch, err := tokenizer.Encode(texts, m.Condition.Length)
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := generator.Feed(m, batch)
	if err != nil {
		t.Fatal(err)
	}
	program, err := generator.Compile(m, e.Limits(), generator.F32)
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Run(t.Context(), program, p.Weights(), inputs, nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, _ := result.Output(generator.OutputTokens)
	adapter, err := generator.Finish(m, generator.Float32s(tokens), nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := lora.Files(adapter, lora.Options{Format: r.Format, Provenance: lora.Provenance{
		Tool: r.Tool, Generator: m.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: text.Hash(list), Seed: r.Seed, Draw: r.Draw, Backend: r.Backend}})
	if err != nil {
		t.Fatal(err)
	}
	return contents(t, files)
}

func contents(t testing.TB, files []lora.File) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, f := range files {
		var buf bytes.Buffer
		if err := f.Write(&buf); err != nil {
			t.Fatal(err)
		}
		all[f.Name] = buf.Bytes()
	}
	return all
}

func same(t testing.TB, what string, got, want map[string][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d", what, len(got), len(want))
	}
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s: %s differs from the file that is made without a guest", what, name)
		}
	}
}

// An adapter through the guest has the bytes of one without, and so has its Program.
func TestGenerate(t *testing.T) {
	p := madeup.Open(t)
	e := &pretender{}
	h := start(t, host.Options{Executor: e})
	for _, r := range []host.Request{
		{Prompts: []byte("first\nsecond\n"), Name: "p.txt", Format: lora.PEFT, Tool: "test", Backend: "none"},
		{Prompts: []byte(`[{"q": "one"}, {"q": "two"}]`), Name: "q.json", Field: "q", Seed: -7, Draw: 3, Format: lora.GGUF},
	} {
		e.programs = nil
		result, err := h.Generate(t.Context(), p, r)
		if err != nil {
			t.Fatal(err)
		}
		same(t, r.Name, contents(t, result.Files), direct(t, p, e, r))
		if len(e.programs) != 2 || !bytes.Equal(e.programs[0], e.programs[1]) {
			t.Errorf("%s: the guest's program differs from the one that is compiled without", r.Name)
		}
		if result.Info.Prompts != 2 || !result.Info.Cycled || len(result.Report.Layers) != 2 || result.PeakBytes != 5 {
			t.Errorf("%s: %+v, %d layers, peak %d", r.Name, result.Info, len(result.Report.Layers), result.PeakBytes)
		}
		var stages []string
		for _, s := range result.Stages {
			stages = append(stages, s.Stage)
		}
		if got := strings.Join(stages, " "); got != "feed compile decode finish" {
			t.Errorf("%s: stages %s", r.Name, got)
		}
		dir := filepath.Join(t.TempDir(), "adapter")
		if err := lora.WriteFiles(dir, result.Files); err != nil {
			t.Fatal(err)
		}
		if _, err := lora.Verify(dir); err != nil {
			t.Error(err)
		}
	}
}

// Many at a time share the guests and get each their own adapter.
func TestConcurrent(t *testing.T) {
	p := madeup.Open(t)
	e := &pretender{}
	h := start(t, host.Options{Executor: e, Guests: 2, Trusted: true})
	var wg sync.WaitGroup
	for i := range 6 {
		r := host.Request{Prompts: fmt.Appendf(nil, "prompt %d\n", i%3), Name: "p.txt", Format: lora.PEFT}
		want := direct(t, p, e, r)
		wg.Go(func() {
			result, err := h.Generate(t.Context(), p, r)
			if err != nil {
				t.Error(err)
				return
			}
			same(t, fmt.Sprint("prompt ", i), contents(t, result.Files), want)
		})
	}
	wg.Wait()
}

// What is wrong with a request is said by the guest, which goes on working.
func TestBadRequests(t *testing.T) {
	p := madeup.Open(t)
	e := &pretender{}
	h := start(t, host.Options{Executor: e, Guests: 1})
	good := host.Request{Prompts: []byte("a"), Name: "p.txt"}
	for _, c := range []struct {
		request host.Request
		want    string
	}{
		{host.Request{Prompts: nil, Name: "p.txt"}, "p.txt: no prompt in it"},
		{host.Request{Prompts: []byte("a\nb\xff"), Name: "p.txt"}, "line 2: not valid UTF-8"},
		{host.Request{Prompts: []byte("a"), Name: "p.pdf"}, `".pdf"`},
		{host.Request{Prompts: []byte(`[{"a":1}]`), Name: "p.json"}, "record"},
		{host.Request{Prompts: []byte("a"), Name: "p.txt", Format: "zip"}, `"zip"`},
	} {
		if _, err := h.Generate(t.Context(), p, c.request); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one of %q", c.request.Prompts, err, c.want)
		}
	}
	e.spoil = true
	if _, err := h.Generate(t.Context(), p, good); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("a device that gives NaN: error %v", err)
	}
	e.spoil = false
	if _, err := h.Generate(t.Context(), p, good); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Generate(ctx, p, good); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := h.Generate(t.Context(), p, good); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: error %v", err)
	}
}

// The compiled guest is kept, and a damaged cache costs time only.
func TestCache(t *testing.T) {
	p := madeup.Open(t)
	// A guest that is compiled in no time, so that a file is all that tells.
	wasm := scripted(t, honest(t, p)).assemble()
	dir := t.TempDir()
	files := func() (list []string) {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				list = append(list, path)
			}
			return err
		})
		return list
	}
	for i, damage := range []func(raw []byte) []byte{
		nil,
		func(raw []byte) []byte { return raw },
		func(raw []byte) []byte { return raw[:len(raw)/2] },
		func(raw []byte) []byte { raw[len(raw)/2] ^= 0xff; return raw },
		func(raw []byte) []byte { return nil },
	} {
		if damage != nil {
			list := files()
			if len(list) != 1 {
				t.Fatalf("cache files %q, want one", list)
			}
			raw, err := os.ReadFile(list[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(list[0], damage(raw), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h := start(t, host.Options{Guest: wasm, CacheDir: dir})
		if _, err := h.Generate(t.Context(), p, small); err != nil {
			t.Errorf("run %d: %v", i, err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := host.New(t.Context(), host.Options{Guest: wasm, Executor: &pretender{}, CacheDir: file}); err == nil {
		t.Error("a file was taken as cache folder")
	}
}

// Close lets calls under way end; what comes later is refused.
func TestCloseWhileWorking(t *testing.T) {
	p := madeup.Open(t)
	h := start(t, host.Options{Guests: 2, Trusted: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := h.Generate(t.Context(), p, small); err != nil {
					if !strings.Contains(err.Error(), "host: closed") {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
