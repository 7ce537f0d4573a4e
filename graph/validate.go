package graph

import (
	"errors"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
)

// What no Program needs more of. Validate refuses larger ones before an executor
// allocates anything; the device's own limits come on top (Requires).
const (
	maxKernels     = 1 << 10
	maxBuffers     = 1 << 20
	maxDispatches  = 1 << 20
	maxReads       = 1 << 16
	maxLabel       = 1 << 10
	maxWGSL        = 1 << 20
	maxBindings    = 16
	maxInlineWords = 16 << 20
	maxUniform     = 64 << 10 // bytes of one uniform binding, WebGPU's default limit
	maxTotalBytes  = 1 << 42  // all buffers together, whether or not alive at the same time
	maxTotalCost   = 1 << 60
	bindAlignment  = 256
)

// Validate checks every count, size, range and index of p against the others and
// against p.Requires, without looking into the WGSL. An executor that compares Requires
// with its device may then run p without further checks. Errors name the item.
func (p *Program) Validate() error {
	if p.Version != Version {
		return fmt.Errorf("program: version %d, expected %d: make the program anew with this release", p.Version, Version)
	}
	for _, c := range []struct {
		what     string
		len, max int
	}{
		{"kernels", len(p.Kernels), maxKernels},
		{"buffers", len(p.Buffers), maxBuffers},
		{"dispatches", len(p.Dispatches), maxDispatches},
		{"reads", len(p.Reads), maxReads},
	} {
		if c.len > c.max {
			return fmt.Errorf("program: %d %s, at most %d are allowed", c.len, c.what, c.max)
		}
	}
	if err := p.Requires.validate(); err != nil {
		return fmt.Errorf("program: requires: %w", err)
	}
	for i := range p.Kernels {
		if err := p.Kernels[i].validate(&p.Requires); err != nil {
			return fmt.Errorf("program: kernel %d (%.64q): %w", i, p.Kernels[i].Label, err)
		}
	}
	if err := p.validateBuffers(); err != nil {
		return err
	}
	var cost int64
	for i := range p.Dispatches {
		d := &p.Dispatches[i]
		if err := p.validateDispatch(d); err != nil {
			return fmt.Errorf("program: dispatch %d (%.64q): %w", i, d.Label, err)
		}
		if d.Cost < 0 || d.Cost > maxTotalCost-cost {
			return fmt.Errorf("program: dispatch %d (%.64q): cost %d is negative or too large", i, d.Label, d.Cost)
		}
		cost += d.Cost
	}
	if err := p.validateOnce(); err != nil {
		return err
	}
	return p.validateReads()
}

// validateOnce checks that the stage Once comes first, takes no input, and that nobody else
// writes what it leaves.
func (p *Program) validateOnce() error {
	if p.Once == "" {
		return nil
	}
	once := p.once()
	if len(p.Once) > maxLabel || once == 0 {
		return fmt.Errorf("program: once is %.64q, expected the first dispatch's stage", p.Once)
	}
	left := make([]bool, len(p.Buffers))
	for i := range p.Dispatches {
		d := &p.Dispatches[i]
		if i >= once && d.Stage == p.Once {
			return fmt.Errorf("program: dispatch %d (%.64q): stage %.64q is to run once, but comes after others", i, d.Label, d.Stage)
		}
		for j, b := range d.Binds {
			writes := p.Kernels[d.Kernel].Bindings[j] == BindReadWrite
			switch {
			case i < once && p.Buffers[b.Buffer].Source.Kind == SourceInput:
				return fmt.Errorf("program: dispatch %d (%.64q): stage %.64q is to run once, but binds the input %.64q", i, d.Label, d.Stage, p.Buffers[b.Buffer].Source.Name)
			case i < once:
				left[b.Buffer] = left[b.Buffer] || writes
			case writes && left[b.Buffer]:
				return fmt.Errorf("program: dispatch %d (%.64q) writes buffer %d (%.64q), which stage %.64q has made", i, d.Label, b.Buffer, p.Buffers[b.Buffer].Label, p.Once)
			}
		}
	}
	return nil
}

func (l *Limits) validate() error {
	for _, c := range []struct {
		what       string
		value, max int64
	}{
		{"max_buffer_size", l.MaxBufferSize, 1 << 40},
		{"max_storage_buffer_binding_size", l.MaxStorageBufferBindingSize, 1 << 40},
		{"max_storage_buffers_per_shader_stage", int64(l.MaxStorageBuffersPerShaderStage), maxBindings},
		{"max_compute_workgroups_per_dimension", int64(l.MaxComputeWorkgroupsPerDimension), 1 << 31},
		{"max_compute_invocations_per_workgroup", int64(l.MaxComputeInvocationsPerWorkgroup), 1 << 16},
		{"max_compute_workgroup_storage_size", int64(l.MaxComputeWorkgroupStorageSize), 1 << 20},
	} {
		if c.value < 0 || c.value > c.max {
			return fmt.Errorf("%s %d is outside 0..%d", c.what, c.value, c.max)
		}
	}
	return nil
}

