// Package graph is a compiler's middle: the Program, plain data that says which kernels
// run on which buffers in which order, and the Builder that puts one together.
//
// A Program is made from a generator's manifest and a device's limits alone (package
// generator: Compile); prompts enter as input bytes (Feed), results leave through its
// reads. It names weights and never carries them. Package graph knows no GPU, no cgo
// and no JavaScript: the same Program runs in package gpu, in a browser and under
// wazero, and its bytes are equal wherever it was made.
//
// A Program from elsewhere is untrusted: Validate checks every size, range and count
// before an executor allocates anything.
package graph

// Version of the Program format. Executors take exactly this one.
const Version = 1

// Program is a static schedule: shapes, buffers and dispatches are all known.
type Program struct {
	Version    int        `json:"version"`
	Requires   Limits     `json:"requires"`
	Kernels    []Kernel   `json:"kernels"`
	Buffers    []Buffer   `json:"buffers"`
	Dispatches []Dispatch `json:"dispatches"`
	Reads      []Read     `json:"reads"`
	// Once names a stage that depends on no input, empty where there is none: its dispatches
	// are the first. Where the Program is held (Holder) they run once, before the first run of
	// another stage, and buffers that nothing else binds are given back then. A run of the
	// whole Program runs them like all others.
	Once string `json:"once,omitempty"`
}

// Limits are the WebGPU limits and features that a Program needs, or a device has. Bytes
// count bytes.
type Limits struct {
	MaxBufferSize                     int64 `json:"max_buffer_size"`
	MaxStorageBufferBindingSize       int64 `json:"max_storage_buffer_binding_size"`
	MaxStorageBuffersPerShaderStage   int   `json:"max_storage_buffers_per_shader_stage"`
	MaxComputeWorkgroupsPerDimension  int   `json:"max_compute_workgroups_per_dimension"`
	MaxComputeInvocationsPerWorkgroup int   `json:"max_compute_invocations_per_workgroup"`
	MaxComputeWorkgroupStorageSize    int   `json:"max_compute_workgroup_storage_size"`
	// ShaderF16 and Subgroups are features that kernels may use to be faster: WebGPU's
	// "shader-f16", and "subgroups" with WGSL's subgroup_id.
	ShaderF16 bool `json:"shader_f16,omitempty"`
	Subgroups bool `json:"subgroups,omitempty"`
	// Tuning is how a device computes best; no Program requires one.
	Tuning *Tuning `json:"tuning,omitempty"`
}

// DefaultLimits are WebGPU's guaranteed ones (W3C WebGPU, section 3.6.2): what a
// Program is planned for unless its maker is told others.
func DefaultLimits() Limits {
	return Limits{
		MaxBufferSize:                     256 << 20,
		MaxStorageBufferBindingSize:       128 << 20,
		MaxStorageBuffersPerShaderStage:   8,
		MaxComputeWorkgroupsPerDimension:  65535,
		MaxComputeInvocationsPerWorkgroup: 256,
		MaxComputeWorkgroupStorageSize:    16384,
	}
}

// Union is what suffices for what needs l and for what needs o.
func (l Limits) Union(o Limits) Limits {
	l.MaxBufferSize = max(l.MaxBufferSize, o.MaxBufferSize)
	l.MaxStorageBufferBindingSize = max(l.MaxStorageBufferBindingSize, o.MaxStorageBufferBindingSize)
	l.MaxStorageBuffersPerShaderStage = max(l.MaxStorageBuffersPerShaderStage, o.MaxStorageBuffersPerShaderStage)
	l.MaxComputeWorkgroupsPerDimension = max(l.MaxComputeWorkgroupsPerDimension, o.MaxComputeWorkgroupsPerDimension)
	l.MaxComputeInvocationsPerWorkgroup = max(l.MaxComputeInvocationsPerWorkgroup, o.MaxComputeInvocationsPerWorkgroup)
	l.MaxComputeWorkgroupStorageSize = max(l.MaxComputeWorkgroupStorageSize, o.MaxComputeWorkgroupStorageSize)
	l.ShaderF16, l.Subgroups = l.ShaderF16 || o.ShaderF16, l.Subgroups || o.Subgroups
	return l
}

