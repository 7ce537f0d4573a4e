package graph_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
)

func TestMemory(t *testing.T) {
	weights := graph.Source{Kind: graph.SourceWeights, Name: "w", DType: "F32", Bytes: 100}
	p := &graph.Program{
		Buffers: []graph.Buffer{{Bytes: 8}, {Bytes: 100, Source: weights}, {Bytes: 20}, {Bytes: 1000}, {Bytes: 400}},
		Dispatches: []graph.Dispatch{
			{Label: "first", Binds: []graph.Bind{{Buffer: 0}, {Buffer: 1}}},
			{Label: "second", Binds: []graph.Bind{{Buffer: 1}, {Buffer: 2}}},
			{Label: "third", Binds: []graph.Bind{{Buffer: 0}, {Buffer: 4}}},
		},
		Reads: []graph.Read{{Buffer: 2}},
	}
	// Of the third's neighbours, the parameters and the result live on; buffer 3 never does.
	want := graph.Memory{Peak: 8 + 20 + 400, At: "third", Held: 8 + 100 + 20 + 400, Weights: 100}
	if got := p.Memory(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
