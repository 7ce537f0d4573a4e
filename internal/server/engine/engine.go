// Package engine turns prompts into adapters for the server, as often as it is asked, with
// weights that are loaded once: Load loads and checks the generators and makes one adapter
// with each, Key says which requests have one answer, Generate answers one. It is the same
// way of the data as dndgen generate's, from text.Draw to lora.Files. It knows no HTTP and
// keeps no results.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// Options say what an Engine is made of.
type Options struct {
	// Runner computes. It is used by one Generate at a time, and stays the caller's.
	Runner generator.Runner
	// Generators are open packages of different names, the first the default. They stay the
	// caller's, who leaves them alone until Load has ended.
	Generators []*generator.Package
	// Memory is the most bytes of weights that are kept in memory. Generators beyond it are
	// read from their files for every adapter.
	Memory int64
	// Device is the most bytes of the device's memory that may stay taken by the generator that
	// was last used, if the Runner can keep one (generator.Keeper).
	Device int64
	// Weights is the type that the runner holds weights in, since adapters depend on it.
	Weights string
	// Tool is the program's name and version, for the adapters' provenance. Build tells this
	// build of it from all others.
	Tool, Build string
}

// Engine makes adapters. All methods are safe for concurrent use.
type Engine struct {
	options    Options
	generators []loaded
	ready      atomic.Bool
	turn       chan struct{} // whose Generate computes
}

type loaded struct {
	*generator.Package
	plan [sha256.Size]byte // generator.Kept's, once Load has ended
}

// ErrNotReady is Generate's error before Load has ended.
var ErrNotReady = errors.New("engine: the weights are not loaded yet")

// RequestError is a request that can not be answered, however often it is made.
type RequestError struct{ Reason string }

func (e *RequestError) Error() string { return e.Reason }

func refuse(format string, args ...any) error { return &RequestError{fmt.Sprintf(format, args...)} }

// New makes an Engine. It reads no weights.
func New(o Options) (*Engine, error) {
	if o.Runner == nil || len(o.Generators) == 0 {
		return nil, errors.New("engine: no runner or no generator")
	}
	e := &Engine{options: o, turn: make(chan struct{}, 1)}
	for _, p := range o.Generators {
		if err := p.Manifest.Complete(); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Dir, err)
		}
		if _, err := e.find(p.Manifest.Name); err == nil {
			return nil, fmt.Errorf("%s: another generator is named %s, too: requests could not tell them apart", p.Dir, p.Manifest.Name)
		}
		if _, err := p.Tokenizer(); err != nil {
			return nil, err
		}
		e.generators = append(e.generators, loaded{Package: p})
	}
	return e, nil
}

// Load checks the generators' files, keeps their weights, and makes one adapter with each:
// what comes after it finds everything compiled. note is told what is kept where.
func (e *Engine) Load(ctx context.Context, note func(string)) error {
	left := e.options.Memory
	for _, g := range e.generators {
		bytes := g.Summary().Bytes
		keep := bytes <= left
		if err := g.Load(ctx, keep); err != nil {
			return err
		}
		if keep {
			left -= bytes
			note(fmt.Sprintf("generator %s: %d bytes of weights are in memory", g.Manifest.Name, bytes))
		} else {
			note(fmt.Sprintf("generator %s: %d bytes of weights, more than the %d that may be in memory: they are read from %s for every adapter", g.Manifest.Name, bytes, left, g.Dir))
		}
	}
	// The default comes last, and stays on the device.
	for i := len(e.generators) - 1; i >= 0; i-- {
		g := &e.generators[i]
		r := Request{Generator: g.Manifest.Name, Prompts: []string{"a first adapter"}, Format: lora.PEFT}
		if _, err := e.generate(ctx, r, func(graph.Progress) {}); err != nil {
			return fmt.Errorf("generator %s: a first adapter: %w", g.Manifest.Name, err)
		}
		kept, err := e.keep(g)
		if err != nil {
			return fmt.Errorf("generator %s: %w", g.Manifest.Name, err)
		}
		g.plan = kept.Plan
		switch kept.Resident {
		case generator.ResidentPrepared:
			note(fmt.Sprintf("generator %s: weights are packed and transformed once, %d bytes of device memory, as long as no other generator is asked for", g.Manifest.Name, kept.Bytes))
		case generator.ResidentWeights:
			note(fmt.Sprintf("generator %s: weights stay on the device, %d bytes, as long as no other generator is asked for", g.Manifest.Name, kept.Bytes))
		}
	}
	e.ready.Store(true)
	return nil
}

// keep has a generator on the device, if the runner can keep one.
func (e *Engine) keep(g *loaded) (kept generator.Kept, err error) {
	if k, ok := e.options.Runner.(generator.Keeper); ok {
		kept, err = k.Keep(g.Package, 1, e.options.Device)
	}
	return kept, err
}

// Ready says whether Load has ended well.
func (e *Engine) Ready() bool { return e.ready.Load() }

// Backend is what computes: "cpu, Go on the CPU".
func (e *Engine) Backend() string { return e.options.Runner.Name() + ", " + e.options.Runner.Device() }

// Generators are the packages, the default first.
func (e *Engine) Generators() []*generator.Package { return e.options.Generators }

// Request is one adapter to make.
type Request struct {
	Generator string // a name; empty for the default
	Prompts   []string
	Format    string // lora.PEFT, GGUF or MLX; empty for PEFT
	Seed      int64  // of the choice of prompts, as Draw
	Draw      int
}

