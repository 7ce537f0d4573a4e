package conformance

import (
	"bytes"
	"context"
	_ "embed"
	"math"
	"slices"
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

// generationTokens are the weight tokens, float32le (T,h,w), of the whole generation of
// RunGeneration as the Go backend computes it; go test ./trainer/infer -run Generation -update
// writes the file.
//
//go:embed testdata/generation.f32
var generationTokens []byte

// generationTolerance is of weight tokens whose largest value is about 1.
const generationTolerance = 2e-5

// Generation is a made-up package and the prompts of one whole generation with it.
func Generation(t *testing.T) (*generator.Package, text.Batch) {
	t.Helper()
	p := madeup.Open(t)
	batch, _, err := generationInput(p)
	if err != nil {
		t.Fatal(err)
	}
	return p, batch
}

// CheckGeneration holds the weight tokens of Generation to the Go backend's.
func CheckGeneration(t *testing.T, backend string, tokens []float32) {
	t.Helper()
	want := generator.Float32s(generationTokens)
	if len(tokens) != len(want) {
		t.Fatalf("%d weight tokens' values, want %d", len(tokens), len(want))
	}
	worst := 0.0
	for i, v := range tokens {
		d := math.Abs(float64(v) - float64(want[i]))
		if !(d <= worst) {
			worst = d
		}
	}
	if !(worst <= generationTolerance) {
		t.Errorf("the weight tokens are %.2g off, allowed %.2g", worst, generationTolerance)
	}
	t.Logf("whole generation: largest error %.3g, allowed %.3g", worst, generationTolerance)
	Save(t, Record{Backend: backend, Case: "generation/weight tokens", Error: worst, Allowed: generationTolerance})
}

// RunGeneration makes an adapter of a made-up package on exec, prompts to files, with this
// process's own packages and with the guest under wazero. Both must give exec the same
// Program and make the same files of what it reads back, byte for byte; what it reads back
// is held to the Go backend's.
func RunGeneration(t *testing.T, exec graph.Executor, backend string) {
	p := madeup.Open(t)
	watched := &recorder{Executor: exec}
	native, tokens, err := generateNative(t.Context(), p, watched)
	if err != nil {
		t.Fatal(err)
	}
	CheckGeneration(t, backend, tokens)
	wazero, err := generateWazero(t.Context(), p, watched)
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	if len(watched.programs) != 2 || !bytes.Equal(watched.programs[0], watched.programs[1]) {
		t.Error("the guest's program differs from the one that is compiled without it")
		programs++
	}
	Save(t, Record{Backend: "wazero, " + backend, Case: "generation/programs that differ from native ones", Error: float64(programs)})
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
	Save(t, Record{Backend: "wazero, " + backend, Case: "generation/files that differ from native ones", Error: float64(differing)})
}

// generationInput is the prompts as the package reads them, and their hash.
func generationInput(p *generator.Package) (batch text.Batch, hash string, err error) {
	list, err := text.ParsePrompts([]byte(prompts), ".txt", "")
	if err != nil {
		return batch, "", err
	}
	tokenizer, err := p.Tokenizer()
	if err != nil {
		return batch, "", err
	}
	drawn, _ := text.Draw(list, p.Manifest.Condition.Texts, 0, 0)
	batch, err = tokenizer.Encode(drawn, p.Manifest.Condition.Length)
	return batch, text.Hash(list), err
}

func generateNative(ctx context.Context, p *generator.Package, exec graph.Executor) (files []lora.File, tokens []float32, err error) {
	m := &p.Manifest
	batch, hash, err := generationInput(p)
	if err != nil {
		return nil, nil, err
	}
	inputs, err := generator.Feed(m, batch)
	if err != nil {
		return nil, nil, err
	}
	program, err := generator.Compile(m, exec.Limits(), generator.F32)
	if err != nil {
		return nil, nil, err
	}
	result, err := exec.Run(ctx, program, p.Weights(), inputs, nil)
	if err != nil {
		return nil, nil, err
	}
	raw, _ := result.Output(generator.OutputTokens)
	tokens = generator.Float32s(raw)
	adapter, err := generator.Finish(m, slices.Clone(tokens), nil)
	if err != nil {
		return nil, nil, err
	}
	files, err = lora.Files(adapter, lora.Options{Format: lora.PEFT, Provenance: lora.Provenance{
		Generator: m.Name, GeneratorSHA256: p.SHA256, PromptsSHA256: hash}})
	return files, tokens, err
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
