package fftconv

import (
	"context"
	"errors"
	"math"
	"testing"
)

func TestBadShapes(t *testing.T) {
	for _, s := range []Shape{{}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 25}, {0, 1, 1, 1, 1, 3}, {1, 1, 1, -1, 1, 3}} {
		if _, err := NewPlan(s); err == nil {
			t.Errorf("%+v was planned", s)
		}
	}
}

func TestErrors(t *testing.T) {
	s := Shape{1, 8, 100, 20, 20, 5}
	p, err := NewPlan(s)
	if err != nil {
		t.Fatal(err)
	}
	x, y := make([]float32, 8*400), make([]float32, 100*400)
	run := func(ctx context.Context, w Weights) error {
		return p.Run(ctx, x, contiguous(8, 20, 20), y, contiguous(100, 20, 20), w, nil)
	}
	broken := errors.New("broken")
	if err := run(context.Background(), func(first, _ int, _ []float32) error {
		if first > 0 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) {
		t.Errorf("weights that cannot be read: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := run(ctx, func(int, int, []float32) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The assembly against the Go code, with strides and all remainders of blocks.
func TestKernel(t *testing.T) {
	if !Fast {
		t.Skip("this machine has no vector instructions that the kernel is written in")
	}
	for _, k := range []int{1, 2, 9, 100} {
		for _, add := range []bool{false, true} {
			a, b, c := uniform(1, k*block), uniform(2, k*24), uniform(3, block*40)
			want := append([]float32(nil), c...)
			kernel(k, a, b, 24, c, 40, add)
			kernelGo(k, a, b, 24, want, 40, add)
			for i := range want {
				if d := math.Abs(float64(c[i]) - float64(want[i])); !(d < 1e-5) {
					t.Fatalf("k %d, add %v: value %d is %v, expected %v", k, add, i, c[i], want[i])
				}
			}
		}
	}
}

// What is counted is less than direct summation wherever the reference's decoder is large.
func TestCount(t *testing.T) {
	for _, c := range []struct {
		Shape
		fewer float64
	}{
		{Shape{1, 384, 300, 384, 128, 9}, 14}, {Shape{1, 2048, 4296, 10, 130, 9}, 6}, {Shape{1, 2048, 4928, 18, 514, 11}, 12},
	} {
		p, err := NewPlan(c.Shape)
		if err != nil {
			t.Fatal(err)
		}
		if fewer := float64(c.MACs()) / float64(p.MACs()); fewer < c.fewer {
			t.Errorf("%+v: %.1f times fewer, expected %v", c.Shape, fewer, c.fewer)
		}
	}
}