func (k *Kernel) validate(l *Limits) error {
	switch {
	case len(k.Label) > maxLabel:
		return errors.New("label too long")
	case k.WGSL == "" || len(k.WGSL) > maxWGSL:
		return fmt.Errorf("%d bytes of WGSL, expected 1..%d", len(k.WGSL), maxWGSL)
	case !identifier(k.Entry):
		return fmt.Errorf("entry point %.64q is no identifier", k.Entry)
	case len(k.Bindings) == 0 || len(k.Bindings) > maxBindings:
		return fmt.Errorf("%d bindings, expected 1..%d", len(k.Bindings), maxBindings)
	}
	storage := 0
	for i, b := range k.Bindings {
		switch b {
		case BindUniform:
		case BindRead, BindReadWrite:
			storage++
		default:
			return fmt.Errorf("binding %d: unknown type %.64q", i, string(b))
		}
	}
	if storage > l.MaxStorageBuffersPerShaderStage {
		return fmt.Errorf("%d storage bindings, but requires.max_storage_buffers_per_shader_stage is %d",
			storage, l.MaxStorageBuffersPerShaderStage)
	}
	return nil
}

func (p *Program) validateBuffers() error {
	var total, words int64
	for i := range p.Buffers {
		b := &p.Buffers[i]
		if err := b.validate(&p.Requires); err != nil {
			return fmt.Errorf("program: buffer %d (%.64q): %w", i, b.Label, err)
		}
		if b.Bytes > maxTotalBytes-total {
			return fmt.Errorf("program: buffers 0 to %d hold more than %d bytes", i, int64(maxTotalBytes))
		}
		total += b.Bytes
		words += int64(len(b.Source.Words))
		if words > maxInlineWords {
			return fmt.Errorf("program: more than %d inline words", maxInlineWords)
		}
	}
	return nil
}

func (b *Buffer) validate(l *Limits) error {
	s := &b.Source
	switch {
	case len(b.Label) > maxLabel || len(s.Name) > maxLabel:
		return errors.New("label or source name too long")
	case b.Bytes <= 0 || b.Bytes%4 != 0:
		return fmt.Errorf("%d bytes, expected a positive multiple of 4", b.Bytes)
	case b.Bytes > l.MaxBufferSize:
		return fmt.Errorf("%d bytes, but requires.max_buffer_size is %d", b.Bytes, l.MaxBufferSize)
	case s.Kind != SourceInline && len(s.Words) != 0:
		return fmt.Errorf("source %q carries inline words", s.Kind)
	}
	switch s.Kind {
	case SourceZero:
		if s.Name != "" || s.DType != "" || s.Offset != 0 || s.Bytes != 0 {
			return errors.New("a zero source has no name, type or range")
		}
	case SourceInline:
		if s.Name != "" || s.DType != "" || s.Offset != 0 || s.Bytes != 0 {
			return errors.New("an inline source has no name, type or range")
		}
		if int64(len(s.Words)) != b.Bytes/4 {
			return fmt.Errorf("%d inline words, expected %d", len(s.Words), b.Bytes/4)
		}
	case SourceWeights, SourceInput:
		if s.Name == "" {
			return fmt.Errorf("source %q without a name", s.Kind)
		}
		if s.Kind == SourceInput && s.DType != "" {
			return fmt.Errorf("input %.64q has type %.16q, inputs are delivered as they are", s.Name, s.DType)
		}
		if s.Kind == SourceWeights && storages[s.DType].values == 0 {
			return fmt.Errorf("tensor %.64q: type %.16q, expected F32, F16, Q8 or Q4_1", s.Name, s.DType)
		}
		if u := storages[s.DType]; u.values == quant.Values && (s.Offset%u.bytes != 0 || s.Bytes%u.bytes != 0) {
			return fmt.Errorf("tensor %.64q: bytes %d+%d, expected whole blocks of %d", s.Name, s.Offset, s.Bytes, u.bytes)
		}
		if s.Offset < 0 || s.Offset%4 != 0 || s.Offset > maxTotalBytes {
			return fmt.Errorf("source offset %d, expected a multiple of 4", s.Offset)
		}
		if s.Bytes <= 0 || s.Bytes > b.Bytes || b.Bytes-s.Bytes > 3 {
			return fmt.Errorf("source of %d bytes for a buffer of %d", s.Bytes, b.Bytes)
		}
	default:
		return fmt.Errorf("unknown source kind %.64q", string(s.Kind))
	}
	return nil
}

