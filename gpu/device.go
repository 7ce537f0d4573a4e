// Package gpu runs a graph.Program on a native WebGPU device through
// cogentcore/webgpu (Vulkan, Metal or DX12). It is the only package that imports the
// binding. It knows no model: it creates buffers, streams weights into them, runs
// dispatches in order and reads results back. Programs come from package generator;
// what is read back goes to package lora.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// Info describes an adapter.
type Info struct {
	Index   int          `json:"index"`
	Name    string       `json:"name"`
	Vendor  string       `json:"vendor"`           // "NVIDIA", or a PCI or Khronos id as 0x10de
	Backend string       `json:"backend"`          // vulkan, metal or d3d12
	Type    string       `json:"type"`             // discrete, integrated, virtual, software or unknown
	Driver  string       `json:"driver,omitempty"` // where the library tells: Vulkan's does not
	Limits  graph.Limits `json:"limits"`
}

// Software says whether the device is the processor itself: right, but slow.
func (i Info) Software() bool { return i.Type == typeSoftware }

const (
	typeDiscrete   = "discrete"
	typeIntegrated = "integrated"
	typeVirtual    = "virtual"
	typeSoftware   = "software"
	typeUnknown    = "unknown"
)

// vendors are PCI ids, and Khronos ids for those without one.
var vendors = map[uint32]string{
	0x1002: "AMD", 0x1010: "Imagination", 0x106b: "Apple", 0x10de: "NVIDIA", 0x13b5: "Arm", 0x1414: "Microsoft",
	0x1ae0: "Google", 0x5143: "Qualcomm", 0x8086: "Intel", 0x10005: "Mesa",
}

// softwareVendors make devices that are the processor itself: SwiftShader, llvmpipe, WARP.
var softwareVendors = map[uint32]bool{0x1ae0: true, 0x10005: true, 0x1414: true}

// rank orders device types from best to worst.
var rank = map[string]int{typeDiscrete: 0, typeIntegrated: 1, typeVirtual: 2, typeUnknown: 3, typeSoftware: 4}

// ErrNoDevice says that the machine offers no WebGPU adapter.
var ErrNoDevice = errors.New("gpu: no Vulkan, Metal or DX12 device found: install a graphics driver " +
	"(Debian: libvulkan1 and mesa-vulkan-drivers, which has a software device too), or use --backend pjrt or cpu")

// Options choose and bound a device.
type Options struct {
	// Device is an index from List, or -1 for the best: discrete before integrated before
	// virtual before software.
	Device int
	// MemoryBudget bounds the bytes that a run may hold at a time, in buffers and in copies
	// that are on their way to and from the device. 0 is no bound but the device's.
	MemoryBudget int64
	// Profile measures the parts of each run, Result.Parts: by the device's timestamps, or,
	// where it has none, by waiting after each.
	Profile bool
}

// List describes the machine's adapters, in the order of their indexes.
func List() ([]Info, error) {
	instance := newInstance()
	defer instance.Release()
	adapters := enumerate(instance)
	infos := make([]Info, len(adapters))
	for i, a := range adapters {
		infos[i] = describe(i, a)
		a.Release()
	}
	if len(infos) == 0 {
		return nil, ErrNoDevice
	}
	return infos, nil
}

func enumerate(instance *wgpu.Instance) []*wgpu.Adapter {
	return instance.EnumerateAdapters(&wgpu.InstanceEnumerateAdapterOptons{Backends: backends})
}

func describe(index int, a *wgpu.Adapter) Info {
	info := a.GetInfo()
	limits := a.GetLimits().Limits
	kind := typeUnknown
	switch info.AdapterType {
	case wgpu.AdapterTypeDiscreteGPU:
		kind = typeDiscrete
	case wgpu.AdapterTypeIntegratedGPU:
		kind = typeIntegrated
	case wgpu.AdapterTypeCPU:
		// The library calls virtual GPUs processors too: only these makers' really are.
		kind = typeVirtual
		if softwareVendors[info.VendorId] {
			kind = typeSoftware
		}
	}
	vendor, ok := vendors[info.VendorId]
	if !ok {
		vendor = fmt.Sprintf("%#x", info.VendorId)
	}
	return Info{
		// The library puts the device's name in the description, and its PCI id in the name.
		Index: index, Name: info.DriverDescription, Vendor: vendor, Backend: info.BackendType.String(), Type: kind,
		Limits: graph.Limits{
			MaxBufferSize:                     clamp(limits.MaxBufferSize),
			MaxStorageBufferBindingSize:       clamp(limits.MaxStorageBufferBindingSize),
			MaxStorageBuffersPerShaderStage:   int(limits.MaxStorageBuffersPerShaderStage),
			MaxComputeWorkgroupsPerDimension:  int(limits.MaxComputeWorkgroupsPerDimension),
			MaxComputeInvocationsPerWorkgroup: int(limits.MaxComputeInvocationsPerWorkgroup),
			MaxComputeWorkgroupStorageSize:    int(limits.MaxComputeWorkgroupStorageSize),
		},
	}
}

