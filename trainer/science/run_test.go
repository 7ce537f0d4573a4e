package science

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// minilm is the text encoder that `make deps` fetched.
func minilm(t *testing.T) string {
	dir := filepath.Join("..", "..", "build", "deps", "minilm")
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	return dir
}

func openBackend(t *testing.T) backend.Backend {
	b, err := backend.Open(backend.PJRT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

// few is an experiment that runs every stage for a few steps, most of whose time is that of
// compiling: so with few layers, one loss and small kernels.
func few() Config {
	c := Reduced()
	c.Strict, c.Cost, c.Loss, c.Base.Layers, c.Generator.Kernel = true, true, LossTask, 1, 1
	c.Values, c.Train, c.Validation, c.Test = [3]int{3, 2, 2}, 9, 1, 2
	c.Base.Steps, c.LoRA.SharedSteps, c.LoRA.Steps, c.LoRA.Late, c.Joint.Steps = 4, 2, 4, 4, 4
	c.Base.Batch, c.Joint.Batch, c.LoRA.Batch, c.Records, c.TestItems, c.Prompts, c.UnseenPrompts, c.Draws = 8, 8, 2, 8, 4, 8, 8, 2
	c.Generator.WeightSteps, c.Generator.TaskSteps, c.Generator.WeightBatch, c.Generator.TaskBatch = 2, 2, 2, 2
	return c
}

// A run that was stopped goes on with the stages that it has, and gives the same result; a
// folder of another configuration is refused.
func TestResume(t *testing.T) {
	b, dir, out := openBackend(t), minilm(t), t.TempDir()
	c := few()
	first, err := Run(t.Context(), c, dir, out, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"result.json", "result.md", "result.png"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	for _, condition := range []string{UnseenTask, UnseenWording, StrictTask} {
		k := first.Find(condition)
		if k == nil || len(k.Tasks) != c.Test || len(k.Average) != len(Methods) {
			t.Fatalf("%s: %+v", condition, k)
		}
	}
	if err := os.Remove(filepath.Join(out, "stages", "split11-generator.safetensors")); err != nil {
		t.Fatal(err)
	}
	second, err := Run(t.Context(), c, dir, out, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range first.Find(UnseenTask).Average {
		if got := second.Find(UnseenTask).Average[method]; math.Abs(got.NLL.Value-want.NLL.Value) > 1e-6*want.NLL.Value {
			t.Errorf("%s: %v nats after resuming, %v before", method, got.NLL.Value, want.NLL.Value)
		}
	}
	c.LoRA.Steps++
	if _, err := Run(t.Context(), c, dir, out, b, nil); err == nil {
		t.Error("a folder of another configuration was taken")
	}
	c = few()
	c.Loss, c.Draws, c.Train = "none", 0, 1000
	if _, err := Run(t.Context(), c, dir, t.TempDir(), b, nil); err == nil {
		t.Error("an impossible configuration was taken")
	}
}

// The claim, on a reduced run: adapters generated for tasks that were held out close at
// least 60 % of the gap from the base to LoRAs tuned on these very tasks, and are likelier
// to be right than the nearest training LoRA's, their average's and the base's answers. The
// farther prompts are from the training tasks', the worse the adapters.
func TestClaim(t *testing.T) {
	if testing.Short() {
		t.Skip("trains a base model, its LoRAs and a generator: two minutes or so")
	}
	stage, begin := "", time.Now()
	r, err := Run(t.Context(), Reduced(), minilm(t), t.TempDir(), openBackend(t), func(p Progress) {
		if p.Stage != stage {
			t.Logf("%v %s %s", time.Since(begin).Round(time.Second), p.Stage, p.Note)
			stage = p.Stage
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, condition := range []string{UnseenTask, UnseenWording} {
		for _, method := range Methods {
			a := r.Find(condition).Average[method]
			t.Logf("%s: %-40s exact match %.3f, %.2f nats, %.0f %% of the gap", condition, method, a.Exact.Value, a.NLL.Value, 100*a.Gap.Value)
		}
	}
	all := r.Find(UnseenTask).Average
	if gap := all[MethodGenerated].Gap.Value; gap < 0.6 {
		t.Errorf("generated adapters close %.0f %% of the gap, want at least 60 %%", 100*gap)
	}
	for _, method := range []string{MethodNearest, MethodAverage, MethodBase} {
		if all[MethodGenerated].NLL.Value >= all[method].NLL.Value {
			t.Errorf("generated: %.2f nats, %s %.2f", all[MethodGenerated].NLL.Value, method, all[method].NLL.Value)
		}
	}
	if c := r.Calibration; c.Exact.Value >= 0 || c.NLL.Value <= 0 {
		t.Errorf("rank correlation of the distance with exact match %+.2f, with NLL %+.2f: want one below 0 and one above", c.Exact.Value, c.NLL.Value)
	}
	for _, k := range r.Calibration.Kinds {
		t.Logf("%+v", k)
	}
}
