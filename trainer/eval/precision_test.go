package eval_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// noise makes conditions without a text encoder.
type noise struct{ generator.Runner }

func (noise) Encode(_ context.Context, p *generator.Package, _ text.Batch, _ func(graph.Progress)) ([]float32, error) {
	in := p.Manifest.Decoder.Condition()
	random := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, in[0]*in[1]*in[2])
	for i := range values {
		values[i] = float32(random.NormFloat64())
	}
	return values, nil
}

// What types of weights cost, on made-up ones: about what the blocks' steps allow, and in
// this order. The types that are offered cost less than the reference's bfloat16.
func TestPrecision(t *testing.T) {
	p := madeup.Open(t)
	b, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	r := infer.New(b)
	defer r.Close()
	sets := []*collect.DataSet{{Name: "one", Records: []collect.Record{{Prompt: "a prompt"}, {Prompt: "another"}}}}
	rows, err := eval.Precision(t.Context(), nil, p, noise{}, r, sets, eval.WeightTypes, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	// From and to: uniform weights have a step of range/255 and range/15 in a block.
	for i, want := range [][2]float64{{0, 0}, {1e-5, 5e-4}, {1e-3, 8e-3}, {2e-2, 1e-1}} {
		if e := rows[i].WeightError; rows[i].Weights != eval.WeightTypes[i] || e < want[0] || e > want[1] {
			t.Errorf("%+v: error of the weights expected in %v", rows[i], want)
		}
		if i > 0 && !(rows[i].OutputError > rows[i-1].OutputError) || i == 0 && rows[i].OutputError != 0 {
			t.Errorf("%+v: output after %+v", rows[i], rows[max(i-1, 0)])
		}
		t.Logf("%+v", rows[i])
	}
}
