package graph

import (
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// What the planner aims at. maxScratch bounds each buffer of repacked weights and of
// padded inputs, whatever the device could bind; maxBinding keeps every index of a value
// far inside of a kernel's 32 bits.
const (
	maxScratch = 128 << 20
	maxBinding = 2 << 30
	maxCost    = 4_000_000_000
	slotBytes  = 256
	slotWords  = slotBytes / 4
)

// Builder puts a Program together: one method an operation, each adds the dispatches for
// tensors of any size that the limits allow. The first error sticks: later calls do
// nothing, and Program returns it.
type Builder struct {
	// MaxCost is the most multiply-accumulates of one dispatch, so that a display's
	// watchdog never sees a long one. NewBuilder sets 4e9; tests set less.
	MaxCost int64
	// Prepare, where not nil, makes all that depends on weights alone a stage of its own
	// (Program.Once): packing weights and transforming kernels, into buffers that stay. It is
	// for Programs that are held, and is to be set before the first operation.
	Prepare *Preparation

	limits  Limits
	needs   Limits
	program Program
	stage   string
	err     error

	kernels map[string]kernelEntry
	slots   map[[slotWords]uint32]int
	words   []uint32
	weights map[weightRange]int
	packed  map[string][]shard
	free    map[int64][]released
	pinned  map[int]bool
	held    bool        // there is State
	shapes  []ConvShape // of convolutions, each once

	preparing bool       // dispatches go to the stage StagePrepare
	prepared  []Dispatch // which comes before all others
	scratch   map[int64][]released
}

type kernelEntry struct {
	wgsl.Kernel
	index int
}

type weightRange struct {
	name, dtype   string
	offset, bytes int64
}

// arg is one word of a dispatch's parameters. Negative values wrap.
type arg struct {
	name  string
	value int64
}

// paramsBuffer is the index of the uniform buffer that holds all parameters.
const paramsBuffer = 0

// NewBuilder starts a Program for devices with the given limits.
func NewBuilder(limits Limits) *Builder {
	b := &Builder{
		MaxCost: maxCost,
		limits:  limits,
		kernels: map[string]kernelEntry{},
		slots:   map[[slotWords]uint32]int{},
		weights: map[weightRange]int{},
		packed:  map[string][]shard{},
		free:    map[int64][]released{},
		pinned:  map[int]bool{},
		scratch: map[int64][]released{},
	}
	b.program.Version = Version
	b.program.Buffers = []Buffer{{Label: "params", Uniform: true, Source: Source{Kind: SourceInline}}}
	if limits.MaxStorageBufferBindingSize < 1<<12 || limits.MaxBufferSize < 1<<12 || limits.MaxComputeWorkgroupsPerDimension < 256 {
		b.Fail(fmt.Errorf("graph: limits %+v are too small to plan with", limits))
	}
	if err := limits.Tuning.Validate(); err != nil {
		b.Fail(err)
	}
	return b
}

// Stage names the part of the work that the next dispatches belong to.
func (b *Builder) Stage(name string) { b.stage = name }

// Fail records an error that makes the Program impossible, unless there is one already.
func (b *Builder) Fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Builder) failf(format string, args ...any) { b.Fail(fmt.Errorf("graph: "+format, args...)) }

// Err is the first error so far.
func (b *Builder) Err() error { return b.err }

