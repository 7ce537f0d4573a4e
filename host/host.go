// Package host embeds the generator's guest, package wasm, under wazero: New compiles it,
// Generate turns prompts into an adapter's files, Close ends it. The guest gets memory up
// to a limit and nothing else: no file system, no clock, no network; unless it is trusted,
// a call ends with its context. Its Programs are validated and go to an executor that the
// caller hands in (package gpu's device), so this package builds without cgo.
//
// The guest is untrusted: spans, messages, Programs and results are checked before
// anything is made of them, and an instance that trapped is thrown away. What its WGSL may
// do is the executor's matter. Its ABI is package guest's documentation. The files go to
// the caller, who writes them with lora.WriteFiles or sends them on.
package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Options say what a Host is made of.
type Options struct {
	// Guest is the module: dnd.wasm of make wasm, or
	//
	//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w' -o dnd.wasm github.com/drag-and-drop-lora/dnd/wasm
	Guest []byte
	// Executor runs the guest's Programs.
	Executor graph.Executor
	// DType is the type of weights on the device, generator.F32 if empty.
	DType string
	// CacheDir keeps the compiled guest for later processes, which start a hundred times
	// faster. Whoever can write to it can run code here. Empty: nothing is kept.
	CacheDir string
	// Memory is the most bytes that one guest may have, 2 GiB if 0.
	Memory int64
	// Guests is how many may work at a time, 2 if 0. Calls beyond wait.
	Guests int
	// Trusted says that the guest is one's own build, whose calls end by themselves: they
	// are not stopped by the context, which is looked at between them, and take about a
	// quarter of the time. All other limits hold.
	Trusted bool
}

// Host generates adapters. It is safe for concurrent use.
type Host struct {
	options  Options
	runtime  wazero.Runtime
	cache    wazero.CompilationCache
	compiled wazero.CompiledModule
	// slots has a place for each guest that may work: one that is idle, or nil for one
	// that is still to be made.
	slots  chan *instance
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	program *graph.Program // the last one, and the package that it is for
	of      string
}

// Request is one adapter to make.
type Request struct {
	// Prompts is a prompt file's bytes, Name its name, whose ending gives the format: see
	// docs/formats.md. Field is the key of a record's prompt, "prompt" if empty.
	Prompts []byte
	Name    string
	Field   string
	// Seed and Draw choose the generator's prompts from the file, see text.Draw.
	Seed int64
	Draw int
	// Format is lora.PEFT, GGUF or MLX, the first if empty.
	Format string
	// Tool and Backend are for the adapter's provenance: who asks, and what computes.
	Tool, Backend string
	// Progress may be nil. It is called from the goroutine that called Generate.
	Progress func(graph.Progress)
}

// Result is an adapter.
type Result struct {
	Files  []lora.File
	Info   guest.FeedInfo // what was found in the prompts
	Report guest.Report   // norms of the adapter's layers and modules
	// Stages are the times of the guest's calls (feed, compile, finish) and of the
	// Program's stages, in order.
	Stages []graph.StageTime
	// PeakBytes is the most device memory that was allocated at a time.
	PeakBytes int64
	// Piece is the most bytes of a buffer, if the device's memory sufficed for smaller ones
	// than usual only; else 0.
	Piece int64
}

// New compiles the guest and checks that it speaks this version of the ABI.
func New(ctx context.Context, o Options) (*Host, error) {
	if o.Executor == nil {
		return nil, errors.New("host: no executor")
	}
	if o.DType == "" {
		o.DType = generator.F32
	}
	if o.Memory == 0 {
		o.Memory = 2 << 30
	}
	if o.Guests == 0 {
		o.Guests = 2
	}
	if o.Memory < pageBytes || o.Memory > 1<<32 || o.Guests < 1 {
		return nil, fmt.Errorf("host: %d guests of at most %d bytes, expected 1 or more of 64 KiB to 4 GiB", o.Guests, o.Memory)
	}
	h := &Host{options: o, slots: make(chan *instance, o.Guests), closed: make(chan struct{})}
	if err := h.compile(ctx); err != nil {
		h.release(ctx)
		return nil, err
	}
	first, err := h.instantiate(ctx)
	if err != nil {
		h.release(ctx)
		return nil, err
	}
	h.slots <- first
	for range o.Guests - 1 {
		h.slots <- nil
	}
	return h, nil
}

