package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// All ways to convolve agree, forward and backward.
func TestConvolveWays(t *testing.T) {
	be, err := backend.Open(backend.PJRT)
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	for _, axis := range []model.Axis{model.AxisN, model.AxisH, model.AxisW} {
		for _, out := range []int{7, 520} {
			for _, k := range []int{1, 2, 3, 4} {
				x, w := random(2, 3, 5, 6), random(out, []int{0, 3, 5, 6}[axis], k, k)
				var want [][]float32
				for _, native := range []bool{false, true} {
					exec, err := graph.NewExec(be.Backend, func(x, w *graph.Node) []*graph.Node {
						y := model.Convolve(x, w, axis, native)
						return append([]*graph.Node{y}, graph.Gradient(graph.ReduceAllSum(graph.Square(y)), x, w)...)
					})
					if err != nil {
						t.Fatal(err)
					}
					results, err := exec.Call(x, w)
					if err != nil {
						t.Fatal(err)
					}
					for i, r := range results {
						got := tensors.MustCopyFlatData[float32](r)
						if !native {
							want = append(want, got)
							continue
						}
						largest := 0.0
						for _, v := range want[i] {
							largest = max(largest, math.Abs(float64(v)))
						}
						for j := range got {
							if d := math.Abs(float64(got[j]) - float64(want[i][j])); !(d <= 1e-5*largest) {
								t.Fatalf("axis %d, %d out, k %d, result %d: %v at %d, want %v", axis, out, k, i, got[j], j, want[i][j])
							}
						}
					}
					exec.Finalize()
				}
			}
		}
	}
}

// BenchmarkConvolve measures chunks of output channels of the reference's 0.5B shape,
// such as package infer runs.
func BenchmarkConvolve(b *testing.B) {
	for _, s := range []struct {
		name string
		x    [4]int
		out  int
		axis model.Axis
	}{
		{"layer0.conv1w", [4]int{1, 128, 384, 384}, 75, model.AxisW},
		{"layer0.conv2h", [4]int{1, 128, 384, 384}, 50, model.AxisH},
		{"layer7.conv1w", [4]int{1, 2048, 10, 200}, 130, model.AxisW},
		{"layer7.linear2", [4]int{1, 2048, 10, 130}, 256, model.AxisN},
	} {
		const k = 9
		in := s.x[s.axis]
		x, w := random(s.x[:]...), random(s.out, in, k, k)
		flop := 2 * float64(s.x[1]*s.x[2]*s.x[3]) * float64(s.out*k*k)
		for _, kind := range backend.Names {
			b.Run(fmt.Sprintf("%s/%s", s.name, kind), func(b *testing.B) {
				be, err := backend.Open(kind)
				if err != nil {
					b.Fatal(err)
				}
				defer be.Finalize()
				exec, err := graph.NewExec(be.Backend, func(x, w *graph.Node) *graph.Node {
					return model.Convolve(x, w, s.axis, be.NativeConvolution())
				})
				if err != nil {
					b.Fatal(err)
				}
				defer exec.Finalize()
				if err := exec.PreCompile(x, w); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					out, err := exec.Call(x, w)
					if err != nil {
						b.Fatal(err)
					}
					if err := out[0].FinalizeAll(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(flop*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
			})
		}
		x.MustFinalizeAll()
		w.MustFinalizeAll()
	}
}

func random(shape ...int) *tensors.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	r := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	return tensors.FromFlatDataAndDimensions(values, shape...)
}
