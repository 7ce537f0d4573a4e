package gpu_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
)

// open opens the device that VK_DRIVER_FILES chooses. No device is a failure: a suite
// that skips itself proves nothing.
func open(t testing.TB, o gpu.Options) *gpu.Device {
	t.Helper()
	d, err := gpu.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	// Reading the variable also tells go test that a cached result of another driver is stale.
	t.Logf("device: %s (%s, %s), VK_DRIVER_FILES=%s", d.Info().Name, d.Info().Backend, d.Info().Type, os.Getenv("VK_DRIVER_FILES"))
	return d
}

const addKernel = `
struct Params { n: u32, factor: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i < params.n) { y[i] = y[i] + params.factor * x[i]; }
}`

// program computes y = 2·x + 3·x in two dispatches, x from source.
func program(n int, source graph.Source) *graph.Program {
	bytes := int64(4 * n)
	params := make([]uint32, 128)
	params[0], params[1] = uint32(n), math.Float32bits(2)
	params[64], params[65] = uint32(n), math.Float32bits(3)
	groups := [3]int{min((n+63)/64, 65535), 1, 1}
	groups[1] = ((n+63)/64 + groups[0] - 1) / groups[0]
	dispatch := func(slot int64) graph.Dispatch {
		return graph.Dispatch{Label: fmt.Sprintf("add %d", slot), Groups: groups, Stage: "test", Cost: int64(n),
			Binds: []graph.Bind{{Buffer: 0, Offset: 256 * slot, Bytes: 16}, {Buffer: 1, Bytes: bytes}, {Buffer: 2, Bytes: bytes}}}
	}
	return &graph.Program{
		Version: graph.Version, Requires: graph.DefaultLimits(),
		Kernels: []graph.Kernel{{Label: "add", WGSL: addKernel, Entry: "main", Bindings: []graph.BindType{graph.BindUniform, graph.BindRead, graph.BindReadWrite}}},
		Buffers: []graph.Buffer{
			{Label: "params", Bytes: 512, Uniform: true, Source: graph.Source{Kind: graph.SourceInline, Words: params}},
			{Label: "x", Bytes: bytes, Source: source},
			{Label: "y", Bytes: bytes, Source: graph.Source{Kind: graph.SourceZero}},
		},
		Dispatches: []graph.Dispatch{dispatch(0), dispatch(1)},
		Reads:      []graph.Read{{Name: "y", Buffer: 2, Bytes: bytes}},
	}
}

func floats(n int) []byte {
	raw := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(float32(i%1000)))
	}
	return raw
}

func checkY(t *testing.T, result *graph.Result, n int) {
	t.Helper()
	if len(result.Outputs) != 1 || len(result.Outputs[0].Data) != 4*n {
		t.Fatalf("got %d outputs", len(result.Outputs))
	}
	for i := range n {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(result.Outputs[0].Data[4*i:])); got != float32(5*(i%1000)) {
			t.Fatalf("y[%d] = %v, want %v", i, got, 5*(i%1000))
		}
	}
}

type weights map[string][]byte

func (w weights) ReadWeights(name, dtype string, off int64, p []byte) error {
	raw, ok := w[name]
	if !ok || off+int64(len(p)) > int64(len(raw)) {
		return fmt.Errorf("no range %d+%d of %s", off, len(p), name)
	}
	copy(p, raw[off:])
	return nil
}

