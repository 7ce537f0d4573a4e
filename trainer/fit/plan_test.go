package fit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// Parameters and work are the reference's tables (b.4); a training step is three forward
// passes of two operations a multiply-accumulate.
func TestPlanOfShapes(t *testing.T) {
	for name, want := range map[string]struct {
		parameters int64
		macs       float64
	}{
		"0.5b":        {1_113_203_220, 4_128_968_908_800},
		"1.5b-coding": {1_742_934_236, 13_822_728_520_704},
		"1.5b-math":   {1_780_943_308, 19_036_096_765_952},
		"7b-coding":   {1_964_146_220, 26_554_625_167_360},
		"7b-math":     {1_942_130_220, 26_419_358_863_360},
		"3b-vl":       {2_409_631_548, 14_449_171_393_536},
	} {
		c := must[fit.Config](t)(fit.ForShape(name))
		p := must[*fit.Plan](t)(fit.NewPlan(&c, 1))
		if p.Parameters != want.parameters || p.StepOps != 6*want.macs*float64(c.Batch) || p.RunOps != p.StepOps*float64(c.Steps) {
			t.Errorf("%s: %d parameters, %g operations a step, %g in all", name, p.Parameters, p.StepOps, p.RunOps)
		}
	}
}

// What settings do to the memory of a device.
func TestPlanMemory(t *testing.T) {
	plan := func(change func(*fit.Config), devices int) *fit.Plan {
		t.Helper()
		c := must[fit.Config](t)(fit.ForShape("0.5b"))
		change(&c)
		return must[*fit.Plan](t)(fit.NewPlan(&c, devices))
	}
	whole := plan(func(*fit.Config) {}, 1)
	m := whole.Memory
	if w := 4 * whole.Parameters; m.Weights != w || m.Gradients != w || m.Moments != 2*w || m.Updated != 3*w || whole.Checkpoint != 3*w {
		t.Errorf("state %+v of %d parameters", m, whole.Parameters)
	}
	if in, out := int64(128*384*384), int64(4296*10*130); m.Inputs != 64*4*(in+out) || whole.Target != 4*out || whole.Prompt != 4*384*384 {
		t.Errorf("inputs %+v", m)
	}
	parts := plan(func(c *fit.Config) { c.Accumulate = 8 }, 2)
	if parts.Part != 4 || parts.StepOps != whole.StepOps || parts.Memory.Activations*16 != m.Activations || parts.Memory.Gradients != 2*m.Gradients {
		t.Errorf("8 parts on 2 devices: %+v", parts)
	}
	half := plan(func(c *fit.Config) { c.DType, c.Average = fit.BF16, 0.99 }, 1)
	if a := half.Memory.Activations; a <= m.Activations/2 || a >= m.Activations*3/4 || half.Memory.Moments != 3*4*half.Parameters {
		t.Errorf("bfloat16: %+v", half.Memory)
	}
	// A basis of 7 directions takes 7 times the weight tokens, on the device and on the disk.
	based := plan(func(c *fit.Config) {
		c.Decoder.Affine, c.Decoder.Tokens = true, c.Decoder.Output()
		last := len(c.Decoder.Features) - 1
		c.Decoder.Features = append(slices.Clone(c.Decoder.Features[:last]), [3]int{1, 1, 7})
	}, 1)
	if tokens := int64(4296 * 10 * 130); based.Memory.Inputs != m.Inputs+4*7*tokens || based.Standard != 4*(9*tokens+2*4296) || whole.Standard != 0 {
		t.Errorf("a basis: inputs of %d bytes, %d without; %d bytes beside the checkpoint, %d without", based.Memory.Inputs, m.Inputs, based.Standard, whole.Standard)
	}
	c := must[fit.Config](t)(fit.ForShape("0.5b"))
	if _, err := fit.NewPlan(&c, 3); err == nil {
		t.Error("64 pairs were divided over 3 devices")
	}
}

