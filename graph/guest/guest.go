// Package guest is the generator's compiler as a guest of any host: four calls, each
// bytes in and bytes out, over packages generator, text, lora and llama. Package wasm exports
// them from a WebAssembly module; package host and the browser's page call them there. It
// holds no weights and runs no Program: Compile's Program and Feed's inputs go to whoever
// has a GPU, and the weight tokens that come back go to Finish.
//
// # ABI, version 3
//
// The same text stands in web's abi.ts.
//
// Everything is a message, a list of named parts: u32le count; for each part u32le name
// length, name (UTF-8), u32le data length, data. No name twice, nothing behind the last.
//
// The module is a WASI preview 1 reactor. It exports _initialize; abi_version() i32;
// alloc(n i32) i32 (0 when refused; memory is the guest's until free); free(ptr i32); and
// four calls that take a message (ptr, len of memory got from alloc) and return i64 =
// ptr<<32|len of a result message, which the host copies at once and frees with free(ptr):
//
//	compile  manifest (generator.json), options (CompileOptions)
//	         -> program (Program, JSON)
//	feed     manifest, tokenizer (tokenizer.json), or vocab (vocab.txt) and tokenizer_config
//	         (may be missing), prompts (the file's bytes), options (FeedOptions)
//	         -> ids, mask (the Program's inputs), info (FeedInfo)
//	finish   manifest, tokens (float32le weight tokens (T,h,w)), options (FinishOptions); and
//	         condition and mask (what the Program read and was fed), for Report's Nearest,
//	         and for the alpha that befits it
//	         -> file/NAME for each file of the adapter, report (Report)
//	answer   base (a base model's GGUF file up to the end of its table of contents, or more),
//	         adapter (an adapter's GGUF file, whole), options (AnswerOptions)
//	         -> program (a step's, JSON), pieces (for each token of the vocabulary: u32le
//	         length, bytes), info (AnswerInfo)
//
// A call that failed returns one part, error (UTF-8, one line). Calls keep nothing: each
// carries all that it needs. A host takes exactly the version that it was built for, and throws
// a guest that trapped away.
package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// Version of the ABI. Hosts take exactly this one.
const Version = 3

// The names of parts.
const (
	PartManifest        = "manifest"
	PartOptions         = "options"
	PartProgram         = "program"
	PartTokenizer       = "tokenizer"
	PartVocab           = "vocab"
	PartTokenizerConfig = "tokenizer_config"
	PartPrompts         = "prompts"
	PartIDs             = encoder.InputIDs
	PartMask            = encoder.InputMask
	PartInfo            = "info"
	PartTokens          = generator.OutputTokens
	PartCondition       = generator.OutputCondition
	PartFile            = "file/" // and the file's name
	PartReport          = "report"
	PartBase            = "base"
	PartAdapter         = "adapter"
	PartPieces          = "pieces"
	PartError           = "error"
)

// The stages that Compile makes Programs of.
const (
	StageGenerate = "generate" // ids and mask to weight tokens
	StageEncode   = "encode"   // ids and mask to condition
	StageDecode   = "decode"   // condition to weight tokens
)

// CompileOptions are Compile's.
type CompileOptions struct {
	Stage string `json:"stage"`
	// Batch is the number of conditions that StageDecode decodes; the other stages have 1.
	Batch int `json:"batch"`
	// DType is the type of weights on the device: F32, F16, Q8 or Q4_1 (generator.Compile).
	DType string `json:"dtype"`
	// Limits are the device's; without them, the Program is planned for WebGPU's
	// guaranteed ones.
	Limits *graph.Limits `json:"limits,omitempty"`
}

// maxBatch bounds the conditions of one Program.
const maxBatch = 1 << 10

// Compile makes a Program of a manifest.
func Compile(message []byte) []byte { return respond(compile, message) }

// Feed makes a Program's inputs of prompts.
func Feed(message []byte) []byte { return respond(feed, message) }

// Finish makes an adapter's files of the weight tokens that a Program gave.
func Finish(message []byte) []byte { return respond(finish, message) }

// Answer plans how a base model answers a prompt, without and with an adapter.
func Answer(message []byte) []byte { return respond(answer, message) }

// Failed is the message of a call that failed.
func Failed(err error) []byte {
	// A message of one part that is short cannot be refused.
	raw, _ := Message{{PartError, []byte(Line(err.Error()))}}.Encode()
	return raw
}

func respond(call func(Message) (Message, error), message []byte) []byte {
	m, err := Decode(message)
	if err != nil {
		return Failed(err)
	}
	if m, err = call(m); err != nil {
		return Failed(err)
	}
	raw, err := m.Encode()
	if err != nil {
		return Failed(err)
	}
	return raw
}

func compile(m Message) (Message, error) {
	manifest, err := m.manifest(PartManifest, PartOptions)
	if err != nil {
		return nil, err
	}
	o := CompileOptions{Batch: 1}
	if err := m.options(&o); err != nil {
		return nil, err
	}
	limits := graph.DefaultLimits()
	if o.Limits != nil {
		limits = *o.Limits
	}
	if !generator.OnDevice(o.DType) {
		return nil, fmt.Errorf("options: dtype %.16q, expected %s, %s, %s or %s", o.DType, generator.F32, generator.F16, generator.Q8, generator.Q4)
	}
	if o.Batch < 1 || o.Batch > maxBatch || o.Batch > 1 && o.Stage != StageDecode {
		return nil, fmt.Errorf("options: batch %d for stage %.16q, expected 1, or up to %d for %s", o.Batch, o.Stage, maxBatch, StageDecode)
	}
	var p *graph.Program
	switch o.Stage {
	case StageGenerate:
		p, err = generator.Compile(manifest, limits, o.DType)
	case StageEncode:
		p, err = generator.CompileEncode(manifest, limits, o.DType)
	case StageDecode:
		p, err = generator.CompileDecode(manifest, limits, o.Batch, o.DType)
	default:
		return nil, fmt.Errorf("options: stage %.16q, expected %s, %s or %s", o.Stage, StageGenerate, StageEncode, StageDecode)
	}
	if err != nil {
		return nil, err
	}
	raw, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return Message{{PartProgram, raw}}, nil
}

// manifest checks that m has no parts but those allowed, and reads its manifest.
func (m Message) manifest(allowed ...string) (*generator.Manifest, error) {
	if err := m.only(allowed...); err != nil {
		return nil, err
	}
	raw, err := m.need(PartManifest)
	if err != nil {
		return nil, err
	}
	return generator.ParseManifest(raw)
}

// only refuses parts that a call does not know.
func (m Message) only(allowed ...string) error {
	for _, p := range m {
		if !slices.Contains(allowed, p.Name) {
			return fmt.Errorf("message: unknown part %.64q, expected %q", p.Name, allowed)
		}
	}
	return nil
}

func (m Message) need(name string) ([]byte, error) {
	data, ok := m.Get(name)
	if !ok {
		return nil, fmt.Errorf("message: part %q is missing", name)
	}
	return data, nil
}

// options reads the part options. Unknown fields are errors.
func (m Message) options(v any) error {
	raw, err := m.need(PartOptions)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("options: text behind the JSON object")
	}
	return nil
}
