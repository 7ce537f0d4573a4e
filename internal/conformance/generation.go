package conformance

import (
	"bytes"
	"context"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/host"
	"github.com/drag-and-drop-lora/dnd/internal/guestwasm"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// prompts are those of RunGeneration, as a .txt file.
const prompts = "What is the capital of France?\nName a colour.\nAdd one and two.\n"

// RunGeneration makes an adapter of a made-up package on exec, prompts to files, with this
// process's own packages and with the guest under wazero. Both must give exec the same
// Program and make the same files of what it reads back, byte for byte.
func RunGeneration(t *testing.T, exec graph.Executor, backend string) {
	p := madeup.Open(t)
	watched := &recorder{Executor: exec}
	native, err := generateNative(t.Context(), p, watched)
	if err != nil {
		t.Fatal(err)
	}
	wazero, err := generateWazero(t.Context(), p, watched)
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	if len(watched.programs) != 2 || !bytes.Equal(watched.programs[0], watched.programs[1]) {
		t.Error("the guest's program differs from the one that is compiled without it")
		programs++
	}
	Save(t, Record{"wazero, " + backend, "generation/programs that differ from native ones", float64(programs), 0})
	if len(native) == 0 || len(native) != len(wazero) {
		t.Fatalf("%d files natively, %d with the guest", len(native), len(wazero))
	}
	differing := 0
	for i, f := range native {
		var a, b bytes.Buffer
		if err := f.Write(&a); err != nil {
			t.Fatal(err)
		}
		if err := wazero[i].Write(&b); err != nil {
			t.Fatal(err)
		}
		if wazero[i].Name != f.Name || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s natively and %s with the guest differ", f.Name, wazero[i].Name)
			differing++
		}
	}
	Save(t, Record{"wazero, " + backend, "generation/files that differ from native ones", float64(differing), 0})
}

func generateNative(ctx context.Context, p *generator.Package, exec graph.Executor) ([]lora.File, error) {
	m := &p.Manifest
	list, err := text.ParsePrompts([]byte(prompts), ".txt", "")
	if err != nil {
		return nil, err
	}
	tokenizer, err := p.Tokenizer()
	if err != nil {
		return nil, err
	}
	drawn, _ := text.Draw(list, m.Condition.Texts, 0, 0)
	batch, err := tokenizer.Encode(drawn, m.Condition.Length)
	if err != nil {
		return nil, err
	}
	inputs, err := generator.Feed(m, batch)
	if err != nil {
		return nil, err
	}
	program, err := generator.Compile(m, exec.Limits(), generator.F32)
	if err != nil {
		return nil, err
	}
	result, err := exec.Run(ctx, program, p.Weights(), inputs, nil)
	if err != nil {
		return nil, err
	}
	tokens, _ := result.Output(generator.OutputTokens)
	adapter, err := generator.Finish(m, generator.Float32s(tokens))
	if err != nil {
		return nil, err
	}
	return lora.Files(adapter, lora.Options{Format: lora.PEFT, Provenance: lora.Provenance{
		Generator: m.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: text.Hash(list)}})
}

func generateWazero(ctx context.Context, p *generator.Package, exec graph.Executor) ([]lora.File, error) {
	wasm, err := guestwasm.Build()
	if err != nil {
		return nil, err
	}
	h, err := host.New(ctx, host.Options{Guest: wasm, Executor: exec})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	result, err := h.Generate(ctx, p, host.Request{Prompts: []byte(prompts), Name: "prompts.txt"})
	if err != nil {
		return nil, err
	}
	return result.Files, nil
}

// recorder keeps the Programs that an executor is given.
type recorder struct {
	graph.Executor
	programs [][]byte
}

func (r *recorder) Run(ctx context.Context, p *graph.Program, w graph.Weights, in []graph.Input, report func(graph.Progress)) (*graph.Result, error) {
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	r.programs = append(r.programs, text)
	return r.Executor.Run(ctx, p, w, in, report)
}