func clamp(v uint64) int64 { return int64(min(v, 1<<62)) }

// Device is an open adapter. It implements graph.Executor; its methods are safe for
// concurrent use and run one Program at a time.
type Device struct {
	info    Info
	options Options
	tuning  *graph.Tuning

	turn      chan struct{} // holds one token while somebody uses the fields below
	instance  *wgpu.Instance
	adapter   *wgpu.Adapter
	device    *wgpu.Device // nil until the first Program, and after a loss
	queue     *wgpu.Queue
	stamps    *timestamps // only for Profile
	granted   graph.Limits
	pipelines map[string]*pipeline
}

var _ graph.Budgeted = (*Device)(nil)

// Open chooses an adapter. The device itself is created with the first Program, since
// only that says which limits must be raised.
func Open(o Options) (*Device, error) {
	instance := newInstance()
	adapters := enumerate(instance)
	best := -1
	infos := make([]Info, len(adapters))
	for i, a := range adapters {
		infos[i] = describe(i, a)
		if best < 0 || rank[infos[i].Type] < rank[infos[best].Type] {
			best = i
		}
	}
	if o.Device >= 0 {
		best = o.Device
	}
	for i, a := range adapters {
		if i != best {
			a.Release()
		}
	}
	switch {
	case len(adapters) == 0:
		instance.Release()
		return nil, ErrNoDevice
	case best >= len(adapters):
		instance.Release()
		return nil, fmt.Errorf("gpu: there is no device %d: the machine has devices 0 to %d", best, len(adapters)-1)
	}
	d := &Device{info: infos[best], options: o, turn: make(chan struct{}, 1), instance: instance, adapter: adapters[best]}
	runtime.SetFinalizer(d, func(d *Device) { d.Close() })
	return d, nil
}

// Info describes the device.
func (d *Device) Info() Info { return d.info }

// Tune sets how Programs for the device are planned, nil where only a cost model decides.
func (d *Device) Tune(t *graph.Tuning) { d.tuning = t }

// Limits are the most that a Program for this device may require, and how it is planned
// best.
func (d *Device) Limits() graph.Limits {
	limits := d.info.Limits
	limits.Tuning = d.tuning
	if d.options.MemoryBudget > 0 {
		var t graph.Tuning
		if limits.Tuning != nil {
			t = *limits.Tuning
		}
		t.Memory = d.options.MemoryBudget
		limits.Tuning = &t
	}
	return limits
}

// Close releases the device. Close of a closed device does nothing.
func (d *Device) Close() error {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.adapter == nil {
		return nil
	}
	d.drop()
	d.adapter.Release()
	d.instance.Release()
	d.adapter, d.instance = nil, nil
	runtime.SetFinalizer(d, nil)
	return nil
}

// drop gives the device and its pipelines back; the next Program opens a new one.
func (d *Device) drop() {
	for _, p := range d.pipelines {
		p.release()
	}
	d.pipelines = nil
	d.stamps.release()
	d.stamps = nil
	if d.queue != nil {
		d.queue.Release()
		d.queue = nil
	}
	if d.device != nil {
		d.device.Release()
		d.device = nil
	}
}

// abandon forgets a lost device and all that was made on it. Giving it back would wait
// for it, and the library ends the process when that wait fails.
func (d *Device) abandon() { d.pipelines, d.stamps, d.queue, d.device = nil, nil, nil, nil }

