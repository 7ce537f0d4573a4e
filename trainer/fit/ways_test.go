package fit_test

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

func pjrt(t *testing.T) backend.Backend {
	b, err := backend.Open(backend.PJRT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

// tensorsOf reads all tensors of a run's checkpoint.
func tensorsOf(t *testing.T, dir string) map[string][]float32 {
	t.Helper()
	f := must[*safetensors.File](t)(safetensors.Open(filepath.Join(dir, "checkpoint.safetensors")))
	defer f.Close()
	all := map[string][]float32{}
	for _, info := range f.Tensors {
		all[info.Name] = must[[]float32](t)(f.Float32s(info.Name))
	}
	return all
}

// fittedOf reads all tensors that a run's export has.
func fittedOf(t *testing.T, dir string) map[string][]float32 {
	t.Helper()
	return fittedShare(t, dir, 1)
}

// fittedShare is fittedOf with a share of what changed in the basis.
func fittedShare(t *testing.T, dir string, share float64) map[string][]float32 {
	t.Helper()
	return fittedMean(t, share, dir)
}

// fittedMean is that of several runs.
func fittedMean(t *testing.T, share float64, dirs ...string) map[string][]float32 {
	t.Helper()
	_, list, _, err := fit.Fitted(share, dirs...)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := safetensors.WriteFile(filepath.Join(to, "checkpoint.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	return tensorsOf(t, to)
}

// distance is the norm of the difference of two runs' weights over that of their change
// since the start.
func distance(t *testing.T, c fit.Config, a, b map[string][]float32) float64 {
	t.Helper()
	difference, change := 0.0, 0.0
	initial := fit.Initial(c.Decoder, c.Seed)
	for i, tensor := range fit.Tensors(c.Decoder) {
		x, y := a[tensor.Name], b[tensor.Name]
		for j := range x {
			difference += math.Pow(float64(x[j]-y[j]), 2)
			change += math.Pow(float64(x[j]-initial[i][j]), 2)
		}
	}
	return math.Sqrt(difference / change)
}

// A step computed in parts, or on two devices, is the step computed at once; bfloat16 is
// near it.
func TestWaysOfAStep(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	b, e := pjrt(t), tinyEncoder(t)
	c := config(true)
	// Adam's steps are signs where gradients are small; so large an epsilon keeps rounding
	// from turning them.
	c.Steps, c.Batch, c.Epsilon, c.ConditionNoise, c.TargetNoise = 3, 4, 1e-3, 0, 0
	run := func(c fit.Config, devices int) (map[string][]float32, float64) {
		t.Helper()
		dir := t.TempDir()
		r := must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: e, Backend: b, Devices: devices}, dir, nil))
		return tensorsOf(t, dir), r.Loss
	}
	want, loss := run(c, 1)
	for _, way := range []struct {
		name       string
		accumulate int
		devices    int
		dtype      string
		noise      float64
		tolerance  float64
	}{
		{"four parts", 4, 1, fit.F32, 0, 1e-4},
		{"two devices", 1, 2, fit.F32, 0, 1e-4},
		{"two parts on two devices", 2, 2, fit.F32, 0, 1e-4},
		{"bfloat16", 1, 1, fit.BF16, 0, 0.1},
		{"bfloat16 in two parts on two devices", 2, 2, fit.BF16, 0, 0.1},
	} {
		t.Run(way.name, func(t *testing.T) {
			c := c
			c.Accumulate, c.DType = way.accumulate, way.dtype
			got, gotLoss := run(c, way.devices)
			d := distance(t, c, want, got)
			t.Logf("loss %v and %v, distance of the weights %.2g of their change", loss, gotLoss, d)
			if !(d <= way.tolerance) || way.dtype == fit.BF16 && d == 0 {
				t.Errorf("the weights differ by %.2g of their change, expected at most %.2g", d, way.tolerance)
			}
		})
	}
	t.Run("noise on two devices", func(t *testing.T) {
		c := c
		c.ConditionNoise, c.TargetNoise = 0.1, 0.1
		one, _ := run(c, 1)
		two, _ := run(c, 2)
		if d := distance(t, c, one, two); d > 1e-4 {
			t.Errorf("the weights differ by %.2g of their change", d)
		}
	})
	for _, bad := range []struct {
		accumulate, devices int
		want                string
	}{{3, 1, "batch of 4"}, {4, 2, "2 devices"}, {1, 1000, "1000 devices"}} {
		c := c
		c.Accumulate = bad.accumulate
		_, err := fit.Run(t.Context(), c, data, fit.Resources{Encoder: e, Backend: b, Devices: bad.devices}, t.TempDir(), nil)
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("accumulate %d, %d devices: %v does not mention %q", bad.accumulate, bad.devices, err, bad.want)
		}
	}
}

// The exponential mean is what export takes.
func TestAverage(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	c, dir := config(false), t.TempDir()
	c.Steps, c.WarmUp, c.Average = 1, 0, 0.9
	must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, dir, nil))
	all := tensorsOf(t, dir)
	initial := fit.Initial(c.Decoder, c.Seed)
	_, fitted, _, err := fit.Fitted(1, dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "fitted.safetensors")
	if err := safetensors.WriteFile(file, fitted, nil); err != nil {
		t.Fatal(err)
	}
	f := must[*safetensors.File](t)(safetensors.Open(file))
	defer f.Close()
	for i, tensor := range fit.Tensors(c.Decoder) {
		mean := must[[]float32](t)(f.Float32s(tensor.Name))
		for j, v := range all[tensor.Name] {
			if want := 0.1*float64(initial[i][j]) + 0.9*float64(v); math.Abs(float64(mean[j])-want) > 1e-6 {
				t.Fatalf("%s: mean %v after one step, want %v", tensor.Name, mean[j], want)
			}
		}
	}
}
