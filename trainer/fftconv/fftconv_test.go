package fftconv

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func contiguous(channels, rows, columns int) Strides {
	return Strides{channels * rows * columns, rows * columns, columns, 1}
}

// direct sums in float64.
func direct(s Shape, x, w []float32) []float64 {
	y := make([]float64, s.Batch*s.Out*s.Rows*s.Columns)
	before := (s.Kernel - 1) / 2
	for b := range s.Batch {
		for o := range s.Out {
			for r := range s.Rows {
				for c := range s.Columns {
					sum := 0.0
					for in := range s.In {
						for i := range s.Kernel {
							for j := range s.Kernel {
								if p, q := r+i-before, c+j-before; p >= 0 && p < s.Rows && q >= 0 && q < s.Columns {
									sum += float64(x[((b*s.In+in)*s.Rows+p)*s.Columns+q]) * float64(w[((o*s.In+in)*s.Kernel+i)*s.Kernel+j])
								}
							}
						}
					}
					y[((b*s.Out+o)*s.Rows+r)*s.Columns+c] = sum
				}
			}
		}
	}
	return y
}

func uniform(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	v := make([]float32, n)
	for i := range v {
		v[i] = 2*r.Float32() - 1
	}
	return v
}

func reader(w []float32, s Shape) Weights {
	size := s.In * s.Kernel * s.Kernel
	return func(first, n int, p []float32) error {
		if len(p) != n*size {
			return fmt.Errorf("%d values for %d outputs", len(p), n)
		}
		copy(p, w[first*size:])
		return nil
	}
}

func relative(got []float32, want []float64) float64 {
	var diff, norm float64
	for i, v := range want {
		d := float64(got[i]) - v
		diff += d * d
		norm += v * v
	}
	return math.Sqrt(diff / norm)
}

func TestRun(t *testing.T) {
	for _, s := range []Shape{
		{1, 1, 1, 1, 1, 2}, {1, 3, 5, 4, 7, 3}, {2, 17, 33, 10, 23, 9}, {1, 5, 16, 70, 3, 11},
		{3, 2, 18, 5, 60, 4}, {1, 40, 20, 18, 37, 11}, {2, 16, 16, 100, 90, 5},
	} {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			x, w := uniform(1, s.Batch*s.In*s.Rows*s.Columns), uniform(2, s.Out*s.In*s.Kernel*s.Kernel)
			y := make([]float32, s.Batch*s.Out*s.Rows*s.Columns)
			p, err := NewPlan(s)
			if err != nil {
				t.Fatal(err)
			}
			outputs := 0
			err = p.Run(context.Background(), x, contiguous(s.In, s.Rows, s.Columns), y, contiguous(s.Out, s.Rows, s.Columns), reader(w, s), func(n int) { outputs += n })
			if err != nil {
				t.Fatal(err)
			}
			if e := relative(y, direct(s, x, w)); !(e < 2e-6) || outputs != s.Out {
				t.Errorf("relative error %.1e, %d outputs done, plan %+v", e, outputs, p)
			} else {
				t.Logf("relative error %.1e, plan %+v", e, p)
			}
		})
	}
}
