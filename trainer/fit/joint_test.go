package fit_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// With a share of a joint LoRA the loss on weights is what it is without, the base answers
// through an average, and what is exported makes that average.
func TestJointShare(t *testing.T) {
	const share = 0.25
	dir := collected(t)
	c := config(true)
	c.Steps = 2
	c.SetLoss(fit.LossBoth)
	c.Task.From = 0
	res := fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}
	res.Task = task(t, res.Backend)
	run := func(joint string, share float64, out string) error {
		data := must[*fit.Data](t)(fit.OpenData(dir, nil, "", tiling))
		if joint != "" {
			if err := data.SetJoint(filepath.Join(dir, joint)); err != nil {
				return err
			}
		}
		c.JointShare = share
		_, err := fit.Run(t.Context(), c, data, res, out, nil)
		return err
	}
	fitted := func(out string) (scale, offset []float32) {
		all := fittedOf(t, out)
		return all["output.scale"], all["output.offset"]
	}
	plain, mixed := t.TempDir(), t.TempDir()
	if err := run("", 0, plain); err != nil {
		t.Fatal(err)
	}
	if err := run("two", share, mixed); err != nil {
		t.Fatal(err)
	}
	a, b := metricsOf(t, plain)[0], metricsOf(t, mixed)[0]
	if a.Weights != b.Weights || a.Answers == b.Answers {
		t.Errorf("losses of the first step: on weights %v and %v, expected the same; on answers %v and %v, expected others", a.Weights, b.Weights, a.Answers, b.Answers)
	}

	adapter, _, err := collect.Last(filepath.Join(dir, "two"))
	if err != nil {
		t.Fatal(err)
	}
	layout := must[*lora.Layout](t)(lora.NewLayout(adapter.Base, tiling))
	n, h, w := layout.Shape()
	joint := make([]float32, n*h*w)
	if err := layout.Encode(adapter, lora.Float32, joint); err != nil {
		t.Fatal(err)
	}
	spread, mean := fitted(plain)
	scale, offset := fitted(mixed)
	near := func(what string, i int, got, want float32) {
		if !math.IsNaN(float64(want)) && math.Abs(float64(got-want)) > 1e-6*(1+math.Abs(float64(want))) {
			t.Fatalf("%s %d is %v, expected %v", what, i, got, want)
		}
	}
	if len(scale) != n || len(offset) != n*h*w {
		t.Fatalf("%d scales and %d offsets, expected %d and %d", len(scale), len(offset), n, n*h*w)
	}
	for i := range scale {
		near("scale", i, scale[i], (1-share)*spread[i])
	}
	for i := range offset {
		near("offset", i, offset[i], share*joint[i]+(1-share)*mean[i])
	}

	for _, bad := range []struct {
		joint string
		share float64
		out   string
		want  string
	}{
		{"one", share, mixed, "another configuration (joint is"},
		{"two", 2 * share, mixed, "another configuration (joint_share is"},
		{"", 0, mixed, "another configuration (joint_share is"},
		{"", share, t.TempDir(), "joint LoRA is there: false"},
		{"two", 0, t.TempDir(), "joint LoRA is there: true"},
		{"two", 1, t.TempDir(), "joint_share is 1"},
		{"three", share, t.TempDir(), "three"},
	} {
		if err := run(bad.joint, bad.share, bad.out); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("joint LoRA %q, share %v: %v, want %q in it", bad.joint, bad.share, err, bad.want)
		}
	}
	c = config(false)
	if err := run("two", share, t.TempDir()); err == nil || !strings.Contains(err.Error(), "not affine") {
		t.Errorf("a decoder without a tensor for it: %v", err)
	}
}

// What no checkpoint changes, as a frozen lora_A, has to be the joint LoRA's, too. A run that
// is refused for it does not stand in the next one's way.
func TestJointOfAnotherA(t *testing.T) {
	dir := collected(t)
	same := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "one", "checkpoints", "000001.safetensors")))
	if err := os.WriteFile(filepath.Join(dir, "one", "checkpoints", "000002.safetensors"), same, 0o644); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Rename(filepath.Join(dir, "two"), other); err != nil {
		t.Fatal(err)
	}
	data := must[*fit.Data](t)(fit.OpenData(dir, nil, "", tiling))
	out, c := t.TempDir(), config(true)
	c.JointShare = 0.5
	res := fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}
	for _, x := range []struct{ joint, want string }{{other, "seed of their lora_A"}, {filepath.Join(dir, "one"), ""}} {
		if err := data.SetJoint(x.joint); err != nil {
			t.Fatal(err)
		}
		_, err := fit.Run(t.Context(), c, data, res, out, nil)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, want %q", x.joint, err, x.want)
		}
	}
}

// With a linear start, which is made of the encoded prompts, that is said before they are encoded.
func TestJointOfAnotherAWithLinearStart(t *testing.T) {
	dir := collectedSets(t, "one", "two", "three")
	// One and two are the same, and the last checkpoint of three is another.
	for from, to := range map[string][]string{"one": {"one/checkpoints/000002", "two/checkpoints/000001", "two/checkpoints/000002"}, "three": {"three/checkpoints/000002"}} {
		same := must[[]byte](t)(os.ReadFile(filepath.Join(dir, from, "checkpoints", "000001.safetensors")))
		for _, name := range to {
			if err := os.WriteFile(filepath.Join(dir, name+".safetensors"), same, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	data := must[*fit.Data](t)(fit.OpenData(dir, []string{"one", "two"}, "", tiling))
	if err := data.SetJoint(filepath.Join(dir, "three")); err != nil {
		t.Fatal(err)
	}
	c := config(true)
	linearStart(&c)
	c.JointShare = 0.5
	_, err := fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, t.TempDir(), func(p fit.Progress) { t.Errorf("not refused at once: %+v", p) })
	if err == nil || !strings.Contains(err.Error(), "seed of their lora_A") {
		t.Errorf("a joint LoRA of another lora_A: %v", err)
	}
}
