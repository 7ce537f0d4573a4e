package model_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

// each runs a test on both backends. A backend that is missing is a failure.
func each(t *testing.T, f func(t *testing.T, b backend.Backend)) {
	for _, kind := range []string{backend.CPU, backend.PJRT} {
		t.Run(kind, func(t *testing.T) {
			b, err := backend.Open(kind)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Finalize()
			f(t, b)
		})
	}
}

func open(t *testing.T, elem ...string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(golden.Path(elem...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func load(t *testing.T, f *safetensors.File, name string) *tensors.Tensor {
	t.Helper()
	v, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := f.Lookup(name)
	return tensors.FromFlatDataAndDimensions(v, info.Shape...)
}

// compare fails where got differs from the golden tensor by more than tolerance, and
// returns the largest difference.
func compare(t *testing.T, name string, got *tensors.Tensor, f *safetensors.File, golden string, tolerance float64) float64 {
	t.Helper()
	want, err := f.Float32s(golden)
	if err != nil {
		t.Fatal(err)
	}
	values := tensors.MustCopyFlatData[float32](got)
	if len(values) != len(want) {
		t.Fatalf("%s: %d values, want %d", name, len(values), len(want))
	}
	largest := 0.0
	for i := range want {
		diff := math.Abs(float64(values[i]) - float64(want[i]))
		if !(diff <= tolerance) {
			t.Fatalf("%s[%d] = %v, want %v", name, i, values[i], want[i])
		}
		largest = max(largest, diff)
	}
	return largest
}

func TestDecoderGoldens(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, name := range []string{"fullcond_k5", "superlarge_k11", "fullcond_k9", "fullcond_k4_even", "mini_qwen_k3"} {
			t.Run(name, func(t *testing.T) {
				cfg := config(t, name)
				weights, io := open(t, "decoders", name, "model.safetensors"), open(t, "decoders", name, "io.safetensors")
				args := []any{load(t, io, "condition")}
				for _, tensor := range cfg.Tensors() {
					args = append(args, load(t, weights, tensor.Name))
				}
				var traced []string
				exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node {
					params := model.Params{}
					for i, tensor := range cfg.Tensors() {
						params[tensor.Name] = in[i+1]
					}
					traced = nil
					out := []*graph.Node{nil}
					out[0] = model.Decode(cfg, params, in[0], nil, b.NativeConvolution(), func(name string, x *graph.Node) {
						traced = append(traced, name)
						out = append(out, x)
					})
					return out
				})
				if err != nil {
					t.Fatal(err)
				}
				results, err := exec.Call(args...)
				if err != nil {
					t.Fatal(err)
				}
				worst := compare(t, "output", results[0], io, "output", 2e-5)
				for i, name := range traced {
					worst = max(worst, compare(t, name, results[i+1], io, name, 2e-5))
				}
				if len(traced) < 5*(len(cfg.Features)-1) {
					t.Fatalf("only %v were traced", traced)
				}
				t.Logf("largest difference %.1e over %d tensors", worst, len(traced)+1)
			})
		}
	})
}

func TestGradientsAndLoss(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, name := range []string{"fullcond_k5", "superlarge_k11"} {
			t.Run(name, func(t *testing.T) {
				cfg := config(t, name)
				weights, io := open(t, "decoders", name, "model.safetensors"), open(t, "decoders", name, "io.safetensors")
				grads := open(t, "decoders", name, "grads.safetensors")
				args := []any{load(t, io, "target"), load(t, weights, "criterion_weight"), load(t, io, "condition")}
				names := []string{"condition"}
				for _, tensor := range cfg.Tensors() {
					names = append(names, tensor.Name)
					args = append(args, load(t, weights, tensor.Name))
				}
				exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) []*graph.Node {
					params := model.Params{}
					for i, name := range names[1:] {
						params[name] = in[i+3]
					}
					loss := model.Loss(model.Decode(cfg, params, in[2], nil, b.NativeConvolution(), nil), in[0], in[1])
					return append([]*graph.Node{loss}, graph.Gradient(loss, in[2:]...)...)
				})
				if err != nil {
					t.Fatal(err)
				}
				results, err := exec.Call(args...)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, "loss", results[0], io, "loss", 2e-5)
				worst := 0.0
				for i, name := range names {
					worst = max(worst, compare(t, name, results[i+1], grads, name, 5e-5))
				}
				t.Logf("largest difference of a gradient %.1e", worst)
			})
		}
		t.Run("loss alone", func(t *testing.T) {
			f := open(t, "loss", "loss.safetensors")
			exec, err := graph.NewExec(b.Backend, model.Loss)
			if err != nil {
				t.Fatal(err)
			}
			results, err := exec.Call(load(t, f, "output"), load(t, f, "target"), load(t, f, "criterion_weight"))
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "loss", results[0], f, "loss", 1e-5)
		})
	})
}

func config(t *testing.T, name string) decoder.Config {
	t.Helper()
	var cfg decoder.Config
	readJSON(t, golden.Path("decoders", name, "config.json"), &cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", name, err))
	}
	return cfg
}
