package gpu_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph"
)

const doubleKernel = `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < arrayLength(&y)) { y[id.x] = 2.0 * x[id.x] + y[id.x]; }
}`

// chain computes y0 = w0, y(i+1) = 2·y(i) + w(i+1) in steps dispatches, each with weights
// of its own: any other order gives another result.
func chain(steps, n int, cost int64) (*graph.Program, weights) {
	bytes := int64(4 * n)
	w := weights{}
	p := &graph.Program{
		Version: graph.Version, Requires: graph.DefaultLimits(),
		Kernels: []graph.Kernel{{Label: "double", WGSL: doubleKernel, Entry: "main", Bindings: []graph.BindType{graph.BindRead, graph.BindReadWrite}}},
		Reads:   []graph.Read{{Name: "y", Buffer: steps, Bytes: bytes}},
	}
	for i := range steps + 1 {
		name := fmt.Sprintf("w%d", i)
		raw := make([]byte, bytes)
		for j := range n {
			binary.LittleEndian.PutUint32(raw[4*j:], math.Float32bits(float32(i+j%5)))
		}
		w[name] = raw
		p.Buffers = append(p.Buffers, graph.Buffer{Label: name, Bytes: bytes,
			Source: graph.Source{Kind: graph.SourceWeights, Name: name, DType: "F32", Bytes: bytes}})
	}
	for i := range steps {
		p.Dispatches = append(p.Dispatches, graph.Dispatch{Label: fmt.Sprintf("step %d", i), Groups: [3]int{(n + 63) / 64, 1, 1},
			Binds: []graph.Bind{{Buffer: i, Bytes: bytes}, {Buffer: i + 1, Bytes: bytes}}, Stage: fmt.Sprintf("half %d", 2*i/steps), Cost: cost})
	}
	return p, w
}

