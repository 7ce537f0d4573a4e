package science

import (
	"math"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// Factors stand for the kernels over N that they are smaller than, with fewer weights and
// less work, and their product has such a kernel's shape and values.
func TestFactors(t *testing.T) {
	c := Reduced()
	config, _, err := c.decoder(384)
	if err != nil {
		t.Fatal(err)
	}
	whole, values := fit.Tensors(config), fit.Initial(config, c.Generator.Seed)
	same, _ := factored(whole, values, 0, 1)
	if len(same) != len(whole) {
		t.Errorf("%d tensors at rank 0, want %d", len(same), len(whole))
	}
	const rank = 4
	b := openBackend(t)
	list, initial := factored(whole, values, rank, 1)
	if len(list) != len(whole)+3 {
		t.Fatalf("%d tensors at rank %d, want one more for each of 3 layers than %d", len(list), rank, len(whole))
	}
	shapes, first := map[string][]int{}, map[string][]float32{}
	for i, x := range list {
		shapes[x.Name], first[x.Name] = x.Shape, initial[i]
		n := 1
		for _, d := range x.Shape {
			n *= d
		}
		if len(initial[i]) != n {
			t.Errorf("%s: %d values of shape %v", x.Name, len(initial[i]), x.Shape)
		}
	}
	for i, x := range whole {
		if !strings.HasSuffix(x.Name, mixing) {
			continue
		}
		low, high := first[x.Name+down], first[x.Name+up]
		e, err := graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
			p := model.Params{x.Name + down: in[0], x.Name + up: in[1]}
			multiply(p)
			return p[x.Name]
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := e.Call(tensors.FromFlatDataAndDimensions(low, shapes[x.Name+down]...), tensors.FromFlatDataAndDimensions(high, shapes[x.Name+up]...))
		if err != nil {
			t.Fatal(err)
		}
		got := tensors.MustCopyFlatData[float32](out[0])
		e.Finalize()
		if len(got) != len(values[i]) {
			t.Fatalf("%s: %d values, want %d", x.Name, len(got), len(values[i]))
		}
		row := len(got) / x.Shape[0]
		for _, at := range []int{0, row - 1, len(got) - 1} {
			want := 0.0
			for r := range rank {
				want += float64(high[at/row*rank+r]) * float64(low[r*row+at%row])
			}
			if math.Abs(float64(got[at])-want) > 1e-6 {
				t.Errorf("%s at %d: %v, want %v", x.Name, at, got[at], want)
			}
		}
		if q := spread(got) / spread(values[i]); q < 0.5 || q > 2 {
			t.Errorf("%s starts with %.2f times the deviation of the whole kernel", x.Name, q)
		}
	}
	g := &network{c: &c, config: config}
	all := g.macs()
	if all != config.MACs(1) {
		t.Errorf("%d multiply-accumulates without factors, want %d", all, config.MACs(1))
	}
	c.Generator.MixingRank = rank
	saved := int64(0)
	for i, f := range config.Features[1:] {
		in := config.Features[i][0]
		saved += int64(f[1] * f[2] * (9*in*f[0] - rank*(9*in+f[0])))
	}
	if got := all - g.macs(); got != saved {
		t.Errorf("factors save %d multiply-accumulates, want %d", got, saved)
	}
}

func spread(list []float32) float64 {
	sum := 0.0
	for _, v := range list {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum / float64(len(list)))
}
