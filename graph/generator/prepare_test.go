package generator_test

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// A run of Programs whose weights are prepared does no more than one that prepares them each
// time. With -v it is the table of docs/benchmarks.md.
func TestPreparedWork(t *testing.T) {
	type shape struct {
		name    string
		p       *generator.Package
		encodes bool
	}
	shipped, err := generator.Open(filepath.Join("..", "..", "models", "default"))
	if err != nil {
		t.Fatal(err)
	}
	defer shipped.Close()
	shapes := []shape{{"shipped generator", shipped, true}}
	for _, name := range []string{"mini", "0.5b"} {
		p, err := generator.MadeUpPackage(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		shapes = append(shapes, shape{name, p, name == "mini"})
	}
	all := &graph.Preparation{}
	for _, s := range shapes {
		m := &s.p.Manifest
		compare := func(stage string, plan func(*graph.Preparation) (*graph.Program, error)) {
			before, err := plan(nil)
			if err != nil {
				t.Fatal(err)
			}
			after, err := plan(all)
			if err != nil {
				t.Fatal(err)
			}
			runs := 0
			for _, d := range after.Dispatches {
				if d.Stage != after.Once {
					runs++
				}
			}
			t.Logf("| %s, %s | %d | %d | %.0f | %.0f | %d | %d |", s.name, stage, len(before.Dispatches), runs,
				float64(before.RunCost())/1e6, float64(after.RunCost())/1e6, before.Memory().Held/1e6, after.Memory().Held/1e6)
			if after.RunCost() >= before.RunCost() {
				t.Errorf("%s, %s: %d multiply-accumulates a run, %d where nothing is prepared", s.name, stage, after.RunCost(), before.RunCost())
			}
		}
		if s.encodes {
			compare("encode", func(x *graph.Preparation) (*graph.Program, error) {
				return generator.PrepareEncode(m, graph.DefaultLimits(), generator.F32, x)
			})
		}
		compare("decode", func(x *graph.Preparation) (*graph.Program, error) {
			return generator.PrepareDecode(m, graph.DefaultLimits(), 1, generator.F32, x)
		})
	}
}