func checkChain(t *testing.T, result *graph.Result, steps, n int) {
	t.Helper()
	y, _ := result.Output("y")
	if len(y) != 4*n {
		t.Fatalf("%d bytes, want %d", len(y), 4*n)
	}
	for j := range n {
		want := float32(j % 5)
		for i := range steps {
			want = 2*want + float32(i+1+j%5)
		}
		if got := math.Float32frombits(binary.LittleEndian.Uint32(y[4*j:])); got != want {
			t.Fatalf("y[%d] = %v, want %v", j, got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	for _, cost := range []int64{0, 1000, 1 << 40} { // one submit, or one each
		p, w := chain(12, 1000, cost)
		var reports []graph.Progress
		result, err := d.Run(t.Context(), p, w, nil, func(r graph.Progress) { reports = append(reports, r) })
		if err != nil {
			t.Fatal(err)
		}
		checkChain(t, result, 12, 1000)
		if len(result.Stages) != 2 || result.Stages[0].Stage != "half 0" || result.Stages[1].Stage != "half 1" {
			t.Errorf("stages %+v", result.Stages)
		}
		for i := range reports {
			if r := reports[i]; r.Total != 12*cost || r.Done > r.Total || i > 0 && r.Done < reports[i-1].Done {
				t.Errorf("report %d of cost %d: %+v", i, cost, r)
			}
		}
		if cost > 0 && (len(reports) == 0 || reports[len(reports)-1].Done != 12*cost) {
			t.Errorf("cost %d: reports end with %+v", cost, reports)
		}
	}
}

// The budget holds although more is allocated over the whole run.
func TestBudgetHolds(t *testing.T) {
	const steps, n = 20, 1 << 19 // 2 MiB each, 2 live at a time
	const need = 3 * 4 * n       // one more is on its way
	p, w := chain(steps, n, 1000)
	for _, budget := range []int64{need, need + 1<<20, 10 * need} {
		result, err := open(t, gpu.Options{Device: -1, MemoryBudget: budget}).Run(t.Context(), p, w, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkChain(t, result, steps, n)
		// What the Program says without running is what is allocated, where no more is had.
		if result.PeakBytes > budget || result.PeakBytes < need {
			t.Errorf("peak %d bytes, the budget is %d", result.PeakBytes, budget)
		}
	}
	tight := open(t, gpu.Options{Device: -1, MemoryBudget: need - 1})
	var over *gpu.BudgetError
	if _, err := tight.Run(t.Context(), p, w, nil, nil); !errors.As(err, &over) || over.Need != need || over.Budget != need-1 {
		t.Errorf("got %v", err)
	}
}

// Weights are read and staged while earlier dispatches run, within a budget too. How long a
// dispatch has to take for that depends on what else the machine does: the more it is not
// seen, the longer they take.
func TestUploadsAreHidden(t *testing.T) {
	const steps, n = 6, 1 << 16
	const all = (steps + 1) * 4 * n
	for _, budget := range []int64{0, 6 * 4 * n} {
		d := open(t, gpu.Options{Device: -1, MemoryBudget: budget})
		var hidden []int64
		for work := 1500; work <= 64*1500; work *= 4 {
			p, w := chain(steps, n, 1<<40) // a submit each
			p.Kernels[0].WGSL = strings.Replace(doubleKernel, "y[id.x] = 2.0 * x[id.x] + y[id.x];", fmt.Sprintf(`
    var sum = 0.0;
    for (var i = 0u; i < %du; i++) { sum = fract(sum * 1.618 + x[id.x]); }
    y[id.x] = 2.0 * x[id.x] + y[id.x] + select(0.0, sum, sum < -1.0);`, work), 1) // it never is
			result, err := d.Run(t.Context(), p, w, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			checkChain(t, result, steps, n)
			if result.UploadedBytes != all {
				t.Fatalf("budget %d: %d bytes uploaded, want %d", budget, result.UploadedBytes, all)
			}
			hidden = append(hidden, result.HiddenBytes)
			// The first two come before there is anything to run.
			if result.HiddenBytes >= all/3 {
				break
			}
		}
		if hidden[len(hidden)-1] < all/3 {
			t.Errorf("budget %d: of %d bytes, %d were brought while the device worked, with ever longer work", budget, all, hidden)
		}
	}
}

// weightsFunc makes a function into weights.
type weightsFunc func(name string, off int64, p []byte) error

func (f weightsFunc) ReadWeights(name, _ string, off int64, p []byte) error { return f(name, off, p) }

// Weights are asked for in the order of use, in pieces, and a failure names the tensor.
func TestWeightsOrder(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	const n = 3 << 20 // 12 MiB
	p, w := chain(3, n, 1000)
	var asked []string
	_, err := d.Run(t.Context(), p, weightsFunc(func(name string, off int64, q []byte) error {
		if len(q) > 8<<20 {
			t.Errorf("asked for %d bytes at a time", len(q))
		}
		asked = append(asked, fmt.Sprintf("%s@%d", name, off>>20))
		if name == "w2" && off > 0 {
			return errors.New("the disk is gone")
		}
		return w.ReadWeights(name, "F32", off, q)
	}), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "w2: the disk is gone") {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(asked, " "); got != "w0@0 w0@8 w1@0 w1@8 w2@0 w2@8" {
		t.Errorf("asked for %s", got)
	}
}

// What no dispatch binds is not created; what is only read is.
func TestUnboundBuffers(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p, w := chain(2, 1000, 1)
	p.Buffers = append(p.Buffers,
		graph.Buffer{Label: "unused", Bytes: 64 << 20, Source: graph.Source{Kind: graph.SourceWeights, Name: "nowhere", DType: "F32", Bytes: 64 << 20}},
		graph.Buffer{Label: "zeros", Bytes: 16, Source: graph.Source{Kind: graph.SourceZero}},
		graph.Buffer{Label: "odd", Bytes: 8, Source: graph.Source{Kind: graph.SourceInput, Name: "odd", Offset: 4, Bytes: 5}},
		graph.Buffer{Label: "words", Bytes: 8, Source: graph.Source{Kind: graph.SourceInline, Words: []uint32{0x7fc00001, 0xff800000}}})
	p.Reads = append(p.Reads, graph.Read{Name: "zeros", Buffer: 4, Bytes: 16}, graph.Read{Name: "odd", Buffer: 5, Bytes: 8},
		graph.Read{Name: "words", Buffer: 6, Offset: 4, Bytes: 4})
	result, err := d.Run(t.Context(), p, w, []graph.Input{{Name: "odd", Data: []byte("....12345678")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkChain(t, result, 2, 1000)
	for name, want := range map[string]string{"zeros": strings.Repeat("\x00", 16), "odd": "12345\x00\x00\x00", "words": "\x00\x00\x80\xff"} {
		if got, _ := result.Output(name); string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if result.PeakBytes > 1<<20 {
		t.Errorf("peak %d bytes", result.PeakBytes)
	}
}

// Limits above WebGPU's defaults are asked for when a Program needs them, in the middle
// of a device's life too.
func TestRaisedLimits(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p, w := chain(2, 1000, 1)
	for _, size := range []int{64, 512, 64} {
		if size > d.Limits().MaxComputeInvocationsPerWorkgroup {
			t.Skipf("the device has %d invocations", d.Limits().MaxComputeInvocationsPerWorkgroup)
		}
		p.Requires.MaxComputeInvocationsPerWorkgroup = max(256, size)
		p.Kernels[0].WGSL = strings.Replace(doubleKernel, "64", fmt.Sprint(size), 1)
		result, err := d.Run(t.Context(), p, w, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkChain(t, result, 2, 1000)
	}
	p.Requires.MaxStorageBufferBindingSize = 1 << 40
	if _, err := d.Run(t.Context(), p, w, nil, nil); err == nil || !strings.Contains(err.Error(), "maxStorageBufferBindingSize 1099511627776") {
		t.Errorf("got %v", err)
	}
}

func TestContextBeforeTurn(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p, w := chain(2, 1000, 1)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Run(done, p, w, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		var once bool
		_, err := d.Run(t.Context(), p, weightsFunc(func(name string, off int64, q []byte) error {
			if !once {
				once = true
				close(entered)
				<-leave
			}
			return w.ReadWeights(name, "F32", off, q)
		}), nil, nil)
		first <- err
	}()
	<-entered
	waiting, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Run(waiting, p, w, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestNothingHeld(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p, w := chain(8, 1000, 1<<40)
	failing := weightsFunc(func(name string, off int64, q []byte) error {
		if name == "w5" {
			return errors.New("no")
		}
		return w.ReadWeights(name, "F32", off, q)
	})
	for i := range 100 {
		if _, err := d.Run(t.Context(), p, w, nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Run(t.Context(), p, failing, nil, nil); err == nil {
			t.Fatal("no error")
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := d.Run(ctx, p, w, nil, func(graph.Progress) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if i == 0 || i == 99 {
			if buffers, groups, commands := d.Held(); buffers+groups+commands > 3 {
				t.Errorf("after %d runs %d buffers, %d bind groups and %d command buffers are held", 3*(i+1), buffers, groups, commands)
			}
		}
	}
}

// What the caller hands in may panic: that run fails, the next one does not.
func TestPanics(t *testing.T) {
	d := open(t, gpu.Options{Device: -1})
	p, w := chain(2, 1000, 1)
	if _, err := d.Run(t.Context(), p, weightsFunc(func(string, int64, []byte) error { panic("oh") }), nil, nil); err == nil || !strings.Contains(err.Error(), "oh") {
		t.Errorf("got %v", err)
	}
	result, err := d.Run(t.Context(), p, w, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkChain(t, result, 2, 1000)
}
