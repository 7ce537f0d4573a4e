package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/host"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

var small = host.Request{Prompts: []byte("what is the capital of france?"), Name: "p.txt"}

// answers are what an honest guest answers for small.
type answers struct{ feed, compile, finish guest.Message }

func honest(t testing.TB, p *generator.Package) answers {
	t.Helper()
	manifest, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Vocabulary()
	if err != nil {
		t.Fatal(err)
	}
	call := func(f func([]byte) []byte, options any, parts ...guest.Part) guest.Message {
		o, err := json.Marshal(options)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := append(guest.Message{{Name: guest.PartManifest, Data: manifest}, {Name: guest.PartOptions, Data: o}}, parts...).Encode()
		if err != nil {
			t.Fatal(err)
		}
		m, err := guest.Decode(f(raw))
		if err == nil {
			err = m.Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	shape := p.Manifest.Decoder.Output()
	return answers{
		feed:    call(guest.Feed, guest.FeedOptions{Name: small.Name}, guest.Part{Name: guest.PartVocab, Data: v.Text}, guest.Part{Name: guest.PartPrompts, Data: small.Prompts}),
		compile: call(guest.Compile, guest.CompileOptions{Stage: guest.StageGenerate, Batch: 1, DType: "F32"}),
		finish:  call(guest.Finish, guest.FinishOptions{Format: "peft"}, guest.Part{Name: guest.PartTokens, Data: make([]byte, 4*shape[0]*shape[1]*shape[2])}),
	}
}

// with is a message with a part replaced, or left out if data is nil.
func with(m guest.Message, name string, data []byte) guest.Message {
	m = slices.DeleteFunc(slices.Clone(m), func(p guest.Part) bool { return p.Name == name })
	if data != nil {
		m = append(m, guest.Part{Name: name, Data: data})
	}
	return m
}

// scripted is a guest that gives these answers.
func scripted(t testing.TB, a answers) module {
	t.Helper()
	m := module{bodies: map[string][]byte{}}
	for _, c := range []struct {
		name    string
		message guest.Message
	}{{"feed", a.feed}, {"compile", a.compile}, {"finish", a.finish}} {
		raw, err := c.message.Encode()
		if err != nil {
			t.Fatal(err)
		}
		m.bodies[c.name] = span(uint32(dataAt+len(m.data)), uint32(len(raw)))
		m.data = append(m.data, raw...)
	}
	return m
}

// never is an executor that must not be reached.
type never struct {
	pretender
	t testing.TB
}

func (e *never) Run(context.Context, *graph.Program, graph.Weights, []graph.Input, func(graph.Progress)) (*graph.Result, error) {
	e.t.Error("the executor was given a program")
	return nil, errors.New("reached")
}

// attack makes a Host of a hostile guest and one adapter with it, and returns the error
// of whichever fails.
func attack(t testing.TB, ctx context.Context, p *generator.Package, m module, o host.Options) error {
	t.Helper()
	o.Guest = m.assemble()
	if o.Executor == nil {
		o.Executor = &never{t: t}
	}
	o.Memory = 32 << 20
	h, err := host.New(ctx, o)
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = h.Generate(ctx, p, small)
	return err
}

func wants(t testing.TB, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want one of %q", what, err, want)
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: error %q has more than one line", what, err)
	}
}

// The scripted guest works when it is honest, so the attacks below differ from one that
// works in one thing each.
func TestScriptedGuest(t *testing.T) {
	p := madeup.Open(t)
	if err := attack(t, t.Context(), p, scripted(t, honest(t, p)), host.Options{Executor: &pretender{}}); err != nil {
		t.Fatal(err)
	}
}

// A guest that does not return is stopped by the context, wherever it loops.
func TestEndlessLoop(t *testing.T) {
	p := madeup.Open(t)
	a := honest(t, p)
	for _, name := range []string{"_initialize", "abi_version", "alloc", "feed", "free", "compile", "finish"} {
		m := scripted(t, a)
		m.bodies[name] = forever
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begin := time.Now()
		err := attack(t, ctx, p, m, host.Options{Executor: &pretender{}})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 30*time.Second {
			t.Errorf("loop in %s: error %v after %v, want the deadline's", name, err, time.Since(begin))
		}
	}
	m := scripted(t, a)
	m.bodies["_initialize"], m.start = forever, true
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := attack(t, ctx, p, m, host.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("loop in the start function: error %v, want the deadline's", err)
	}
}

// A guest gets no more memory than the limit, however it asks.
func TestMemoryGrowth(t *testing.T) {
	p := madeup.Open(t)
	m := scripted(t, honest(t, p))
	// It grows until that fails, and traps: memory.grow ends at the limit.
	m.bodies["feed"] = slices.Concat(growAll, unreachable)
	wants(t, "growing", attack(t, t.Context(), p, m, host.Options{}), "trapped in feed")
	m = scripted(t, honest(t, p))
	m.pages = 32<<20>>16 + 1
	wants(t, "declaring more", attack(t, t.Context(), p, m, host.Options{}), "pages")
}

// A guest that calls itself without end traps, and takes nothing with it.
func TestEndlessRecursion(t *testing.T) {
	p := madeup.Open(t)
	m := scripted(t, honest(t, p))
	m.bodies["free"] = slices.Concat(i32(0), []byte{0x10, 3}) // call free
	wants(t, "recursion", attack(t, t.Context(), p, m, host.Options{}), "trapped in free: stack overflow")
}

// Places and lengths that the guest names are checked against its memory.
func TestWrongSpans(t *testing.T) {
	p := madeup.Open(t)
	a := honest(t, p)
	for _, c := range []struct {
		function string
		body     []byte
		want     string
	}{
		{"alloc", i32(0), "no room"},
		{"alloc", i32(-16), "outside of its memory"},
		{"alloc", i32(0x7fffffff), "outside of its memory"},
		{"feed", i64(-1), "outside of its memory"},
		{"feed", span(0xfffffff0, 0x20), "outside of its memory"},
		{"feed", span(dataAt, 0x7fffffff), "outside of its memory"},
		{"feed", span(32<<20, 1), "outside of its memory"},
		{"feed", span(0, 0), "count of parts"},
		{"feed", span(dataAt, 3), "count of parts"},
		{"feed", span(dataAt, 5), "parts in 5 bytes"},
		{"compile", i64(-1), "outside of its memory"},
	} {
		m := scripted(t, a)
		m.bodies[c.function] = c.body
		wants(t, c.function, attack(t, t.Context(), p, m, host.Options{}), c.want)
	}
}

// Answers are checked before anything is made of them: a bad Program never reaches the
// executor.
func TestMalformedAnswers(t *testing.T) {
	p := madeup.Open(t)
	a := honest(t, p)
	raw, _ := a.compile.Get(guest.PartProgram)
	changed := func(change func(p *graph.Program)) []byte {
		q, err := graph.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		change(q)
		text, err := q.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, c := range []struct {
		name string
		set  func(a *answers)
		want string
	}{
		{"no ids", func(a *answers) { a.feed = with(a.feed, guest.PartIDs, nil) }, `lacks the part "ids"`},
		{"short ids", func(a *answers) { a.feed = with(a.feed, guest.PartIDs, []byte{1, 2, 3, 4}) }, "ids have 4 bytes"},
		{"long mask", func(a *answers) { a.feed = with(a.feed, guest.PartMask, make([]byte, 1<<20)) }, "mask have 1048576 bytes"},
		{"no info", func(a *answers) { a.feed = with(a.feed, guest.PartInfo, nil) }, `lacks the part "info"`},
		{"info no JSON", func(a *answers) { a.feed = with(a.feed, guest.PartInfo, []byte("{")) }, "info: unexpected EOF"},
		{"an error of many lines", func(a *answers) { a.feed = guest.Message{{Name: guest.PartError, Data: []byte("one\ntwo\x1b[2J\xff")}} }, "one two [2J"},
		{"no program", func(a *answers) { a.compile = guest.Message{} }, `lacks the part "program"`},
		{"program no JSON", func(a *answers) { a.compile = with(a.compile, guest.PartProgram, []byte("[")) }, "program"},
		{"program of another version", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) { p.Version++ }))
		}, "version 2"},
		{"program with huge buffers", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) {
				p.Requires.MaxBufferSize, p.Buffers[1].Bytes = 1<<40, 1<<62
			}))
		}, "max_buffer_size"},
		{"program that binds beyond a buffer", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) { p.Dispatches[0].Binds[0].Offset = 1 << 40 }))
		}, "dispatch 0"},
		{"program that names a buffer beyond all", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) { p.Reads[0].Buffer = 1 << 30 }))
		}, "read 0"},
		{"program that reads something else", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) { p.Reads[0].Name = "ids" }))
		}, `reads "ids"`},
		{"program that reads too little", func(a *answers) {
			a.compile = with(a.compile, guest.PartProgram, changed(func(p *graph.Program) { p.Reads[0].Bytes -= 4 }))
		}, "bytes too few of tokens"},
	} {
		b := a
		c.set(&b)
		wants(t, c.name, attack(t, t.Context(), p, scripted(t, b), host.Options{}), c.want)
	}
	for _, c := range []struct {
		name string
		set  func(a *answers)
		want string
	}{
		{"a file outside", func(a *answers) {
			a.finish = append(slices.Clone(a.finish), guest.Part{Name: "file/../../x", Data: nil})
		}, `"../../x"`},
		{"no files", func(a *answers) { a.finish = guest.Message{{Name: guest.PartReport, Data: []byte("{}")}} }, "no files"},
		{"no report", func(a *answers) { a.finish = with(a.finish, guest.PartReport, nil) }, `lacks the part "report"`},
		{"report no JSON", func(a *answers) { a.finish = with(a.finish, guest.PartReport, []byte(`{"layers": 1}`)) }, "report"},
	} {
		b := a
		c.set(&b)
		wants(t, c.name, attack(t, t.Context(), p, scripted(t, b), host.Options{Executor: &pretender{}}), c.want)
	}
}