// Close waits for the guests' calls under way and ends them all. Generate fails from then
// on. It does not close the executor.
func (h *Host) Close() error {
	var err error
	h.once.Do(func() {
		close(h.closed)
		for range cap(h.slots) {
			<-h.slots
		}
		err = h.release(context.Background())
	})
	return err
}

// Generate makes one adapter with the generator p. It returns soon after ctx is done.
func (h *Host) Generate(ctx context.Context, p *generator.Package, r Request) (*Result, error) {
	if err := p.Manifest.Complete(); err != nil {
		return nil, err
	}
	manifest, err := p.Text()
	if err != nil {
		return nil, err
	}
	if r.Format == "" {
		r.Format = lora.PEFT
	}
	result := &Result{}
	timed := func(stage string, work func() error) error {
		begin := time.Now()
		err := work()
		result.Stages = append(result.Stages, graph.StageTime{Stage: stage, Duration: time.Since(begin)})
		return err
	}
	var inputs []graph.Input
	if err := timed("feed", func() (err error) {
		inputs, err = h.feed(ctx, p, manifest, &r, &result.Info)
		return err
	}); err != nil {
		return nil, err
	}
	var program *graph.Program
	if err := timed("compile", func() (err error) {
		program, err = h.compiledFor(ctx, p, manifest)
		return err
	}); err != nil {
		return nil, err
	}
	var run *graph.Result
	smaller := func(limits graph.Limits) (*graph.Program, error) { return h.plan(ctx, p, manifest, limits) }
	if result.Piece, err = generator.InPieces(program, h.options.Executor.Limits(), smaller, func(program *graph.Program) (err error) {
		run, err = h.options.Executor.Run(ctx, program, p.Weights(), inputs, r.Progress)
		return err
	}, func(int64) {}); err != nil {
		return nil, err
	}
	result.Stages = append(result.Stages, run.Stages...)
	result.PeakBytes = run.PeakBytes
	if err := timed("finish", func() error { return h.finish(ctx, p, manifest, &r, inputs, run, result) }); err != nil {
		return nil, err
	}
	return result, nil
}

func (h *Host) feed(ctx context.Context, p *generator.Package, manifest []byte, r *Request, info *guest.FeedInfo) ([]graph.Input, error) {
	v, err := p.Vocabulary()
	if err != nil {
		return nil, err
	}
	m := guest.Message{{Name: guest.PartManifest, Data: manifest}, {Name: guest.PartPrompts, Data: r.Prompts}}
	if v.JSON != nil {
		m = append(m, guest.Part{Name: guest.PartTokenizer, Data: v.JSON})
	} else {
		m = append(m, guest.Part{Name: guest.PartVocab, Data: v.Text})
		if v.Config != nil {
			m = append(m, guest.Part{Name: guest.PartTokenizerConfig, Data: v.Config})
		}
	}
	out, err := h.call(ctx, "feed", m, guest.FeedOptions{Name: r.Name, Field: r.Field, Seed: r.Seed, Draw: r.Draw})
	if err != nil {
		return nil, err
	}
	var inputs []graph.Input
	for _, name := range []string{guest.PartIDs, guest.PartMask} {
		data, err := part(out, name)
		if err != nil {
			return nil, err
		}
		if c := p.Manifest.Condition; int64(len(data)) != 4*int64(c.Texts)*int64(c.Length) {
			return nil, fmt.Errorf("host: the guest's %s have %d bytes, expected %d texts of %d words", name, len(data), c.Texts, c.Length)
		}
		inputs = append(inputs, graph.Input{Name: name, Data: data})
	}
	return inputs, object(out, guest.PartInfo, info)
}

// compiledFor is the Program of a package. The last one is kept: it depends on nothing
// but the manifest.
func (h *Host) compiledFor(ctx context.Context, p *generator.Package, manifest []byte) (*graph.Program, error) {
	h.mu.Lock()
	kept, of := h.program, h.of
	h.mu.Unlock()
	if of == p.SHA256 {
		return kept, nil
	}
	program, err := h.plan(ctx, p, manifest, h.options.Executor.Limits())
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.program, h.of = program, p.SHA256
	h.mu.Unlock()
	return program, nil
}

// plan lets the guest make a Program for limits, and checks it.
func (h *Host) plan(ctx context.Context, p *generator.Package, manifest []byte, limits graph.Limits) (*graph.Program, error) {
	out, err := h.call(ctx, "compile", guest.Message{{Name: guest.PartManifest, Data: manifest}},
		guest.CompileOptions{Stage: guest.StageGenerate, Batch: 1, DType: h.options.DType, Limits: &limits})
	if err != nil {
		return nil, err
	}
	text, err := part(out, guest.PartProgram)
	if err != nil {
		return nil, err
	}
	program, err := graph.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("host: the guest's %w", err)
	}
	return program, checkReads(program, &p.Manifest)
}

