package generator_test

import (
	"math"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

func TestCoverage(t *testing.T) {
	at := func(degrees float64) []float32 {
		r := degrees * math.Pi / 180
		return []float32{float32(math.Cos(r)), float32(math.Sin(r))}
	}
	// Neighbours are 10, 10 and 30 degrees apart: the limit is the loneliest one's 30.
	c, err := generator.NewCoverage([]string{"a", "b", "c"}, [][]float32{at(0), at(10), at(40)})
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 - math.Cos(30*math.Pi/180); math.Abs(c.Limit-want) > 1e-6 {
		t.Errorf("limit %v, want %v", c.Limit, want)
	}
	for _, test := range []struct {
		degrees float64
		task    string
		far     bool
	}{{-5, "a", false}, {6, "b", false}, {41, "c", false}, {69, "c", false}, {75, "c", true}, {180, "c", true}} {
		n := c.Nearest(at(test.degrees))
		if n.Task != test.task || n.Far != test.far {
			t.Errorf("at %v degrees: %+v, want %s and far %v", test.degrees, n, test.task, test.far)
		}
	}
	if n := c.Nearest([]float32{0, 0}); !n.Far || n.Distance != 2 {
		t.Errorf("no direction at all: %+v", n)
	}
	for _, test := range []struct{ degrees, farScale, want float64 }{{0, 0, 1}, {180, 0, 1}, {0, 0.25, 1}, {180, 0.25, 0.25}} {
		c.FarScale = test.farScale
		if n := c.Nearest(at(test.degrees)); n.Scale != test.want {
			t.Errorf("at %v degrees with a far_scale of %v: scale %v, want %v", test.degrees, test.farScale, n.Scale, test.want)
		}
	}
	if _, err := generator.NewCoverage([]string{"a"}, nil); err == nil {
		t.Error("a name without a task was taken")
	}
	if _, err := generator.NewCoverage([]string{"a"}, [][]float32{{float32(math.NaN()), 1}}); err == nil {
		t.Error("NaN was taken")
	}
}

func TestPool(t *testing.T) {
	var p generator.Pool
	p.Add([]float32{3, 0, 1, 0, 9, 9}, []uint32{1, 1, 0}) // mean (2,0), so (1,0)
	p.Add([]float32{0, 5, 9, 9, 9, 9}, []uint32{1, 0, 0}) // (0,1)
	p.Add([]float32{7, 7, 7, 7, 7, 7}, []uint32{0, 0, 0}) // nothing
	got := p.Vector()
	for i, v := range got {
		if math.Abs(float64(v)-math.Sqrt(0.5)) > 1e-6 {
			t.Errorf("value %d is %v, want the diagonal: %v", i, v, got)
		}
	}
}

// A Coverage in a manifest must be of the condition's width, and makes the Program read the
// condition back.
func TestCoverageInManifest(t *testing.T) {
	p := openPackage(t, madeUp(t, generator.MadeUpOptions{Encoder: tinyEncoder(t, nil)}))
	m := p.Manifest
	reads := func() string {
		program, err := generator.Compile(&m, graph.DefaultLimits(), generator.F32)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range program.Reads {
			names = append(names, r.Name)
		}
		return strings.Join(names, " ")
	}
	if got := reads(); got != "tokens" {
		t.Errorf("without a coverage the program reads %q", got)
	}
	c := m.Condition
	if n, err := m.Nearest(nil, nil); n != nil || err != nil {
		t.Errorf("without a coverage: %v, %v", n, err)
	}
	center := make([]float32, c.Width)
	center[0] = 1
	var err error
	if m.Coverage, err = generator.NewCoverage([]string{"one"}, [][]float32{center}); err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := reads(); got != "condition tokens" {
		t.Errorf("the program reads %q", got)
	}
	condition, mask := make([]float32, c.Texts*c.Length*c.Width), make([]uint32, c.Texts*c.Length)
	condition[0], mask[0] = 2, 1
	n, err := m.Nearest(condition, mask)
	if err != nil || n.Task != "one" || n.Distance > 1e-6 {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := m.Nearest(condition[1:], mask); err == nil {
		t.Error("a condition that is too short was taken")
	}
	out := m.Decoder.Output()
	tokens := make([]float32, out[0]*out[1]*out[2])
	for _, n := range []*generator.Nearest{nil, {Scale: 0.25}} {
		a, err := generator.Finish(&m, tokens, n)
		if err != nil {
			t.Fatal(err)
		}
		want := m.Base.Alpha
		if n != nil {
			want *= n.Scale
		}
		if a.Base.Alpha != want {
			t.Errorf("alpha %v of an adapter with %+v, want %v", a.Base.Alpha, n, want)
		}
	}
	for _, bad := range []float64{-0.5, 1.5, math.NaN()} {
		m.Coverage.FarScale = bad
		wantError(t, m.Validate(), "coverage", "far_scale")
	}
	m.Coverage.FarScale = 0.25
	m.Coverage.Tasks[0].Center = m.Coverage.Tasks[0].Center[4:]
	wantError(t, m.Validate(), "coverage", "one")
}
