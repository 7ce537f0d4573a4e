package generator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// Names of a Program's inputs and results. The inputs ids and mask are encoder.InputIDs
// and encoder.InputMask.
const (
	InputCondition  = "condition" // float32 (B,N,L,C)
	OutputCondition = "condition" // float32 (B,N,L,C)
	OutputTokens    = "tokens"    // float32 (B,T,h,w)
)

// Storage types in which a Program holds weights.
const (
	F32 = string(safetensors.F32)
	F16 = string(safetensors.F16)
	Q8  = quant.Q8
	Q4  = quant.Q41
)

// Storages are the types that weights are stored as, by the names that flags give them.
var Storages = map[string]string{"f32": F32, "f16": F16, "bf16": string(safetensors.BF16), "q8": Q8, "q4": Q4}

// OnDevice says whether a type is one in which a Program holds weights.
func OnDevice(dtype string) bool { return dtype == F32 || dtype == F16 || dtype == Q8 || dtype == Q4 }

// EncoderStorage is the text encoder's type beside a decoder's. What four bits a value do to
// conditions is not measured, so a Q4 decoder's encoder is Q8.
func EncoderStorage(dtype string) string {
	if dtype == Q4 {
		return Q8
	}
	return dtype
}

// ErrNoEncoder says that a package has no text encoder, so it can only decode.
var ErrNoEncoder = errors.New("the generator has no text encoder: import it with --encoder, or give it a condition")

// ErrNoBase says that a package does not know the adapter's names and shapes.
var ErrNoBase = errors.New("the generator does not name the base model's LoRA targets: import it with --donor")

// Compile is the whole way of one draw of prompts: ids and mask in, weight tokens out and,
// for a manifest with a Coverage, the condition.
// dtype is the storage type of the decoder's weights on the device: F32, F16, Q8 or Q4. The
// encoder's is the same, but Q8 with Q4.
func Compile(m *Manifest, limits graph.Limits, dtype string) (*graph.Program, error) {
	b := graph.NewBuilder(limits)
	condition, err := m.encode(b, dtype)
	if err != nil {
		return nil, err
	}
	if m.Coverage != nil {
		b.Read(OutputCondition, condition)
	}
	b.Read(OutputTokens, decoder.Build(b, m.Decoder, condition, decoder.Options{DType: dtype}))
	return b.Program()
}

// Nearest measures one draw's condition (N,L,C) and mask (N,L) against the Coverage; nil
// without one.
func (m *Manifest) Nearest(condition []float32, mask []uint32) (*Nearest, error) {
	c := m.Condition
	if m.Coverage == nil {
		return nil, nil
	}
	if len(condition) != c.Texts*c.Length*c.Width || len(mask) != c.Texts*c.Length {
		return nil, fmt.Errorf("generator: condition of %d values and mask of %d, expected (%d,%d,%d) and (%d,%d)", len(condition), len(mask), c.Texts, c.Length, c.Width, c.Texts, c.Length)
	}
	var pool Pool
	for i := range c.Texts {
		pool.Add(condition[i*c.Length*c.Width:(i+1)*c.Length*c.Width], mask[i*c.Length:(i+1)*c.Length])
	}
	n := m.Coverage.Nearest(pool.Vector())
	return &n, nil
}

// CompileEncode is the text encoder alone: ids and mask in, condition out.
func CompileEncode(m *Manifest, limits graph.Limits, dtype string) (*graph.Program, error) {
	return PrepareEncode(m, limits, dtype, nil)
}

// PrepareEncode is CompileEncode with what depends on weights alone in a stage of its own, for
// Programs that are held (graph.Builder.Prepare).
func PrepareEncode(m *Manifest, limits graph.Limits, dtype string, p *graph.Preparation) (*graph.Program, error) {
	b := graph.NewBuilder(limits)
	b.Prepare = p
	condition, err := m.encode(b, dtype)
	if err != nil {
		return nil, err
	}
	b.Read(OutputCondition, condition)
	return b.Program()
}

func (m *Manifest) encode(b *graph.Builder, dtype string) (*graph.Tensor, error) {
	if m.Encoder == nil {
		return nil, ErrNoEncoder
	}
	o := encoder.Options{DType: EncoderStorage(dtype), ZeroPads: m.Condition.Pads == PadsZero}
	return encoder.Build(b, m.Encoder.Config, 1, m.Condition.Texts, m.Condition.Length, o), nil
}

// CompileDecode is the decoder alone: batch conditions in, weight tokens out.
func CompileDecode(m *Manifest, limits graph.Limits, batch int, dtype string) (*graph.Program, error) {
	return PrepareDecode(m, limits, batch, dtype, nil)
}

// PrepareDecode is to CompileDecode what PrepareEncode is to CompileEncode.
func PrepareDecode(m *Manifest, limits graph.Limits, batch int, dtype string, p *graph.Preparation) (*graph.Program, error) {
	b := graph.NewBuilder(limits)
	b.Prepare = p
	in := m.Decoder.Condition()
	condition := b.Input(InputCondition, [4]int{batch, in[0], in[1], in[2]})
	b.Read(OutputTokens, decoder.Build(b, m.Decoder, condition, decoder.Options{DType: dtype}))
	return b.Program()
}

// Convolutions lists the shapes of the convolutions of decoding a batch, as package tune
// measures them.
func Convolutions(m *Manifest, limits graph.Limits, batch int) ([]graph.ConvShape, error) {
	b := graph.NewBuilder(limits)
	in := m.Decoder.Condition()
	decoder.Build(b, m.Decoder, b.Input(InputCondition, [4]int{batch, in[0], in[1], in[2]}), decoder.Options{DType: F32})
	return b.Convolutions(), b.Err()
}

// Feed is Compile's input for a batch of tokenised prompts: N texts of L tokens.
func Feed(m *Manifest, b text.Batch) ([]graph.Input, error) {
	if b.Texts != m.Condition.Texts || b.Length != m.Condition.Length {
		return nil, fmt.Errorf("generator: %d texts of %d tokens, the condition takes %d of %d", b.Texts, b.Length, m.Condition.Texts, m.Condition.Length)
	}
	return []graph.Input{
		{Name: encoder.InputIDs, Data: text.Words(b.IDs)},
		{Name: encoder.InputMask, Data: text.Words(b.Mask)},
	}, nil
}

// Finish turns the weight tokens (T,h,w) of one draw into an adapter, as strong as befits how
// far its prompts are (Manifest.Nearest); nil is near.
func Finish(m *Manifest, tokens []float32, n *Nearest) (*lora.Adapter, error) {
	if m.Base == nil {
		return nil, ErrNoBase
	}
	for i, v := range tokens {
		if v != v || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("generator: weight token value %d is %v: the generator's weights or the device are faulty", i, v)
		}
	}
	a, err := lora.FromTokens(*m.Base, m.Tiling, tokens, lora.Float32)
	if err != nil {
		return nil, err
	}
	if n != nil {
		a.Base.Alpha *= n.Scale
	}
	return a, a.Check()
}

// Float32s reads a Program's result.
func Float32s(raw []byte) []float32 {
	v := make([]float32, len(raw)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}

// Bytes is the inverse of Float32s: a Program's input.
func Bytes(v []float32) []byte {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	return raw
}