// BindType is how a kernel uses a binding. Binding numbers are positions in
// Kernel.Bindings, all in bind group 0.
type BindType string

// The three binding types.
const (
	BindUniform   BindType = "uniform"
	BindRead      BindType = "read"       // var<storage, read>
	BindReadWrite BindType = "read_write" // var<storage, read_write>
)

// Kernel is one compute pipeline: rendered WGSL, with all constants baked in.
type Kernel struct {
	Label    string     `json:"label"`
	WGSL     string     `json:"wgsl"`
	Entry    string     `json:"entry"`
	Bindings []BindType `json:"bindings"`
}

// SourceKind says where a buffer's first contents come from.
type SourceKind string

// The four sources.
const (
	SourceZero    SourceKind = "zero"    // all bytes zero
	SourceWeights SourceKind = "weights" // a range of a named tensor
	SourceInput   SourceKind = "input"   // a range of a named input (prompt ids, mask, condition)
	SourceInline  SourceKind = "inline"  // Words, carried in the Program (shapes, small tables)
)

// Source is a buffer's contents before the first dispatch.
type Source struct {
	Kind SourceKind `json:"kind"`
	// Name of the tensor ("decoder/KEY" or "encoder/KEY") or of the input.
	Name string `json:"name,omitempty"`
	// DType is the storage type in which the executor must deliver a tensor: F32, F16
	// (elements packed two to a word), Q8 or Q4_1 (package quant). The provider of weights
	// converts if its file has another. Inputs are delivered as they are.
	DType string `json:"dtype,omitempty"`
	// Offset and Bytes are a range of the tensor in that DType, or of the input. The
	// buffer may be up to 3 bytes longer (its size is a multiple of 4); those are zero.
	Offset int64 `json:"offset,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"`
	// Words are inline contents as 32-bit words: floats by their bits.
	Words []uint32 `json:"words,omitempty"`
}

// Buffer is one GPU buffer. Bytes is a positive multiple of 4.
type Buffer struct {
	Label   string `json:"label"`
	Bytes   int64  `json:"bytes"`
	Uniform bool   `json:"uniform,omitempty"` // bound as uniform (else as storage)
	Source  Source `json:"source"`
}

// Bind is a buffer's range at one binding. Offset is a multiple of 256.
type Bind struct {
	Buffer int   `json:"buffer"`
	Offset int64 `json:"offset,omitempty"`
	Bytes  int64 `json:"bytes"`
}

// Dispatch runs a kernel once. Dispatches run in order, each sees the writes of those
// before it.
type Dispatch struct {
	Label  string `json:"label"`
	Kernel int    `json:"kernel"`
	Groups [3]int `json:"groups"`
	Binds  []Bind `json:"binds"`
	// Stage names the part of the work for timing and progress: "encode", "decode".
	Stage string `json:"stage"`
	// Cost estimates the multiply-accumulates: what an executor weighs submits and
	// progress by.
	Cost int64 `json:"cost"`
}

// Read is a result: a buffer's range after the last dispatch, handed back under a name.
// A result larger than a buffer is several Reads of one name that follow each other.
type Read struct {
	Name   string `json:"name"`
	Buffer int    `json:"buffer"`
	Offset int64  `json:"offset,omitempty"`
	Bytes  int64  `json:"bytes"`
}

// Weights delivers ranges of named tensors: package generator's reader, a browser's
// range requests, or a test's arrays. Safe for concurrent use.
type Weights interface {
	// ReadWeights fills p with bytes of the tensor in storage type dtype ("F32", "F16",
	// "Q8", "Q4_1"), from byte off on. off and len(p) are multiples of 4, of a block's bytes
	// for the last two, but at the tensor's end.
	ReadWeights(name, dtype string, off int64, p []byte) error
}