func (p *Program) validateDispatch(d *Dispatch) error {
	if len(d.Label) > maxLabel || len(d.Stage) > maxLabel {
		return errors.New("label or stage too long")
	}
	if d.Kernel < 0 || d.Kernel >= len(p.Kernels) {
		return fmt.Errorf("kernel %d of %d", d.Kernel, len(p.Kernels))
	}
	for _, g := range d.Groups {
		if g < 1 || g > p.Requires.MaxComputeWorkgroupsPerDimension {
			return fmt.Errorf("groups %v, expected 1..%d each (requires.max_compute_workgroups_per_dimension)",
				d.Groups, p.Requires.MaxComputeWorkgroupsPerDimension)
		}
	}
	bindings := p.Kernels[d.Kernel].Bindings
	if len(d.Binds) != len(bindings) {
		return fmt.Errorf("%d binds, kernel %.64q has %d bindings", len(d.Binds), p.Kernels[d.Kernel].Label, len(bindings))
	}
	for i, t := range bindings {
		if err := p.validateBind(&d.Binds[i], t); err != nil {
			return fmt.Errorf("binding %d: %w", i, err)
		}
		for j := range i {
			// WebGPU tracks usage by whole buffers, so disjoint ranges do not help.
			if d.Binds[j].Buffer == d.Binds[i].Buffer && (t == BindReadWrite || bindings[j] == BindReadWrite) {
				return fmt.Errorf("bindings %d and %d share buffer %d and one of them writes", j, i, d.Binds[i].Buffer)
			}
		}
	}
	return nil
}

func (p *Program) validateBind(b *Bind, t BindType) error {
	if b.Buffer < 0 || b.Buffer >= len(p.Buffers) {
		return fmt.Errorf("buffer %d of %d", b.Buffer, len(p.Buffers))
	}
	buf := &p.Buffers[b.Buffer]
	if buf.Uniform != (t == BindUniform) {
		return fmt.Errorf("buffer %d (%.64q) is bound as %s, its uniform flag is %v", b.Buffer, buf.Label, t, buf.Uniform)
	}
	if err := inRange(b.Offset, b.Bytes, buf.Bytes); err != nil {
		return fmt.Errorf("buffer %d (%.64q): %w", b.Buffer, buf.Label, err)
	}
	if b.Offset%bindAlignment != 0 {
		return fmt.Errorf("offset %d is no multiple of %d", b.Offset, bindAlignment)
	}
	limit, name := p.Requires.MaxStorageBufferBindingSize, "requires.max_storage_buffer_binding_size"
	if t == BindUniform {
		limit, name = maxUniform, "the limit of uniform bindings"
	}
	if b.Bytes > limit {
		return fmt.Errorf("%d bytes, but %s is %d", b.Bytes, name, limit)
	}
	return nil
}

func (p *Program) validateReads() error {
	names := make(map[string]bool, len(p.Reads))
	var total int64
	for i := range p.Reads {
		r := &p.Reads[i]
		if again := i > 0 && p.Reads[i-1].Name == r.Name; r.Name == "" || len(r.Name) > maxLabel || names[r.Name] && !again {
			return fmt.Errorf("program: read %d: name %.64q is empty, too long or taken by an earlier result", i, r.Name)
		}
		names[r.Name] = true
		if r.Buffer < 0 || r.Buffer >= len(p.Buffers) || p.Buffers[r.Buffer].Uniform {
			return fmt.Errorf("program: read %d (%.64q): buffer %d of %d, expected a storage buffer", i, r.Name, r.Buffer, len(p.Buffers))
		}
		if err := inRange(r.Offset, r.Bytes, p.Buffers[r.Buffer].Bytes); err != nil {
			return fmt.Errorf("program: read %d (%.64q): %w", i, r.Name, err)
		}
		if r.Bytes > maxTotalBytes-total {
			return fmt.Errorf("program: reads 0 to %d hold more than %d bytes", i, int64(maxTotalBytes))
		}
		total += r.Bytes
	}
	return nil
}

// inRange reports whether [offset, offset+bytes) lies in a buffer of size bytes, in
// whole words.
func inRange(offset, bytes, size int64) error {
	if offset < 0 || bytes <= 0 || offset%4 != 0 || bytes%4 != 0 || offset > size || bytes > size-offset {
		return fmt.Errorf("range of %d bytes at %d, expected whole words inside %d bytes", bytes, offset, size)
	}
	return nil
}

func identifier(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