func TestRun(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	const big = 5 << 20 // 20 MiB, several pieces
	for _, c := range []struct {
		name   string
		n      int
		source graph.Source
	}{
		{"input", 1000, graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: 4000}},
		{"weights in pieces", big, graph.Source{Kind: graph.SourceWeights, Name: "w", DType: "F32", Bytes: 4 * big}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var last graph.Progress
			result, err := d.Run(t.Context(), program(c.n, c.source), weights{"w": floats(c.n)},
				[]graph.Input{{Name: "x", Data: floats(c.n)}}, func(p graph.Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			checkY(t, result, c.n)
			if last.Done != last.Total || last.Total == 0 || last.Stage != "test" {
				t.Errorf("last progress %+v", last)
			}
			if len(result.Stages) != 1 || result.Stages[0].Stage != "test" || result.Stages[0].Duration <= 0 {
				t.Errorf("stages %v", result.Stages)
			}
			if want := int64(8*c.n + 512); result.PeakBytes < want {
				t.Errorf("peak %d bytes, at least %d are live", result.PeakBytes, want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	input := graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: 4000}
	for _, c := range []struct {
		name   string
		change func(p *graph.Program)
		budget int64
		want   string
	}{
		{"bad WGSL", func(p *graph.Program) { p.Kernels[0].WGSL = "fn main() { let x: u32 = 1.5; }" }, 0, "kernel add"},
		{"bindings unlike the kernel's", func(p *graph.Program) {
			p.Kernels[0].WGSL = strings.Replace(addKernel, "var<storage, read> x", "var<storage, read_write> x", 1)
		}, 0, "kernel add"},
		{"missing input", func(p *graph.Program) { p.Buffers[1].Source.Name = "z" }, 0, `input "z"`},
		{"short input", func(p *graph.Program) { p.Buffers[1].Source.Offset = 4 }, 0, `input "x" has 4000 bytes`},
		{"missing weights", func(p *graph.Program) {
			p.Buffers[1].Source = graph.Source{Kind: graph.SourceWeights, Name: "w", DType: "F32", Bytes: 4000}
		}, 0, "weights w"},
		{"over the budget", func(*graph.Program) {}, 5000, "12512 bytes of GPU memory"},
		{"over the device's limits", func(p *graph.Program) { p.Requires.MaxComputeInvocationsPerWorkgroup = 1 << 15 }, 0, "maxComputeInvocationsPerWorkgroup 32768"},
		{"text that is no UTF-8", func(p *graph.Program) { p.Kernels[0].WGSL += "//\xff" }, 0, "kernel add"},
		{"not a Program", func(p *graph.Program) { p.Version = 99 }, 0, "version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t, gpu.Options{Device: -1, MemoryBudget: c.budget})
			p := program(1000, input)
			c.change(p)
			in := []graph.Input{{Name: "x", Data: floats(1000)}}
			if _, err := d.Run(t.Context(), p, weights{}, in, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if c.budget > 0 {
				return
			}
			result, err := d.Run(t.Context(), program(1000, input), nil, in, nil)
			if err != nil {
				t.Fatalf("the device is unusable after the error: %v", err)
			}
			checkY(t, result, 1000)
		})
	}
}

func TestNoSuchDevice(t *testing.T) {
	if _, err := gpu.Open(gpu.Options{Device: 99}); err == nil || !strings.Contains(err.Error(), "no device 99") {
		t.Fatalf("got %v", err)
	}
}

// A dispatch that takes minutes must not hold Ctrl-C up.
func TestCancel(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p := program(1000, graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: 4000})
	for range 14 {
		p.Dispatches = append(p.Dispatches, p.Dispatches...)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	started := time.Now()
	_, err := d.Run(ctx, p, nil, []graph.Input{{Name: "x", Data: floats(1000)}}, nil)
	if !errors.Is(err, context.Canceled) || time.Since(started) > time.Second {
		t.Fatalf("%v after %s", err, time.Since(started))
	}
}

// Runs from several goroutines take turns, and what a run allocated is gone after it.
func TestManyRuns(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	const n = 1 << 20
	source := graph.Source{Kind: graph.SourceInput, Name: "x", Bytes: 4 * n}
	in := []graph.Input{{Name: "x", Data: floats(n)}}
	once := func() {
		if _, err := d.Run(t.Context(), program(n, source), nil, in, nil); err != nil {
			t.Error(err)
		}
	}
	once()
	before := residentBytes(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				once()
			}
		})
	}
	wg.Wait()
	runtime.GC()
	if grown := residentBytes(t) - before; grown > 256<<20 {
		t.Errorf("80 runs of 8 MiB grew the process by %d MiB", grown>>20)
	}
}

func TestList(t *testing.T) {
	infos, err := gpu.List()
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range infos {
		if info.Index != i || info.Name == "" || info.Limits.MaxBufferSize == 0 {
			t.Errorf("device %d: %+v", i, info)
		}
	}
}
