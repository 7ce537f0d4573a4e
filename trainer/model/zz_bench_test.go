package model

import (
	"flag"
	"testing"
	"time"
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/core/tensors/images"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

var benchBackend = flag.String("be", "pjrt", "")

func nhwc(x, weight *graph.Node, ax axis) *graph.Node {
	k := weight.Shape().Dimensions[2]
	pad := padding(k)
	t := toPlane(x, ax)
	w := graph.TransposeAllAxes(weight, 2, 3, 1, 0)
	y := graph.Convolve(t, w).ChannelsAxis(images.ChannelsLast).PaddingPerDim([][2]int{pad, pad}).Done()
	return fromPlane(y, ax)
}

func TestZZ(t *testing.T) {
	be, err := backend.Open(*benchBackend)
	if err != nil { t.Fatal(err) }
	type shape struct { x [4]int; out, k int; axis axis }
	for _, s := range []shape{
		{[4]int{1, 128, 384, 384}, 75, 9, axisW},
		{[4]int{1, 128, 384, 384}, 50, 9, axisH},
		{[4]int{1, 2048, 10, 130}, 256, 9, axisN},
		{[4]int{1, 2048, 10, 200}, 130, 9, axisW},
	} {
		x := tensors.FromFlatDataAndDimensions(make([]float32, s.x[0]*s.x[1]*s.x[2]*s.x[3]), s.x[:]...)
		in := s.x[s.axis]
		w := tensors.FromFlatDataAndDimensions(make([]float32, s.out*in*s.k*s.k), s.out, in, s.k, s.k)
		p := spatial(s.axis)
		gf := 2*float64(s.x[p[0]]*s.x[p[1]]) * float64(s.out*in*s.k*s.k)/1e9
		for name, f := range map[string]func(x, w *graph.Node) *graph.Node{
			"axes": func(x, w *graph.Node) *graph.Node { return nativeConvolution(x, w, s.axis) },
			"nhwc": func(x, w *graph.Node) *graph.Node { return nhwc(x, w, s.axis) },
			"rows": func(x, w *graph.Node) *graph.Node { return productConvolution(x, w, s.axis) },
		} {
			if be.Name == "cpu" && name != "rows" { continue }
			e, err := graph.NewExec(be.Backend, f)
			if err != nil { t.Fatal(err) }
			t0 := time.Now()
			o, err := e.Call(x, w)
			if err != nil { t.Fatal(err) }
			first := time.Since(t0)
			o[0].FinalizeAll()
			best := time.Hour
			for range 2 {
				t0 = time.Now()
				o, err := e.Call(x, w)
				if err != nil { t.Fatal(err) }
				o[0].FinalizeAll()
				best = min(best, time.Since(t0))
			}
			fmt.Printf("%v %s: first %v, best %v, %.0f GFLOPS (%.1f GFLOP)\n", s, name, first, best, gf/best.Seconds(), gf)
			e.Finalize()
		}
	}
}

func padding(k int) [2]int { return [2]int{(k - 1) / 2, k / 2} }
func toPlane(x *graph.Node, ax axis) *graph.Node {
	p := spatial(ax)
	return graph.TransposeAllAxes(x, 0, p[0], p[1], int(ax))
}
func fromPlane(x *graph.Node, ax axis) *graph.Node {
	p := spatial(ax)
	var back [4]int
	back[p[0]], back[p[1]], back[ax] = 1, 2, 3
	return graph.TransposeAllAxes(x, back[:]...)
}