// Program finishes and checks the Program. The Builder is used up.
func (b *Builder) Program() (*Program, error) {
	if b.err != nil {
		return nil, b.err
	}
	p := &b.program
	if len(b.prepared) > 0 {
		p.Once = StagePrepare
		p.Dispatches = append(b.prepared, p.Dispatches...)
	}
	if len(p.Dispatches) == 0 {
		return nil, fmt.Errorf("graph: a program without dispatches")
	}
	params := &p.Buffers[paramsBuffer]
	params.Source.Words = b.words
	params.Bytes = int64(len(b.words)) * 4
	for i := range p.Buffers {
		b.needs.MaxBufferSize = max(b.needs.MaxBufferSize, p.Buffers[i].Bytes)
	}
	if err := within(b.needs, b.limits); err != nil {
		return nil, err
	}
	p.Requires = b.needs
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

func within(needs, limits Limits) error {
	for _, c := range []struct {
		what        string
		needs, have int64
	}{
		{"max_buffer_size", needs.MaxBufferSize, limits.MaxBufferSize},
		{"max_storage_buffer_binding_size", needs.MaxStorageBufferBindingSize, limits.MaxStorageBufferBindingSize},
		{"max_storage_buffers_per_shader_stage", int64(needs.MaxStorageBuffersPerShaderStage), int64(limits.MaxStorageBuffersPerShaderStage)},
		{"max_compute_workgroups_per_dimension", int64(needs.MaxComputeWorkgroupsPerDimension), int64(limits.MaxComputeWorkgroupsPerDimension)},
		{"max_compute_invocations_per_workgroup", int64(needs.MaxComputeInvocationsPerWorkgroup), int64(limits.MaxComputeInvocationsPerWorkgroup)},
		{"max_compute_workgroup_storage_size", int64(needs.MaxComputeWorkgroupStorageSize), int64(limits.MaxComputeWorkgroupStorageSize)},
	} {
		if c.needs > c.have {
			return fmt.Errorf("graph: the program needs %s %d, the limit is %d: plan for a device with more", c.what, c.needs, c.have)
		}
	}
	if needs.ShaderF16 && !limits.ShaderF16 || needs.Subgroups && !limits.Subgroups {
		return fmt.Errorf("graph: the program needs features (shader-f16 %v, subgroups %v) that the limits do not have", needs.ShaderF16, needs.Subgroups)
	}
	return nil
}

// subgroups is the constant of kernels that sum over workgroups, empty where the device has
// no subgroups.
func (b *Builder) subgroups() []wgsl.Const {
	if !b.limits.Subgroups {
		return nil
	}
	b.needs.Subgroups = true
	return []wgsl.Const{{Name: "Subgroups", Value: 1}}
}

// half is the constant of kernels on repacked weights that stay f16, empty where they are
// none or the device has no such type.
func (b *Builder) half(dtype string) []wgsl.Const {
	if !b.limits.ShaderF16 || dtype != "F16" {
		return nil
	}
	b.needs.ShaderF16 = true
	return []wgsl.Const{{Name: "Half", Value: 1}}
}

// bindable is the most bytes of one storage buffer: all are bound whole.
func (b *Builder) bindable() int64 {
	return min(b.limits.MaxStorageBufferBindingSize, b.limits.MaxBufferSize, maxBinding) &^ 15
}

func (b *Builder) scratchLimit() int64 { return min(b.bindable(), maxScratch) }

func (b *Builder) buffer(label string, bytes int64, s Source) int {
	b.program.Buffers = append(b.program.Buffers, Buffer{Label: label, Bytes: (bytes + 3) &^ 3, Source: s})
	if len(b.program.Buffers) > maxBuffers {
		b.failf("the program has more than %d buffers", maxBuffers)
	}
	return len(b.program.Buffers) - 1
}

// released is a buffer that nothing needs from a dispatch on.
type released struct{ buffer, at int }

// An executor frees a buffer after its last use, so one that serves again takes memory in
// between, too: buffers of smallBuffer bytes and more serve again only within shortGap
// dispatches, where they save the making of a new one in a loop. A Program that is held keeps
// all buffers of its runs anyway, and reuses all.
const (
	smallBuffer = 1 << 20
	shortGap    = 16
)

// temp is a buffer that the next dispatches fill: a released one of that size, or new.
// Its first contents are undefined.
func (b *Builder) temp(label string, bytes int64) int {
	if list := b.free[bytes]; len(list) > 0 {
		last := list[len(list)-1]
		b.free[bytes] = list[:len(list)-1]
		held := (b.held || b.Prepare != nil) && !b.preparing
		if held || bytes < smallBuffer || len(b.program.Dispatches)-last.at <= shortGap {
			return last.buffer
		}
		// What comes after it was released longer ago.
		delete(b.free, bytes)
	}
	return b.buffer(label, bytes, Source{Kind: SourceZero})
}

func (b *Builder) releaseBuffer(i int) {
	if b.err == nil && !b.pinned[i] {
		bytes := b.program.Buffers[i].Bytes
		b.free[bytes] = append(b.free[bytes], released{i, len(b.program.Dispatches)})
	}
}

// weight is the buffer of a range of a tensor. Equal ranges share one.
func (b *Builder) weight(name, dtype string, offset, bytes int64) int {
	key := weightRange{name, dtype, offset, bytes}
	if i, ok := b.weights[key]; ok {
		return i
	}
	if bytes > b.bindable() {
		b.failf("tensor %s: %d bytes at a time are needed, a binding holds %d", name, bytes, b.bindable())
		return paramsBuffer
	}
	i := b.buffer(name, bytes, Source{Kind: SourceWeights, Name: name, DType: dtype, Offset: offset, Bytes: bytes})
	b.weights[key] = i
	return i
}

// storage is a storage type of weights: the kernels' constant Store for it, and how many
// values and bytes are a unit that is never cut.
type storage struct {
	store         int
	values, bytes int64
}

var storages = map[string]storage{
	"F32":     {wgsl.StoreF32, 1, 4},
	"F16":     {wgsl.StoreF16, 2, 4},
	quant.Q8:  {wgsl.StoreQ8, quant.Values, quant.BytesQ8},
	quant.Q41: {wgsl.StoreQ41, quant.Values, quant.BytesQ41},
}

// weightValues is the buffer of a tensor's values [from, from+count) of total, stored as
// dtype. The buffer begins with whole units: base is where in it the value from is.
func (b *Builder) weightValues(name, dtype string, from, count, total int64) (buffer int, base int64) {
	s := storages[dtype]
	first := from / s.values * s.values
	end := min(ceil(from+count, s.values)*s.values, total)
	bytes := (end - first) / s.values * s.bytes
	if rest := (end - first) % s.values; rest > 0 {
		bytes += s.bytes
		if dtype == "F16" { // the last value of an odd number
			bytes -= 2
		}
	}
	return b.weight(name, dtype, first/s.values*s.bytes, bytes), from - first
}

// vector is the buffer of a whole small F32 tensor.
func (b *Builder) vector(name string, elements int) int {
	return b.weight(name, "F32", 0, int64(elements)*4)
}

func (b *Builder) kernel(name string, consts ...wgsl.Const) kernelEntry {
	key := fmt.Sprint(name, consts)
	if e, ok := b.kernels[key]; ok {
		return e
	}
	k, err := wgsl.Render(name, consts...)
	if err != nil {
		b.Fail(err)
		return kernelEntry{}
	}
	e := kernelEntry{Kernel: k, index: len(b.program.Kernels)}
	b.kernels[key] = e
	bindings := make([]BindType, len(k.Bindings))
	storage := 0
	for i, t := range k.Bindings {
		bindings[i] = BindType(t)
		if t != wgsl.Uniform {
			storage++
		}
	}
	b.program.Kernels = append(b.program.Kernels, Kernel{Label: k.Label, WGSL: k.WGSL, Entry: wgsl.Entry, Bindings: bindings})
	b.needs.MaxStorageBuffersPerShaderStage = max(b.needs.MaxStorageBuffersPerShaderStage, storage)
	b.needs.MaxComputeInvocationsPerWorkgroup = max(b.needs.MaxComputeInvocationsPerWorkgroup, k.Workgroup)
	b.needs.MaxComputeWorkgroupStorageSize = max(b.needs.MaxComputeWorkgroupStorageSize, k.WorkgroupBytes)
	return e
}

// dispatch adds one run of k. groups are workgroups; buffers are bound whole, from
// binding 1 on; args are all of the kernel's parameters, in any order.
func (b *Builder) dispatch(label string, k kernelEntry, groups [3]int64, cost int64, buffers []int, args ...arg) {
	if b.err != nil {
		return
	}
	var slot [slotWords]uint32
	for i, name := range k.Params {
		found := false
		for _, a := range args {
			if a.name == name {
				if a.value > math.MaxUint32 || a.value < math.MinInt32 {
					b.failf("%s: parameter %s = %d does not fit 32 bits", label, name, a.value)
					return
				}
				slot[i], found = uint32(a.value), true
			}
		}
		if !found {
			b.failf("%s: kernel %s lacks parameter %s", label, k.Label, name)
			return
		}
	}
	if len(args) != len(k.Params) || len(buffers)+1 != len(k.Bindings) {
		b.failf("%s: kernel %s takes %d parameters and %d buffers, given %d and %d",
			label, k.Label, len(k.Params), len(k.Bindings)-1, len(args), len(buffers))
		return
	}
	at, ok := b.slots[slot]
	if !ok {
		at = len(b.words) * 4
		b.slots[slot] = at
		b.words = append(b.words, slot[:]...)
	}
	d := Dispatch{Label: label, Kernel: k.index, Stage: b.stage, Cost: cost,
		Binds: []Bind{{Buffer: paramsBuffer, Offset: int64(at), Bytes: slotBytes}}}
	for i, g := range groups {
		if g < 1 || g > int64(b.limits.MaxComputeWorkgroupsPerDimension) {
			b.failf("%s: %v workgroups, at most %d a dimension", label, groups, b.limits.MaxComputeWorkgroupsPerDimension)
			return
		}
		d.Groups[i] = int(g)
		b.needs.MaxComputeWorkgroupsPerDimension = max(b.needs.MaxComputeWorkgroupsPerDimension, int(g))
	}
	for _, i := range buffers {
		bytes := b.program.Buffers[i].Bytes
		d.Binds = append(d.Binds, Bind{Buffer: i, Bytes: bytes})
		b.needs.MaxStorageBufferBindingSize = max(b.needs.MaxStorageBufferBindingSize, bytes)
	}
	if len(b.program.Dispatches) == maxDispatches {
		b.failf("the program has more than %d dispatches", maxDispatches)
		return
	}
	b.program.Dispatches = append(b.program.Dispatches, d)
}

// each adds a dispatch with one invocation for each of count values, in two dimensions
// when one does not hold them, and gives it the parameters count and width.
func (b *Builder) each(label string, k kernelEntry, count int64, buffers []int, args ...arg) {
	if b.err != nil {
		return
	}
	x, y := b.grid(ceil(count, int64(k.Workgroup)))
	args = append([]arg{{"count", count}, {"width", x * int64(k.Workgroup)}}, args...)
	b.dispatch(label, k, [3]int64{x, y, 1}, count*4, buffers, args...)
}

// grid is a rectangle of at least n workgroups.
func (b *Builder) grid(n int64) (x, y int64) {
	limit := int64(b.limits.MaxComputeWorkgroupsPerDimension)
	if n <= limit {
		return n, 1
	}
	return limit, ceil(n, limit)
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

func floatBits(f float64) int64 { return int64(math.Float32bits(float32(f))) }