// checkReads checks that a Program reads back the weight tokens, the condition where the
// manifest has a Coverage, and nothing else, so that what it returns has a known size.
func checkReads(p *graph.Program, m *generator.Manifest) error {
	bytes := func(shape [3]int) int64 { return 4 * int64(shape[0]) * int64(shape[1]) * int64(shape[2]) }
	left := map[string]int64{generator.OutputTokens: bytes(m.Decoder.Output())}
	if m.Coverage != nil {
		left[generator.OutputCondition] = bytes(m.Decoder.Condition())
	}
	for _, r := range p.Reads {
		if _, ok := left[r.Name]; !ok {
			return fmt.Errorf("host: the guest's program reads %.64q, expected %q", r.Name, slices.Sorted(maps.Keys(left)))
		}
		left[r.Name] -= r.Bytes
	}
	for name, n := range left {
		if n != 0 {
			return fmt.Errorf("host: the guest's program reads %d bytes too few of %s (negative: too many) for the manifest's shapes", n, name)
		}
	}
	return nil
}

func (h *Host) finish(ctx context.Context, p *generator.Package, manifest []byte, r *Request, inputs []graph.Input, run *graph.Result, result *Result) error {
	o := guest.FinishOptions{Format: r.Format, Provenance: lora.Provenance{
		Tool: r.Tool, Generator: p.Manifest.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: result.Info.SHA256,
		Seed: r.Seed, Draw: r.Draw, Backend: r.Backend,
	}}
	tokens, _ := run.Output(generator.OutputTokens)
	m := guest.Message{{Name: guest.PartManifest, Data: manifest}, {Name: guest.PartTokens, Data: tokens}}
	if condition, ok := run.Output(generator.OutputCondition); ok {
		m = append(m, guest.Part{Name: guest.PartCondition, Data: condition})
		for _, in := range inputs {
			if in.Name == guest.PartMask {
				m = append(m, guest.Part{Name: guest.PartMask, Data: in.Data})
			}
		}
	}
	out, err := h.call(ctx, "finish", m, o)
	if err != nil {
		return err
	}
	for _, p := range out {
		name, ok := strings.CutPrefix(p.Name, guest.PartFile)
		if !ok {
			continue
		}
		if !lora.FileName(name) {
			return fmt.Errorf("host: the guest made the file %.64q, which no adapter has", name)
		}
		result.Files = append(result.Files, lora.File{Name: name, Write: func(w io.Writer) error {
			_, err := w.Write(p.Data)
			return err
		}})
	}
	if len(result.Files) == 0 {
		return errors.New("host: the guest made no files")
	}
	return object(out, guest.PartReport, &result.Report)
}

// call makes one call of a guest, in a message with options.
func (h *Host) call(ctx context.Context, name string, m guest.Message, options any) (guest.Message, error) {
	raw, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	text, err := append(m, guest.Part{Name: guest.PartOptions, Data: raw}).Encode()
	if err != nil {
		return nil, err
	}
	g, err := h.acquire(ctx)
	if err != nil {
		return nil, err
	}
	out, err := g.call(ctx, name, text)
	if err != nil {
		g.drop()
		h.slots <- nil
		return nil, err
	}
	h.slots <- g
	if err := out.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// acquire waits for a guest that has nothing to do.
func (h *Host) acquire(ctx context.Context) (*instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-h.closed:
		return nil, errors.New("host: closed")
	default:
	}
	select {
	case <-h.closed:
		return nil, errors.New("host: closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	case g := <-h.slots:
		if g != nil {
			return g, nil
		}
	}
	g, err := h.instantiate(ctx)
	if err != nil {
		h.slots <- nil
	}
	return g, err
}

// part is a part of a result that must be there.
func part(m guest.Message, name string) ([]byte, error) {
	data, ok := m.Get(name)
	if !ok {
		return nil, fmt.Errorf("host: the guest's answer lacks the part %q", name)
	}
	return data, nil
}

// object reads a part of JSON.
func object(m guest.Message, name string, v any) error {
	raw, err := part(m, name)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("host: the guest's %s: %w", name, err)
	}
	return nil
}
