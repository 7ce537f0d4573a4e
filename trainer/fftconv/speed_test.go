package fftconv

import (
	"context"
	"testing"
)

// BenchmarkRun is on convolutions of the reference's decoder for Qwen2.5-0.5B. The rate is
// what direct summation would have to reach; fewer is how many times less arithmetic it is.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name string
		Shape
	}{
		{"0.conv1w", Shape{1, 384, 300, 384, 128, 9}},
		{"1.conv2h", Shape{1, 200, 100, 128, 300, 9}},
		{"4.linear2", Shape{1, 512, 1024, 25, 200, 9}},
		{"7.linear2, 512 of 4296", Shape{1, 2048, 512, 10, 130, 9}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := c.Shape
			x, w := uniform(1, s.Batch*s.In*s.Rows*s.Columns), uniform(2, s.In*s.Kernel*s.Kernel)
			y := make([]float32, s.Batch*s.Out*s.Rows*s.Columns)
			weights := func(first, n int, p []float32) error {
				for i := range n {
					copy(p[i*len(w):], w)
				}
				return nil
			}
			p, err := NewPlan(s)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := p.Run(context.Background(), x, contiguous(s.In, s.Rows, s.Columns), y, contiguous(s.Out, s.Rows, s.Columns), weights, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(2*float64(s.MACs())*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
			b.ReportMetric(float64(s.MACs())/float64(p.MACs()), "fewer")
			b.ReportMetric(float64(p.Bytes())/1e6, "MB")
		})
	}
}