// ensure has a device whose limits cover need.
func (d *Device) ensure(need graph.Limits) error {
	if d.adapter == nil {
		return errors.New("gpu: the device is closed")
	}
	type limit struct {
		name             string
		need, have, open int64
		base             int64
	}
	base := graph.DefaultLimits()
	list := func(l graph.Limits) [6]int64 {
		return [6]int64{l.MaxBufferSize, l.MaxStorageBufferBindingSize, int64(l.MaxStorageBuffersPerShaderStage),
			int64(l.MaxComputeWorkgroupsPerDimension), int64(l.MaxComputeInvocationsPerWorkgroup), int64(l.MaxComputeWorkgroupStorageSize)}
	}
	names := [6]string{"maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage",
		"maxComputeWorkgroupsPerDimension", "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupStorageSize"}
	needs, haves, opens, bases := list(need), list(d.info.Limits), list(d.granted), list(base)
	enough := d.device != nil
	var ask [6]int64
	for i := range names {
		l := limit{names[i], needs[i], haves[i], opens[i], bases[i]}
		if l.need > l.have {
			return fmt.Errorf("gpu: the Program needs %s %d, but %s has %d: use another device, or --backend pjrt or cpu",
				l.name, l.need, d.info.Name, l.have)
		}
		enough = enough && l.need <= l.open
		ask[i] = max(l.need, min(l.base, l.have), l.open)
	}
	if enough {
		return nil
	}
	d.drop()
	limits := wgpu.DefaultLimits()
	limits.MaxBufferSize = uint64(ask[0])
	limits.MaxStorageBufferBindingSize = uint64(ask[1])
	limits.MaxStorageBuffersPerShaderStage = uint32(ask[2])
	limits.MaxComputeWorkgroupsPerDimension = uint32(ask[3])
	limits.MaxComputeInvocationsPerWorkgroup = uint32(ask[4])
	offered := d.adapter.GetLimits().Limits // one dimension may hold as many, where the adapter allows it
	limits.MaxComputeWorkgroupSizeX = min(uint32(ask[4]), offered.MaxComputeWorkgroupSizeX)
	limits.MaxComputeWorkgroupSizeY = min(uint32(ask[4]), offered.MaxComputeWorkgroupSizeY)
	limits.MaxComputeWorkgroupStorageSize = uint32(ask[5])
	descriptor := wgpu.DeviceDescriptor{Label: "dnd", RequiredLimits: &wgpu.RequiredLimits{Limits: limits}}
	if d.options.Profile && d.adapter.HasFeature(wgpu.FeatureNameTimestampQuery) {
		descriptor.RequiredFeatures = []wgpu.FeatureName{wgpu.FeatureNameTimestampQuery}
	}
	device, err := d.adapter.RequestDevice(&descriptor)
	if err != nil {
		return fmt.Errorf("gpu: open %s: %w", d.info.Name, err)
	}
	d.device, d.queue, d.pipelines = device, device.GetQueue(), map[string]*pipeline{}
	d.granted = graph.Limits{MaxBufferSize: ask[0], MaxStorageBufferBindingSize: ask[1], MaxStorageBuffersPerShaderStage: int(ask[2]),
		MaxComputeWorkgroupsPerDimension: int(ask[3]), MaxComputeInvocationsPerWorkgroup: int(ask[4]), MaxComputeWorkgroupStorageSize: int(ask[5])}
	if d.options.Profile {
		d.stamps = newTimestamps(d)
	}
	return nil
}

// Run executes p once (graph.Executor). A device that was lost in an earlier run is
// opened anew. A loss that the library notices in a submit or a poll ends the process: it
// has no other way to report it there.
func (d *Device) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (result *graph.Result, err error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &run{d: d, ctx: ctx, p: p, weights: w, inputs: in, report: report}
	return d.exclusive(ctx, p.Requires, func() (*graph.Result, error) {
		all := make([]int, len(p.Dispatches))
		for i := range all {
			all[i] = i
		}
		return r.execute(all, p.Reads)
	}, r.release)
}

// exclusive does work with the device to itself, on limits of at least need. release gives
// back what the work made, unless the device is lost.
func (d *Device) exclusive(ctx context.Context, need graph.Limits, work func() (*graph.Result, error), release func()) (result *graph.Result, err error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case d.turn <- struct{}{}:
	}
	defer func() { <-d.turn }()
	if err := d.ensure(need); err != nil {
		return nil, err
	}
	whole := false
	defer func() {
		if v := recover(); v != nil {
			result, err = nil, fmt.Errorf("gpu: panic in the binding, the weights or the report: %v", v)
		}
		if !whole {
			d.abandon()
		}
	}()
	result, err = work()
	var lost *DeviceLostError
	if !errors.As(err, &lost) {
		release()
		whole = true
	}
	return result, err
}
