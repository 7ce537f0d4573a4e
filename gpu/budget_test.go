package gpu_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// A decoder is planned and run in whatever memory there is: within the budget, down to what
// the error of too small a one names, and with the same result.
func TestDecodeInBudget(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{{32, 12, 16}, {1024, 8, 8}, {96, 8, 8}}}
	p := generator.MadeUpDecoder("budget", c, 1)
	condition := make([]float32, 32*12*16)
	for i := range condition {
		condition[i] = float32(i%17)/8 - 1
	}
	decode := func(budget int64) ([]float32, int64, error) {
		d := open(t, gpu.Options{Device: -1, MemoryBudget: budget})
		r := generator.NewRunner(d, "webgpu", "", generator.F32, func() error { return nil })
		values, err := r.Decode(t.Context(), p, condition, 1, nil)
		return values, r.PeakBytes(), err
	}
	// More than there is to plan for.
	_, _, err := decode(1 << 20)
	var over *gpu.BudgetError
	if !errors.As(err, &over) {
		t.Fatalf("1 MiB: got %v", err)
	}
	least := over.Need
	if _, _, err := decode(least - 1); !errors.As(err, &over) || over.Need != least {
		t.Errorf("one byte less than %d: got %v", least, err)
	}
	want, free, err := decode(0)
	if err != nil {
		t.Fatal(err)
	}
	if least > free*3/4 {
		t.Errorf("%d bytes at least, without a budget %d", least, free)
	}
	most := float64(max(slices.Max(want), -slices.Min(want)))
	for _, budget := range []int64{least, (least + free) / 2} {
		got, peak, err := decode(budget)
		if err != nil {
			t.Fatal(err)
		}
		if peak > budget {
			t.Errorf("peak %d bytes, the budget is %d", peak, budget)
		}
		for i := range want {
			if d := math.Abs(float64(got[i] - want[i])); !(d <= 1e-5*most) {
				t.Fatalf("budget %d: value %d is %v, without one %v", budget, i, got[i], want[i])
			}
		}
	}
}
