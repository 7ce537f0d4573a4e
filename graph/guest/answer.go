package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
)

// AnswerOptions are Answer's.
type AnswerOptions struct {
	// Prompt is the user's turn, System the system's; empty is the base's own, if it has one.
	Prompt string `json:"prompt"`
	System string `json:"system"`
	// Length is how many positions the Program has: the tokens of prompt and answer but for
	// the last. Programs of one length are the same for all prompts.
	Length int `json:"length"`
	// BaseBytes is the size of the base's whole file.
	BaseBytes int64 `json:"base_bytes"`
	// Limits are the device's; without them, WebGPU's guaranteed ones.
	Limits *graph.Limits `json:"limits,omitempty"`
}

// AnswerInfo is what a host needs besides to run the Program, which reads a prompt and takes
// one token in two rows, without and with the adapter, to the next (llama.Step).
type AnswerInfo struct {
	Prompt  []int32        `json:"prompt"`  // its tokens, with those of the turns around it
	Read    int            `json:"read"`    // how many of them the Program reads at a time
	Ends    []int32        `json:"ends"`    // tokens that end an answer
	Factor  []float32      `json:"factor"`  // of the rows, the Program's input
	Tensors []llama.Tensor `json:"tensors"` // where the Program's weights are
}

// answer plans how a base model answers a prompt, without and with an adapter.
func answer(m Message) (Message, error) {
	if err := m.only(PartBase, PartAdapter, PartOptions); err != nil {
		return nil, err
	}
	var o AnswerOptions
	if err := m.options(&o); err != nil {
		return nil, err
	}
	if o.Prompt == "" {
		return nil, errors.New("options: the prompt is empty")
	}
	head, err := m.need(PartBase)
	if err != nil {
		return nil, err
	}
	raw, err := m.need(PartAdapter)
	if err != nil {
		return nil, err
	}
	if int64(len(head)) > o.BaseBytes {
		return nil, fmt.Errorf("options: base_bytes is %d, but the part %s has %d", o.BaseBytes, PartBase, len(head))
	}
	base, err := gguf.Read(beginning{bytes.NewReader(head), o.BaseBytes}, o.BaseBytes)
	if err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	adapter, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, fmt.Errorf("the adapter: %w", err)
	}
	tokenizer, err := llama.TokenizerFromGGUF(base)
	if err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	config, err := llama.FromGGUF(base)
	if err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	if o.System == "" {
		o.System = config.System
	}
	info := AnswerInfo{Read: llama.ReadTokens}
	if info.Prompt, err = tokenizer.Prompt(o.System, o.Prompt); err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	if info.Ends, err = llama.Ends(base, tokenizer); err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	if len(info.Prompt) > o.Length {
		return nil, fmt.Errorf("the prompt has %d tokens with its turns, at most %d are planned for", len(info.Prompt), o.Length)
	}
	limits := graph.DefaultLimits()
	if o.Limits != nil {
		limits = *o.Limits
	}
	step, err := llama.NewStep(base, adapter, llama.StepOptions{Length: o.Length, Limits: limits})
	if err != nil {
		return nil, err
	}
	info.Factor, info.Tensors = step.Factor, step.Tensors
	program, err := step.Program.Encode()
	if err != nil {
		return nil, err
	}
	var pieces []byte
	for id := range tokenizer.Size() {
		piece := tokenizer.Bytes(int32(id))
		pieces = append(binary.LittleEndian.AppendUint32(pieces, uint32(len(piece))), piece...)
	}
	return Message{{PartProgram, program}, {PartPieces, pieces}}.with(PartInfo, info)
}

// beginning is a file of size bytes of which only the first are at hand.
type beginning struct {
	head *bytes.Reader
	size int64
}

func (b beginning) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.head.ReadAt(p, off)
	if err == io.EOF && off+int64(n) < b.size {
		err = fmt.Errorf("the first %d bytes of the file are given, its table of contents needs more", b.head.Size())
	}
	return n, err
}