// Only a guest of exactly this ABI is used.
func TestOtherGuests(t *testing.T) {
	p := madeup.Open(t)
	a := honest(t, p)
	for _, c := range []struct {
		name   string
		change func(m *module)
		want   string
	}{
		{"version + 1", func(m *module) { m.bodies["abi_version"] = i32(guest.Version + 1) }, fmt.Sprint("version ", guest.Version+1)},
		{"version 0", func(m *module) { m.bodies["abi_version"] = i32(0) }, "version 0"},
		{"no feed", func(m *module) { m.omit = "feed" }, "feed"},
		{"no initializer", func(m *module) { m.omit = "_initialize" }, "_initialize"},
		{"an import that is not WASI's", func(m *module) { m.unknownImport = "open_socket" }, "env"},
		{"a trap at the start", func(m *module) { m.bodies["_initialize"] = unreachable }, "trapped in _initialize"},
	} {
		m := scripted(t, a)
		c.change(&m)
		wants(t, c.name, attack(t, t.Context(), p, m, host.Options{}), c.want)
	}
	for _, raw := range [][]byte{nil, []byte("GGUF"), scripted(t, a).assemble()[:200], make([]byte, 65<<20)} {
		if _, err := host.New(t.Context(), host.Options{Guest: raw, Executor: &pretender{}}); err == nil {
			t.Errorf("a guest of %d bytes that are none was taken", len(raw))
		}
	}
	if _, err := host.New(t.Context(), host.Options{Guest: scripted(t, a).assemble()}); err == nil {
		t.Error("a host without an executor was made")
	}
}

