package graph_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
)

var update = flag.Bool("update", false, "rewrite the expected texts")

// small is a Program with every kind of source and operation of a decoder.
func small(t testing.TB) *graph.Program {
	t.Helper()
	b := graph.NewBuilder(graph.DefaultLimits())
	b.Stage("decode")
	x := b.Input("x", [4]int{2, 3, 5, 7})
	y := b.LayerNorm("norm", x, "norm.weight", "norm.bias", 1e-5)
	y = b.Conv(y, graph.Conv{Label: "conv", Weight: "conv.weight", DType: "F16", Axis: graph.AxisW, Out: 9, K: 3})
	z := b.Conv(y, graph.Conv{Label: "linear", Weight: "linear.weight", DType: "F32", Bias: "linear.bias", Axis: graph.AxisN, Out: 3, K: 1, GELU: true})
	b.Read("z", b.Affine("affine", b.Combine("combine", y, z, "bias"), "scale", "offset"))
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Text compares with testdata, or rewrites it under -update.
func compareText(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run with -update to write it", err)
	}
	if got != string(want) {
		t.Errorf("the text differs from %s: look at the difference after a run with -update\n%s", path, got)
	}
}

func TestProgramText(t *testing.T) { compareText(t, "small.txt", small(t).String()) }

func TestJSONRoundTrip(t *testing.T) {
	p := small(t)
	text, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	q, err := graph.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, q) {
		t.Error("a decoded program differs from the encoded one")
	}
	if again, _ := q.Encode(); !bytes.Equal(text, again) {
		t.Error("encoding a decoded program gives other bytes")
	}
	if other, _ := small(t).Encode(); !bytes.Equal(text, other) {
		t.Error("building twice gives other bytes")
	}
}

