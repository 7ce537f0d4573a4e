package encoder

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// Stage is the stage of the encoder's dispatches.
const Stage = "encode"

// Prefix comes before the tensors' names in the names of a Program's weights.
const Prefix = "encoder/"

// The inputs of an encoder's Program: 32-bit words of shape (batch, texts, length).
const (
	InputIDs  = "ids"
	InputMask = "mask" // 1 for tokens of the text, 0 for padding
)

// ChunkLength is the longest sequence that is encoded at a time; longer texts are cut
// into chunks that do not see each other (reference section a.2).
const ChunkLength = 512

// groupBytes bounds the largest matrix of a group of chunks, the MLP's.
const groupBytes = 64 << 20

// Options choose how an encoder is built.
type Options struct {
	// DType is the storage type in which matrices are delivered, F32 or F16; empty is F32.
	// Vectors and position embeddings are F32.
	DType string
	// ZeroPads sets the condition to zero at pad positions; the reference keeps what the
	// encoder gives there.
	ZeroPads bool
	// Intermediates also reads back the hidden states (channels, tokens) of group G after
	// the embeddings and after every layer but the last, as "group.G.hidden.I".
	Intermediates bool
}

type builder struct {
	*graph.Builder
	config  Config
	options Options
	mask    graph.Words
}

// Build adds the dispatches from the inputs ids and mask to the condition
// (batch, texts, length, hidden_size), reference section a.2. Errors stay in b.
func Build(b *graph.Builder, c Config, batch, texts, length int, o Options) *graph.Tensor {
	if o.DType == "" {
		o.DType = "F32"
	}
	condition := b.Tensor("condition", [4]int{batch, texts, length, c.HiddenSize})
	if err := c.Validate(); err != nil {
		b.Fail(err)
	}
	chunk := length
	if length > ChunkLength {
		chunk = ChunkLength
		if length%ChunkLength != 0 {
			b.Fail(fmt.Errorf("encoder: texts of %d tokens, expected at most %d or a multiple of it", length, ChunkLength))
		}
	}
	if chunk > c.MaxPositionEmbeddings {
		b.Fail(fmt.Errorf("encoder: chunks of %d tokens, the encoder has %d positions", chunk, c.MaxPositionEmbeddings))
	}
	if b.Err() != nil {
		return condition
	}
	b.Stage(Stage)
	words := batch * texts * length
	ids := b.InputWords(InputIDs, words)
	e := builder{b, c, o, b.InputWords(InputMask, words)}

	one := graph.Chunks{Count: 1, Length: chunk}
	perGroup := max(groupBytes/(one.Tokens()*max(c.IntermediateSize, c.HiddenSize)*4), 1)
	group := 0
	for _, span := range condition.Spans() {
		first, end := span.First*(length/chunk), (span.First+span.Count)*(length/chunk)
		for ; first < end; first += perGroup {
			chunks := graph.Chunks{First: first, Count: min(perGroup, end-first), Length: chunk}
			e.group(fmt.Sprintf("group.%d.hidden.", group), ids, chunks, condition)
			group++
		}
	}
	if o.ZeroPads {
		b.MaskPads("pads", condition, e.mask)
	}
	return condition
}

// group encodes some chunks into their place in the condition.
func (e *builder) group(name string, ids graph.Words, chunks graph.Chunks, condition *graph.Tensor) {
	c := e.config
	x := e.Embed(ids, chunks, graph.Embedding{
		Label: "embeddings",
		Word:  Prefix + "embeddings.word_embeddings.weight", DType: e.options.DType,
		Position:   Prefix + "embeddings.position_embeddings.weight",
		Type:       Prefix + "embeddings.token_type_embeddings.weight",
		Vocabulary: c.VocabSize, Channels: c.HiddenSize, PositionTokens: c.MaxPositionEmbeddings,
	})
	x = e.norm("embeddings.LayerNorm", x, nil)
	for i := range c.NumHiddenLayers {
		e.read(fmt.Sprint(name, i), x)
		key := func(s string) string { return LayerKey(i, s) }
		attended := e.attention(key, x, chunks)
		x = e.norm(key("attention.output.LayerNorm"), e.linear(key("attention.output.dense"), attended, chunks, c.HiddenSize, false), x)
		e.Release(attended)

		wide := e.linear(key("intermediate.dense"), x, chunks, c.IntermediateSize, true)
		y := e.linear(key("output.dense"), wide, chunks, c.HiddenSize, false)
		e.Release(wide)
		if i < c.NumHiddenLayers-1 {
			x = e.norm(key("output.LayerNorm"), y, x)
			continue
		}
		last := key("output.LayerNorm")
		e.TokenNormInto(last, condition, chunks, y, x, Prefix+last+".weight", Prefix+last+".bias", c.LayerNormEps)
		e.Release(x)
		e.Release(y)
	}
}

func (e *builder) attention(key func(string) string, x *graph.Tensor, chunks graph.Chunks) *graph.Tensor {
	var qkv [3]*graph.Tensor
	for i, name := range []string{"query", "key", "value"} {
		qkv[i] = e.linear(key("attention.self."+name), x, chunks, e.config.HiddenSize, false)
	}
	y := e.Attention(key("attention"), qkv[0], qkv[1], qkv[2], e.mask, chunks, e.config.NumAttentionHeads, e.options.ZeroPads)
	for _, t := range qkv {
		e.Release(t)
	}
	return y
}

// linear skips pads where the condition has zeros for them: no other token reads theirs.
func (e *builder) linear(name string, x *graph.Tensor, chunks graph.Chunks, out int, gelu bool) *graph.Tensor {
	var pads *graph.Pads
	if e.options.ZeroPads {
		pads = &graph.Pads{Mask: e.mask, Chunks: chunks}
	}
	return e.Linear(x, name, Prefix+name+".weight", e.options.DType, Prefix+name+".bias", out, gelu, pads)
}

// norm normalises x, plus residual if there is one, and releases both.
func (e *builder) norm(name string, x, residual *graph.Tensor) *graph.Tensor {
	y := e.TokenNorm(name, x, residual, Prefix+name+".weight", Prefix+name+".bias", e.config.LayerNormEps)
	e.Release(x)
	if residual != nil {
		e.Release(residual)
	}
	return y
}

func (e *builder) read(name string, t *graph.Tensor) {
	if e.options.Intermediates {
		e.Read(name, t)
	}
}
