package llama

import (
	"fmt"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// The rows of a step: both read every weight of the base once.
const (
	RowBase    = iota // the base alone
	RowAdapter        // with the adapter
	rows
)

// The stages of a step's Program, of which each run is one.
const (
	// StageRead takes ReadTokens tokens of a prompt, the same in both rows: position is that
	// of the first. It leaves their keys and values, but none beyond Length.
	StageRead = "read"
	// StageAnswer takes one token in each row to the next.
	StageAnswer = "answer"
)

// ReadTokens is how many tokens of a prompt are read at a time.
const ReadTokens = wgsl.MaxRows / rows

// Names of a step's inputs and of what it hands back.
const (
	InputPrompt   = "prompt"   // u32 [rows, ReadTokens], below the vocabulary (StageRead)
	InputTokens   = "tokens"   // u32 [rows], likewise (StageAnswer)
	InputPosition = "position" // u32 [1], below Length
	InputFactor   = "factor"   // f32 [rows], Step.Factor
	OutputNext    = "next"     // u32 [rows], the likeliest token to follow
	OutputLogits  = "logits"   // f32 [rows, vocabulary], with StepOptions.Logits
)

// The files that a step's weights are in.
const (
	FileBase    = "base"
	FileAdapter = "adapter"
)

// Step is what is needed to answer with a base model, without and with an adapter.
type Step struct {
	// Program reads a prompt and answers it, by StageRead and StageAnswer. It is to be held
	// (graph.Holder): keys and values of earlier positions stay on the device.
	Program *graph.Program
	// Length is how many positions there are: tokens of the prompt and of the answer but for
	// its last.
	Length int
	// Factor is InputFactor: 0, and alpha/rank.
	Factor []float32
	// Tensors are where the Program's weights are.
	Tensors []Tensor
}

// Tensor is a weight's place in the GGUF file of the base or the adapter.
type Tensor struct {
	Name   string `json:"name"`   // in the Program
	File   string `json:"file"`   // FileBase or FileAdapter
	Type   string `json:"type"`   // in the file: F32, F16, BF16, Q8_0, Q4_0 or Q4_1
	Offset int64  `json:"offset"` // in the file, bytes
	Bytes  int64  `json:"bytes"`  // in the file
}

// StepOptions are NewStep's.
type StepOptions struct {
	// Length is Step.Length, at most wgsl.MaxPositions.
	Length int
	// Limits are the device's.
	Limits graph.Limits
	// Logits hands back every token's logit besides, for callers that choose themselves.
	Logits bool
}

// delivered says as what storage type a tensor of each GGUF type reaches the device: in
// its own numbers, all of them.
var delivered = map[gguf.TensorType]string{
	gguf.F32: "F32", gguf.F16: "F16", gguf.BF16: "F32", gguf.Q8_0: quant.Q8, gguf.Q4_0: quant.Q41, gguf.Q4_1: quant.Q41,
}

// NewStep plans a step of the base in a GGUF file with the adapter in another, as llama.cpp
// computes it. An adapter that was made for another base is refused with what differs.
func NewStep(base, adapter *gguf.File, o StepOptions) (*Step, error) {
	config, err := FromGGUF(base)
	if err != nil {
		return nil, fmt.Errorf("llama: the base: %w", err)
	}
	if o.Length < 1 || o.Length > wgsl.MaxPositions {
		return nil, fmt.Errorf("llama: prompt and answer of %d tokens, expected at most %d", o.Length, wgsl.MaxPositions)
	}
	if _, scaled := base.Tensor(RopeFactorsTensor); scaled {
		return nil, fmt.Errorf("llama: the base has scaled rotary positions (tensor %s), which are not supported", RopeFactorsTensor)
	}
	spec, err := lora.GGUFSpec(base)
	if err != nil {
		return nil, fmt.Errorf("llama: the base: %w", err)
	}
	a, err := lora.DecodeGGUF(adapter, spec)
	if err != nil {
		return nil, fmt.Errorf("llama: the adapter: %w", err)
	}
	s := &stepper{Builder: graph.NewBuilder(o.Limits), c: config, files: map[string]*gguf.File{FileBase: base, FileAdapter: adapter}}
	step := &Step{Length: o.Length, Factor: []float32{RowBase: 0, RowAdapter: float32(a.Base.Alpha / float64(a.Base.Rank))}}
	s.build(o)
	if step.Program, err = s.Program(); err != nil {
		return nil, err
	}
	step.Tensors = s.tensors
	return step, nil
}

// stepper builds the Program.
type stepper struct {
	*graph.Builder
	c       *Config
	files   map[string]*gguf.File
	tensors []Tensor

	factor          *graph.Tensor
	position, table graph.Words
	caches          []graph.Cache // of the blocks
}

// weight finds a tensor (rows, columns; rows 1 for a vector) and notes its place. It returns
// its name in the Program and its type there.
func (s *stepper) weight(file, name string, columns, rows int) (inProgram, dtype string) {
	inProgram = file + "/" + name
	t, ok := s.files[file].Tensor(name)
	if !ok {
		s.Fail(fmt.Errorf("llama: the %s has no tensor %q: no file of this architecture, or not whole", file, name))
		return inProgram, "F32"
	}
	shape := []int64{int64(columns), int64(rows)}
	if rows == 1 && len(t.Shape) == 1 {
		shape = shape[:1]
	}
	if !slices.Equal(t.Shape, shape) {
		s.Fail(fmt.Errorf("llama: the %s's tensor %q: shape %v, expected %v", file, name, t.Shape, shape))
	}
	dtype, ok = delivered[t.Type]
	if !ok {
		s.Fail(fmt.Errorf("llama: the %s's tensor %q is of type %s, expected F32, F16, BF16, Q8_0, Q4_0 or Q4_1: take such a file of the model, or make one (llama-quantize --pure in.gguf out.gguf Q8_0)", file, name, t.Type))
		dtype = "F32"
	}
	if !slices.ContainsFunc(s.tensors, func(t Tensor) bool { return t.Name == inProgram }) {
		s.tensors = append(s.tensors, Tensor{Name: inProgram, File: file, Type: t.Type.String(), Offset: t.Offset, Bytes: t.Bytes})
	}
	return inProgram, dtype
}

// vector is the name of a weight that is read as F32 whatever its type.
func (s *stepper) vector(file, name string, n int) string {
	inProgram, _ := s.weight(file, name, n, 1)
	return inProgram
}

// build adds a step's dispatches.
func (s *stepper) build(o StepOptions) {
	c := s.c
	s.position = s.InputWords(InputPosition, 1)
	s.factor = s.Input(InputFactor, [4]int{1, 1, rows, 1})
	s.table = s.Table("rotary", graph.RotaryTable(o.Length, c.Frequencies()))
	for i := range c.Layers {
		s.caches = append(s.caches, s.NewCache(fmt.Sprintf("blk.%d.cache", i), rows, graph.Cache{Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Length: o.Length}))
	}
	s.Stage(StageRead)
	s.blocks(s.InputWords(InputPrompt, rows*ReadTokens))
	s.Stage(StageAnswer)
	x := s.blocks(s.InputWords(InputTokens, rows))
	if s.Err() != nil {
		return
	}
	y := s.RMSNorm("output_norm", x, s.vector(FileBase, "output_norm.weight", c.Hidden), c.NormEps)
	head := "token_embd.weight"
	if _, untied := s.files[FileBase].Tensor("output.weight"); untied {
		head = "output.weight"
	}
	head, dtype := s.weight(FileBase, head, c.Hidden, c.Vocab)
	logits := s.Product(y, graph.Product{Label: "output", Weight: head, DType: dtype, Out: c.Vocab})
	if o.Logits {
		s.Read(OutputLogits, logits)
	}
	s.ReadWords(OutputNext, s.ArgMax("next", logits))
}

// blocks is the layers on these tokens, and all that is read of a prompt.
func (s *stepper) blocks(tokens graph.Words) *graph.Tensor {
	table, dtype := s.weight(FileBase, "token_embd.weight", s.c.Hidden, s.c.Vocab)
	x := s.Lookup("token_embd", tokens, table, dtype, s.c.Vocab, s.c.Hidden)
	for i, cache := range s.caches {
		if s.Err() != nil {
			return x
		}
		x = s.block(fmt.Sprintf("blk.%d.", i), x, cache)
	}
	return x
}

// block is one layer: attention, then the MLP, each on normalised rows and added to them.
func (s *stepper) block(name string, x *graph.Tensor, cache graph.Cache) *graph.Tensor {
	c := s.c
	normed := s.RMSNorm(name+"attn_norm", x, s.vector(FileBase, name+"attn_norm.weight", c.Hidden), c.NormEps)
	q := s.linear(name+"attn_q", Modules[0], normed, nil)
	k := s.linear(name+"attn_k", Modules[1], normed, nil)
	v := s.linear(name+"attn_v", Modules[2], normed, nil)
	s.Release(normed)
	// llama.cpp stores the rows of q and k of architecture llama such that pairs are neighbours.
	turned := s.Rotate(name+"rotate", q, k, v, s.position, s.table, cache, c.Architecture != "llama")
	s.Release(q)
	s.Release(k)
	s.Release(v)
	seen := s.Causal(name+"attention", turned, s.position, cache)
	s.Release(turned)
	y := s.linear(name+"attn_output", Modules[3], seen, x)
	s.Release(seen)
	s.Release(x)

	normed = s.RMSNorm(name+"ffn_norm", y, s.vector(FileBase, name+"ffn_norm.weight", c.Hidden), c.NormEps)
	gate := s.linear(name+"ffn_gate", Modules[5], normed, nil)
	up := s.linear(name+"ffn_up", Modules[4], normed, nil)
	s.Release(normed)
	hidden := s.SwiGLU(name+"swiglu", gate, up)
	s.Release(gate)
	s.Release(up)
	z := s.linear(name+"ffn_down", Modules[6], hidden, y)
	s.Release(hidden)
	s.Release(y)
	return z
}

// linear is a module of a block, with its bias if the base has one and its LoRA if the
// adapter has one. residual may be nil.
func (s *stepper) linear(name, module string, x, residual *graph.Tensor) *graph.Tensor {
	in, out := s.c.Size(module)
	p := graph.Product{Label: name, Out: out, Residual: residual}
	p.Weight, p.DType = s.weight(FileBase, name+".weight", in, out)
	if _, ok := s.files[FileBase].Tensor(name + ".bias"); ok {
		p.Bias = s.vector(FileBase, name+".bias", out)
	}
	if a, ok := s.files[FileAdapter].Tensor(name + ".weight.lora_a"); ok && len(a.Shape) == 2 {
		rank := int(a.Shape[1])
		low := graph.Product{Label: name + ".lora_a", Out: rank, Factor: s.factor}
		low.Weight, low.DType = s.weight(FileAdapter, name+".weight.lora_a", in, rank)
		p.Low = s.Product(x, low)
		p.Up, _ = s.weight(FileAdapter, name+".weight.lora_b", rank, out)
	}
	y := s.Product(x, p)
	if p.Low != nil {
		s.Release(p.Low)
	}
	return y
}