func TestDecodeRefuses(t *testing.T) {
	text, err := small(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "EOF"},
		{"cut", string(text[:len(text)/2]), "EOF"},
		{"two", string(text) + "{}", "text behind"},
		{"unknown field", strings.Replace(string(text), `"version"`, `"features":1,"version"`, 1), "unknown field"},
		{"version", strings.Replace(string(text), `"version":1`, `"version":2`, 1), "version 2, expected 1"},
		{"negative word", strings.Replace(string(text), `"words":[`, `"words":[-1,`, 1), "uint32"},
	} {
		if _, err := graph.Decode([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// Every rule of Validate, broken one at a time.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		want  string
		spoil func(*graph.Program)
	}{
		{"version 0", func(p *graph.Program) { p.Version = 0 }},
		{"max_buffer_size -1", func(p *graph.Program) { p.Requires.MaxBufferSize = -1 }},
		{"max_storage_buffers_per_shader_stage 1000", func(p *graph.Program) { p.Requires.MaxStorageBuffersPerShaderStage = 1000 }},
		{"0 bytes of WGSL", func(p *graph.Program) { p.Kernels[1].WGSL = "" }},
		{"no identifier", func(p *graph.Program) { p.Kernels[1].Entry = "main()" }},
		{"no identifier", func(p *graph.Program) { p.Kernels[1].Entry = "1" }},
		{"0 bindings", func(p *graph.Program) { p.Kernels[1].Bindings = nil }},
		{`unknown type "write"`, func(p *graph.Program) { p.Kernels[1].Bindings[1] = "write" }},
		{"requires.max_storage_buffers_per_shader_stage is 1", func(p *graph.Program) { p.Requires.MaxStorageBuffersPerShaderStage = 1 }},
		{"label", func(p *graph.Program) { p.Kernels[0].Label = strings.Repeat("x", 2000) }},
		{"label", func(p *graph.Program) { p.Buffers[0].Label = strings.Repeat("x", 2000) }},
		{"label", func(p *graph.Program) { p.Dispatches[0].Stage = strings.Repeat("x", 2000) }},
		{"positive multiple of 4", func(p *graph.Program) { p.Buffers[1].Bytes = 0 }},
		{"positive multiple of 4", func(p *graph.Program) { p.Buffers[1].Bytes = -4 }},
		{"positive multiple of 4", func(p *graph.Program) { p.Buffers[1].Bytes++ }},
		{"requires.max_buffer_size", func(p *graph.Program) { p.Buffers[1].Bytes = 1 << 62 }},
		{"hold more than", func(p *graph.Program) {
			p.Requires.MaxBufferSize = 1 << 40
			for range 5 {
				p.Buffers = append(p.Buffers, graph.Buffer{Bytes: 1 << 40, Source: graph.Source{Kind: graph.SourceZero}})
			}
		}},
		{"unknown source", func(p *graph.Program) { p.Buffers[1].Source.Kind = "file" }},
		{"without a name", func(p *graph.Program) { p.Buffers[1].Source.Name = "" }},
		{"delivered as they are", func(p *graph.Program) { p.Buffers[1].Source.DType = "F32" }},
		{"expected F32, F16, Q8 or Q4_1", func(p *graph.Program) { p.Buffers[3].Source.DType = "BF16" }},
		{"expected whole blocks", func(p *graph.Program) { p.Buffers[3].Source.DType = "Q8" }},
		{"source offset", func(p *graph.Program) { p.Buffers[3].Source.Offset = -4 }},
		{"source offset", func(p *graph.Program) { p.Buffers[3].Source.Offset = 2 }},
		{"source offset", func(p *graph.Program) { p.Buffers[3].Source.Offset = 1 << 62 }},
		{"for a buffer of", func(p *graph.Program) { p.Buffers[3].Source.Bytes -= 4 }},
		{"for a buffer of", func(p *graph.Program) { p.Buffers[3].Source.Bytes++ }},
		{"carries inline words", func(p *graph.Program) { p.Buffers[3].Source.Words = []uint32{1} }},
		{"inline words, expected", func(p *graph.Program) { p.Buffers[0].Source.Words = p.Buffers[0].Source.Words[1:] }},
		{"no name, type or range", func(p *graph.Program) { p.Buffers[0].Source.Bytes = 4 }},
		{"no name, type or range", func(p *graph.Program) { p.Buffers[2].Source.Name = "x" }},
		{"kernel 99 of", func(p *graph.Program) { p.Dispatches[0].Kernel = 99 }},
		{"kernel -1 of", func(p *graph.Program) { p.Dispatches[0].Kernel = -1 }},
		{"groups [0 1 1]", func(p *graph.Program) { p.Dispatches[0].Groups[0] = 0 }},
		{"groups", func(p *graph.Program) { p.Dispatches[0].Groups[2] = 1 << 20 }},
		{"binds, kernel", func(p *graph.Program) { p.Dispatches[0].Binds = p.Dispatches[0].Binds[1:] }},
		{"buffer 99 of", func(p *graph.Program) { p.Dispatches[0].Binds[1].Buffer = 99 }},
		{"uniform flag", func(p *graph.Program) { p.Dispatches[0].Binds[1].Buffer = 0 }},
		{"uniform flag", func(p *graph.Program) { p.Dispatches[0].Binds[0].Buffer = 1 }},
		{"range of", func(p *graph.Program) { p.Dispatches[0].Binds[1].Bytes += 4 }},
		{"range of", func(p *graph.Program) { p.Dispatches[0].Binds[1].Bytes = 0 }},
		{"range of", func(p *graph.Program) { p.Dispatches[0].Binds[1].Offset = 1<<63 - 4 }},
		{"range of", func(p *graph.Program) { p.Dispatches[0].Binds[1].Offset = -256 }},
		{"no multiple of 256", func(p *graph.Program) {
			p.Dispatches[0].Binds[1].Offset = 4
			p.Dispatches[0].Binds[1].Bytes = 4
		}},
		{"requires.max_storage_buffer_binding_size", func(p *graph.Program) { p.Requires.MaxStorageBufferBindingSize = 8 }},
		{"one of them writes", func(p *graph.Program) { p.Dispatches[0].Binds[4] = p.Dispatches[0].Binds[1] }},
		{"cost", func(p *graph.Program) { p.Dispatches[0].Cost = -1 }},
		{"cost", func(p *graph.Program) { p.Dispatches[0].Cost, p.Dispatches[1].Cost = 1<<59, 1<<60 }},
		{"name", func(p *graph.Program) { p.Reads[0].Name = "" }},
		{"taken by an earlier", func(p *graph.Program) {
			p.Reads = append(p.Reads, graph.Read{Name: "y", Buffer: 1, Bytes: 4}, p.Reads[0])
		}},
		{"expected a storage buffer", func(p *graph.Program) { p.Reads[0].Buffer = 0 }},
		{"expected a storage buffer", func(p *graph.Program) { p.Reads[0].Buffer = -1 }},
		{"range of", func(p *graph.Program) { p.Reads[0].Bytes += 4 }},
		{"range of", func(p *graph.Program) { p.Reads[0].Offset = 2 }},
		{"expected the first dispatch's stage", func(p *graph.Program) { p.Once = "never" }},
		{"but binds the input", func(p *graph.Program) { p.Once = p.Dispatches[0].Stage }},
		{"comes after others", func(p *graph.Program) {
			prepare(p)
			p.Dispatches[len(p.Dispatches)-1].Stage = p.Once
		}},
		{"which stage \"once\" has made", func(p *graph.Program) {
			prepare(p)
			p.Dispatches = append(p.Dispatches, p.Dispatches[0])
			p.Dispatches[len(p.Dispatches)-1].Stage = "other"
		}},
	} {
		p := small(t)
		c.spoil(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if err := small(t).Validate(); err != nil {
		t.Error(err)
	}
}

// prepare makes a stage of the first dispatch that runs once: it reads and writes new buffers.
func prepare(p *graph.Program) {
	p.Once = "once"
	d := &p.Dispatches[0]
	d.Stage, d.Binds = p.Once, append([]graph.Bind(nil), d.Binds...)
	for i, t := range p.Kernels[d.Kernel].Bindings {
		if t != graph.BindUniform {
			p.Buffers = append(p.Buffers, graph.Buffer{Bytes: p.Buffers[d.Binds[i].Buffer].Bytes, Source: graph.Source{Kind: graph.SourceZero}})
			d.Binds[i].Buffer = len(p.Buffers) - 1
		}
	}
}

// A convolution's weights are packed, and its kernels transformed, in the stage that runs once;
// what a run still does is what it did without them, and the planner counts no more than that.
func TestPrepare(t *testing.T) {
	build := func(p *graph.Preparation, k int, way graph.Method) *graph.Program {
		t.Helper()
		limits := graph.DefaultLimits()
		limits.Tuning = &graph.Tuning{All: graph.ConvWay{Method: way}}
		b := graph.NewBuilder(limits)
		b.Prepare = p
		b.Stage("run")
		x := b.Input("x", [4]int{1, 200, 10, 20})
		b.Read("y", b.Conv(x, graph.Conv{Label: "c", Weight: "w", DType: "F16", Out: 300, K: k}))
		program, err := b.Program()
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	for _, way := range []graph.Method{graph.Direct, graph.Fourier} {
		streamed, prepared := build(nil, 9, way), build(&graph.Preparation{}, 9, way)
		if prepared.Once != graph.StagePrepare || prepared.Dispatches[0].Stage != graph.StagePrepare {
			t.Fatalf("%s: once is %q", way, prepared.Once)
		}
		if s := prepared.String(); !strings.Contains(s, "once prepare\n") {
			t.Errorf("printed without its stage: %s", s)
		}
		left := streamed.RunCost()
		for _, d := range prepared.Dispatches {
			left -= d.Cost
		}
		// Other transforms may be the cheapest.
		if way == graph.Direct && left != 0 || prepared.RunCost() >= streamed.RunCost() {
			t.Errorf("%s: %d in all, %d a run, prepared %d a run", way, streamed.RunCost(), left, prepared.RunCost())
		}
	}
	// Where kernels are transformed for each run it does not pay on so small a plane; where
	// once, it does, as long as its memory costs nothing.
	transforms := func(p *graph.Program) bool { return strings.Contains(p.String(), "fourierproduct") }
	if transforms(build(nil, 9, "")) || !transforms(build(&graph.Preparation{}, 9, "")) || transforms(build(&graph.Preparation{ByteCost: 1 << 20}, 9, "")) {
		t.Errorf("through the frequency domain: %v, prepared %v, with a price on memory %v",
			transforms(build(nil, 9, "")), transforms(build(&graph.Preparation{}, 9, "")), transforms(build(&graph.Preparation{ByteCost: 1 << 20}, 9, "")))
	}
}

// What Decode accepts prints, encodes to itself and holds its own limits.
func FuzzDecode(f *testing.F) {
	p := small(f)
	for i := range p.Kernels {
		p.Kernels[i].WGSL = "x" // short inputs mutate better
	}
	text, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"buffers":[{"label":"","bytes":4,"source":{"kind":"zero"}}],"requires":{"max_buffer_size":4}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := graph.Decode(text)
		if err != nil {
			return
		}
		_ = p.String()
		again, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := graph.Decode(again); err != nil {
			t.Fatalf("an accepted program is refused after encoding: %v", err)
		}
	})
}

func TestResultOutput(t *testing.T) {
	r := graph.Result{Outputs: []graph.Output{{Name: "a", Data: []byte{1, 2}}, {Name: "b", Data: []byte{3}}, {Name: "b", Data: []byte{4}}}}
	for name, want := range map[string]string{"a": "\x01\x02", "b": "\x03\x04"} {
		if got, ok := r.Output(name); !ok || string(got) != want {
			t.Errorf("%s: %v %v", name, got, ok)
		}
	}
	if _, ok := r.Output("c"); ok {
		t.Error("a result that is not there was found")
	}
}