// A guest sees no file, no argument and no variable of the host's.
func TestGuestSeesNothing(t *testing.T) {
	t.Setenv("SECRET", "1")
	p := madeup.Open(t)
	a := honest(t, p)
	const prestat, environ, args = 0, 1, 2
	call := func(f byte, x, y int64) []byte { return slices.Concat(i32(x), i32(y), []byte{0x10, f}) }
	load := []byte{0x28, 0x02, 0x00}                                       // i32.load
	trapIf := slices.Concat([]byte{0x04, 0x40}, unreachable, []byte{0x0b}) // if unreachable end
	eqz := []byte{0x45}
	// Descriptor 3 would be the first folder; counts are written to address 0.
	nothing := slices.Concat(
		call(prestat, 3, 0), eqz, trapIf,
		call(environ, 0, 4), trapIf, i32(0), load, trapIf,
		call(args, 0, 4), trapIf, i32(0), load, trapIf,
	)
	for _, c := range []struct {
		name string
		body []byte
		want string // "" if it works
	}{
		{"sees nothing", nothing, ""},
		// The same questions, answered the other way.
		{"a folder", slices.Concat(call(prestat, 3, 0), trapIf), "trapped in _initialize"},
		{"a variable", slices.Concat(call(environ, 0, 4), trapIf, i32(0), load, eqz, trapIf), "trapped in _initialize"},
		{"an argument", slices.Concat(call(args, 0, 4), trapIf, i32(0), load, eqz, trapIf), "trapped in _initialize"},
	} {
		m := scripted(t, a)
		m.wasi = []string{"fd_prestat_get", "environ_sizes_get", "args_sizes_get"}
		m.bodies["_initialize"] = c.body
		err := attack(t, t.Context(), p, m, host.Options{Executor: &pretender{}})
		if c.want != "" {
			wants(t, c.name, err, c.want)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A guest that trapped is thrown away: the next call gets a new one, not what the trap
// left. This one would answer after its trap.
func TestTrap(t *testing.T) {
	p := madeup.Open(t)
	m := scripted(t, honest(t, p))
	m.bodies["feed"] = once(unreachable, m.bodies["feed"])
	h, err := host.New(t.Context(), host.Options{Guest: m.assemble(), Executor: &pretender{}, Guests: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for range 3 {
		_, err := h.Generate(t.Context(), p, small)
		wants(t, "trap", err, "trapped in feed: wasm error: unreachable")
	}
}

// The real guest runs out of memory with a message, and the host goes on with another.
func TestOutOfMemory(t *testing.T) {
	p := madeup.Open(t)
	h := start(t, host.Options{Memory: 24 << 20, Guests: 1})
	big := host.Request{Prompts: []byte(strings.Repeat("what is the capital of france\n", 300_000)), Name: "p.txt"}
	_, err := h.Generate(t.Context(), p, big)
	wants(t, "prompts of 9 MB", err, "out of memory")
	if _, err := h.Generate(t.Context(), p, small); err != nil {
		t.Error(err)
	}
}

// The guest frees what it is told to: many adapters fit into the memory of a few.
func TestMemoryIsFreed(t *testing.T) {
	p := madeup.Open(t)
	h := start(t, host.Options{Memory: 16 << 20, Guests: 1, Trusted: true})
	for i := range 100 {
		if _, err := h.Generate(t.Context(), p, small); err != nil {
			t.Fatalf("adapter %d: %v", i, err)
		}
	}
}