// Formats are the values of Request.Format.
func Formats() []string { return []string{lora.PEFT, lora.GGUF, lora.MLX} }

// Check fills in the defaults, and returns a *RequestError for a request that has no
// answer.
func (e *Engine) Check(r *Request) error {
	if r.Generator == "" {
		r.Generator = e.generators[0].Manifest.Name
	}
	if _, err := e.find(r.Generator); err != nil {
		return err
	}
	if r.Format == "" {
		r.Format = lora.PEFT
	}
	switch r.Format {
	case lora.PEFT, lora.GGUF, lora.MLX:
	default:
		return refuse("format %.40q, expected %s", r.Format, strings.Join(Formats(), ", "))
	}
	if r.Draw < 0 || r.Draw > math.MaxInt32 {
		return refuse("draw %d, expected 0 to %d", r.Draw, math.MaxInt32)
	}
	if len(r.Prompts) == 0 {
		return refuse("no prompts")
	}
	for i, p := range r.Prompts {
		if strings.TrimSpace(p) == "" {
			return refuse("prompt %d is empty", i)
		}
	}
	return nil
}

func (e *Engine) find(name string) (*loaded, error) {
	var names []string
	for i := range e.generators {
		g := &e.generators[i]
		if g.Manifest.Name == name {
			return g, nil
		}
		names = append(names, g.Manifest.Name)
	}
	return nil, refuse("no generator %.100q, expected %s", name, strings.Join(names, ", "))
}

// Key is a hash of all that an adapter depends on: requests with equal keys have equal
// adapters, or, where the device has failed in the middle of one, adapters that are equal but
// for rounding. The request must have passed Check, and Load must have ended.
func (e *Engine) Key(r Request) ([sha256.Size]byte, error) {
	if !e.Ready() {
		return [sha256.Size]byte{}, ErrNotReady
	}
	g, err := e.find(r.Generator)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	h := sha256.New()
	for _, s := range []string{e.options.Tool, e.options.Build, e.Backend(), e.options.Weights, g.SHA256, text.Hash(r.Prompts), r.Format} {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	h.Write(g.plan[:])
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(r.Seed)))
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(r.Draw)))
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Adapter is what Generate makes.
type Adapter struct {
	Files  []lora.File
	Report Report
}

// Report says what an adapter is and what went into it.
type Report struct {
	Generator       string             `json:"generator"`
	GeneratorSHA256 string             `json:"generator_sha256"`
	PromptsSHA256   string             `json:"prompts_sha256"`
	BaseModel       string             `json:"base_model"`
	Format          string             `json:"format"`
	Rank            int                `json:"rank"`
	Alpha           float64            `json:"alpha"`
	Prompts         int                `json:"prompts"` // of the request
	Texts           int                `json:"texts"`   // that the generator reads
	Cycled          bool               `json:"cycled"`  // fewer prompts than texts: they were repeated
	Seed            int64              `json:"seed"`
	Draw            int                `json:"draw"`
	Backend         string             `json:"backend"`
	Nearest         *generator.Nearest `json:"nearest,omitempty"`
	Stages          []Stage            `json:"stages"`
}

// Stage is how long a part of the work took.
type Stage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Generate makes an adapter. It returns soon after ctx is done. The request must have
// passed Check.
func (e *Engine) Generate(ctx context.Context, r Request, report func(graph.Progress)) (*Adapter, error) {
	if !e.Ready() {
		return nil, ErrNotReady
	}
	return e.generate(ctx, r, report)
}

func (e *Engine) generate(ctx context.Context, r Request, report func(graph.Progress)) (*Adapter, error) {
	g, err := e.find(r.Generator)
	if err != nil {
		return nil, err
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if _, err := e.keep(g); err != nil {
		return nil, err
	}
	m := &g.Manifest
	a := &Adapter{Report: Report{
		Generator: m.Name, GeneratorSHA256: g.SHA256, PromptsSHA256: text.Hash(r.Prompts), BaseModel: m.Base.Model, Format: r.Format,
		Rank: m.Base.Rank, Prompts: len(r.Prompts), Texts: m.Condition.Texts, Seed: r.Seed, Draw: r.Draw, Backend: e.Backend(),
	}}
	timed := func(stage string, work func() error) error {
		begin := time.Now()
		err := work()
		a.Report.Stages = append(a.Report.Stages, Stage{stage, time.Since(begin).Seconds()})
		return errors.Join(err, ctx.Err())
	}
	texts, cycled := text.Draw(r.Prompts, m.Condition.Texts, r.Seed, r.Draw)
	a.Report.Cycled = cycled
	tokens, nearest, err := generator.WeightTokens(ctx, g.Package, e.options.Runner, texts, func(stage string, run func(func(graph.Progress)) error) error {
		return timed(stage, func() error { return run(report) })
	})
	if err != nil {
		return nil, err
	}
	a.Report.Nearest = nearest
	return a, timed("finish", func() error {
		adapter, err := generator.Finish(m, tokens, nearest)
		if err != nil {
			return err
		}
		a.Report.Alpha = adapter.Base.Alpha
		a.Files, err = lora.Files(adapter, lora.Options{Format: r.Format, Provenance: lora.Provenance{
			Tool: e.options.Tool, Generator: m.Name, GeneratorSHA256: g.SHA256, PromptsSHA256: a.Report.PromptsSHA256,
			Seed: r.Seed, Draw: r.Draw, Backend: a.Report.Backend,
		}})
		return err
	})
}