func TestRates(t *testing.T) {
	if _, err := fit.Rates(""); err != nil {
		t.Errorf("the rates that come with the program: %v", err)
	}
	path := filepath.Join(t.TempDir(), "more", "rates.json")
	for _, r := range []fit.Rate{{Device: "a", DType: fit.F32, FLOPS: 1e9}, {Device: "a", DType: fit.BF16, FLOPS: 2e9}, {Device: "a", DType: fit.F32, FLOPS: 3e9}} {
		if err := fit.AddRate(path, r); err != nil {
			t.Fatal(err)
		}
	}
	list := must[[]fit.Rate](t)(fit.Rates(path))
	if len(list) != 2 || list[0].FLOPS != 2e9 || list[1].FLOPS != 3e9 {
		t.Errorf("rates %+v", list)
	}
	c := must[fit.Config](t)(fit.ForShape("0.5b"))
	p := must[*fit.Plan](t)(fit.NewPlan(&c, 4))
	p.Add(list[1])
	if x := p.Times[0]; x.SecondsPerStep != p.StepOps/3e9/4 || x.Hours != x.SecondsPerStep*4000/3600 {
		t.Errorf("time %+v", x)
	}
	for _, bad := range []string{"", "{}", `[{"device": "a", "dtype": "f32", "flop_per_second": 0}]`, `[{"flop_per_second": 1}]`} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if list, err := fit.Rates(path); err == nil {
			t.Errorf("%q gave %+v", bad, list)
		}
		if err := fit.AddRate(path, fit.Rate{Device: "a", DType: fit.F32, FLOPS: 1}); err == nil {
			t.Errorf("%q was overwritten", bad)
		}
	}
}

// Every convolution is timed once, and the rate is a number.
func TestMeasureRate(t *testing.T) {
	c := config(false)
	layers := 0
	r, err := fit.MeasureRate(t.Context(), &c, cpu(t), "a tiny decoder", func(done, total int) { layers++ })
	if err != nil || layers != 2 || !(r.FLOPS > 1e3) || r.Device == "" || r.DType != fit.F32 || r.Source == "" {
		t.Errorf("%+v after %d layers, %v", r, layers, err)
	}
}

// docs/scale.md says what plans say.
func TestScaleDocument(t *testing.T) {
	raw := must[[]byte](t)(os.ReadFile(filepath.Join("..", "..", "docs", "scale.md")))
	text := string(raw)
	expect := func(row string) {
		t.Helper()
		if !strings.Contains(text, row) {
			t.Errorf("docs/scale.md lacks this row:\n%s", row)
		}
	}
	shapes := []string{"0.5b", "1.5b-coding", "1.5b-math", "7b-coding", "7b-math", "3b-vl"}
	for _, name := range shapes {
		c := must[fit.Config](t)(fit.ForShape(name))
		c.Accumulate = c.Batch
		p := must[*fit.Plan](t)(fit.NewPlan(&c, 1))
		c.DType = fit.BF16
		half := must[*fit.Plan](t)(fit.NewPlan(&c, 1))
		giga := func(n int64) float64 { return float64(n) / 1e9 }
		expect(fmt.Sprintf("| %s | %.2f G | %d × %d | %.3g P | %.3g E | %.1f | %.1f / %.1f | %.3g MB | %.0f MB | %.1f |", name, giga(p.Parameters), c.Batch, c.Steps,
			p.StepOps/1e15, p.RunOps/1e18, giga(p.Memory.Peak), giga(p.Memory.Activations), giga(half.Memory.Activations),
			float64(p.Prompt)/1e6, float64(p.Target)/1e6, giga(p.Checkpoint)))
	}
	for _, r := range must[[]fit.Rate](t)(fit.Rates("")) {
		row := fmt.Sprintf("| %s | %s | %.0f GFLOP/s |", r.Device, r.DType, r.FLOPS/1e9)
		for _, name := range shapes {
			c := must[fit.Config](t)(fit.ForShape(name))
			p := must[*fit.Plan](t)(fit.NewPlan(&c, 1))
			p.Add(r)
			row += fmt.Sprintf(" %.2g |", p.Times[0].Hours/24/365)
		}
		expect(row)
	}
}
