package fit_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// linearStart lets two data sets of three prompts each start as a regression.
func linearStart(c *fit.Config) {
	inBasis(c)
	c.Texts, c.LinearStart, c.ConditionNoise, c.TargetNoise = 3, true, 0, 0
	c.Decoder.KernelSize, c.Decoder.Features = 1, [][3]int{{3, c.Length, 6}, {1, 1, 1}}
}

// A linear start makes, of all prompts of a data set, the mean of its checkpoints.
func TestLinearStartIsRegression(t *testing.T) {
	from, e, b := collected(t), tinyEncoder(t), cpu(t)
	data := must[*fit.Data](t)(fit.OpenData(from, nil, "", tiling))
	c := config(true)
	linearStart(&c)
	c.Steps, c.WarmUp, c.LearningRate = 1, 0, 1e-12
	dir := t.TempDir()
	result := must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: e, Backend: b}, dir, nil))
	again := must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: e, Backend: b}, dir, nil))
	if !slices.Equal(result.Spreads, []float32{1}) || !slices.Equal(again.Spreads, result.Spreads) {
		t.Errorf("the conditions of two data sets spread %v, and read again %v; expected one direction", result.Spreads, again.Spreads)
	}
	fitted, weights := fittedOf(t, dir), conformance.Tensors{}
	for name, v := range fitted {
		weights[decoder.Prefix+name] = v
	}
	runner := infer.New(b)
	defer runner.Close()
	tokenizer, err := e.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range data.Sets {
		in, err := tokenizer.Encode(s.Prompts, c.Length)
		if err != nil {
			t.Fatal(err)
		}
		condition := must[[]float32](t)(runner.Encode(t.Context(), e.Manifest.Encoder.Config, e.Weights(), in.IDs, in.Mask, in.Texts, in.Length, c.Pads, nil))
		got := must[[]float32](t)(runner.Decode(t.Context(), c.Decoder, weights, condition, 1, nil))
		want := meanTokens(t, from, data, &s)
		off, size := 0.0, 0.0
		for k, v := range want {
			if v == v {
				off += math.Pow(float64(got[k])-v, 2)
				size += math.Pow(float64(fitted["output.offset"][k])-v, 2)
			}
		}
		if r := math.Sqrt(off / size); !(r < 1e-3) {
			t.Errorf("data set %s: generated from all its prompts, it is %.2g of its way from the mean off", s.Name, r)
		}
	}
}

// By the loss on answers a basis with a rate of its own is fitted though the network hardly is:
// not before that loss sets in, the same on two devices, and resumed to the same bits.
func TestBasisFollowsAnswers(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	e := tinyEncoder(t)
	run := func(ctx context.Context, c fit.Config, b backend.Backend, devices int, dir string, report func(fit.Progress)) error {
		_, err := fit.Run(ctx, c, data, fit.Resources{Encoder: e, Backend: b, Task: task(t, b), Devices: devices}, dir, report)
		return err
	}
	c := config(true)
	linearStart(&c)
	c.Steps, c.Batch, c.LearningRate, c.BasisRate, c.Average = 20, 4, 1e-9, 0.05, 0.5
	c.SetLoss(fit.LossTask)
	dir := t.TempDir()
	if err := run(t.Context(), c, cpu(t), 1, dir, nil); err != nil {
		t.Fatal(err)
	}
	list := answersLosses(t, dir)
	if first, last := list[0], list[len(list)-1]; !(last < 0.75*first) {
		t.Errorf("the loss on answers went from %v to %v, expected less than three quarters", first, last)
	}

	start, half, end := fittedShare(t, dir, 1e-9), fittedShare(t, dir, 0.5), fittedOf(t, dir)
	for name := range end {
		for k, v := range half[name] {
			if want := (start[name][k] + end[name][k]) / 2; !(math.Abs(float64(v-want)) <= 1e-6*(1+math.Abs(float64(want)))) {
				t.Fatalf("half of the change: %s is %v at %d, between %v and %v", name, v, k, start[name][k], end[name][k])
			}
		}
	}

	c.SetLoss(fit.LossBoth)
	c.Steps, c.Task.From, c.SaveEvery = 3, 2, 1
	basisOf := func(steps int) []float32 {
		c, dir := c, t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := run(ctx, c, cpu(t), 1, dir, func(p fit.Progress) {
			if p.Stage == "fit" && p.Done == steps {
				cancel()
			}
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return fittedOf(t, dir)["output.basis.weight"]
	}
	moved := func(a, b []float32) float64 {
		d := 0.0
		for i := range a {
			d = max(d, math.Abs(float64(a[i]-b[i])))
		}
		return d
	}
	if d := moved(basisOf(1), basisOf(2)); d != 0 {
		t.Errorf("the basis moved by %v before the loss on answers", d)
	}
	if d := moved(basisOf(1), basisOf(3)); d == 0 {
		t.Error("the basis did not move by the loss on answers")
	}

	c.Epsilon = 1e-3
	dirs := map[string][]float32{}
	for name, way := range map[string]struct {
		b                   backend.Backend
		devices, accumulate int
	}{"one": {cpu(t), 1, 1}, "two": {pjrt(t), 2, 2}} {
		c, dir := c, t.TempDir()
		c.Accumulate = way.accumulate
		if err := run(t.Context(), c, way.b, way.devices, dir, nil); err != nil {
			t.Fatal(err)
		}
		dirs[name] = fittedOf(t, dir)["output.basis.weight"]
	}
	if d := moved(dirs["one"], dirs["two"]) / moved(dirs["one"], basisOf(1)); !(d < 1e-3) {
		t.Errorf("in two parts on two devices of XLA the basis is off by %.2g of its change", d)
	}

	c.Steps, c.SaveEvery = 6, 2
	whole, parts := t.TempDir(), t.TempDir()
	b := cpu(t)
	if err := run(t.Context(), c, b, 1, whole, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := run(ctx, c, b, 1, parts, func(p fit.Progress) {
		if p.Stage == "fit" && p.Done == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := run(t.Context(), c, b, 1, parts, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(checkpoint(t, whole), checkpoint(t, parts)) {
		t.Error("the resumed run's checkpoint differs from the whole one's")
	}
}

// What is left of a prediction when a point's own value is taken out by its leverage is the
// regression of the other points.
func TestLeverage(t *testing.T) {
	c := config(true)
	linearStart(&c)
	rng := rand.New(rand.NewPCG(3, 3))
	encoded := make([][][]float32, 5)
	values := make([]float64, len(encoded))
	for i := range encoded {
		values[i] = rng.NormFloat64()
		for range 3 {
			var condition []float32
			for range c.Length * 6 {
				condition = append(condition, float32(rng.NormFloat64()))
			}
			encoded[i] = append(encoded[i], condition)
		}
	}
	z, leverage, err := fit.Regress(&c, encoded)
	if err != nil {
		t.Fatal(err)
	}
	// line is the least-squares line's value at x, of all points but one.
	line := func(x float64, without int) float64 {
		var n, sz, sv, szz, szv float64
		for i, v := range values {
			if i != without {
				n, sz, sv, szz, szv = n+1, sz+z[i][0], sv+v, szz+z[i][0]*z[i][0], szv+z[i][0]*v
			}
		}
		slope := (n*szv - sz*sv) / (n*szz - sz*sz)
		return (sv-slope*sz)/n + slope*x
	}
	for i, v := range values {
		h := float64(leverage[i])
		if got, want := (line(z[i][0], -1)-h*v)/(1-h), line(z[i][0], i); math.Abs(got-want) > 1e-4 {
			t.Errorf("point %d: %v without its own value, the other points say %v", i, got, want)
		}
	}
}

// With a strength, a data set's own value counts as much in what is predicted for it as in a ridge
// regression of that strength from what the decoder's block makes of the prompts.
func TestLinearStrength(t *testing.T) {
	c := config(true)
	linearStart(&c)
	c.Decoder.Features[1][2] = 2
	rng := rand.New(rand.NewPCG(5, 5))
	encoded, features := make([][][]float32, 3), make([][]float64, 3)
	for i := range encoded {
		features[i] = make([]float64, 6)
		for range 3 {
			condition := make([]float32, c.Length*6)
			mean, square := 0.0, 0.0
			for k := range condition {
				condition[k] = float32(rng.NormFloat64())
				mean += float64(condition[k]) / float64(len(condition))
				square += float64(condition[k]) * float64(condition[k]) / float64(len(condition))
			}
			for k, v := range condition {
				features[i][k%6] += (float64(v) - mean) / math.Sqrt(square-mean*mean+decoder.Eps)
			}
			encoded[i] = append(encoded[i], condition)
		}
	}
	for _, strength := range []float64{0, 0.1, 10} {
		c.LinearStrength = strength
		_, leverage, err := fit.Regress(&c, encoded)
		if err != nil {
			t.Fatal(err)
		}
		ridge, err := linear.NewRidge(features, max(strength, 1e-9))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range features {
			if want := ridge.Shares(f)[i]; math.Abs(float64(leverage[i])-want) > 1e-4 {
				t.Errorf("strength %v, data set %d: its own value counts %v, in a ridge regression %v", strength, i, leverage[i], want)
			}
		}
	}
}

// Left out, a data set's answers are worse before the fit, and get better by it.
func TestLeaveOut(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collectedSets(t, "one", "two", "three"), nil, "", tiling))
	e := tinyEncoder(t)
	c := config(true)
	linearStart(&c)
	c.Steps, c.Batch, c.LearningRate, c.BasisRate, c.LeaveOut, c.Epsilon = 20, 4, 1e-9, 0.2, true, 1e-3
	c.SetLoss(fit.LossTask)
	run := func(c fit.Config, b backend.Backend, devices int) []float64 {
		t.Helper()
		dir := t.TempDir()
		must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: e, Backend: b, Task: task(t, b), Devices: devices}, dir, nil))
		return answersLosses(t, dir)
	}
	out := run(c, cpu(t), 1)
	// Each of three is to follow from two others in one direction: there is not much to gain.
	if first, last := out[0], out[len(out)-1]; !(last < 0.9*first) {
		t.Errorf("left out, the loss on answers went from %v to %v, expected less than nine tenths", first, last)
	}
	c.Steps = 2
	in := c
	in.LeaveOut = false
	if a, b := run(c, cpu(t), 1)[0], run(in, cpu(t), 1)[0]; a == b {
		t.Errorf("left out or not, the loss on answers is %v", a)
	}
	one := run(c, cpu(t), 1)
	noisy := c
	noisy.BasisNoise = 0.5
	if loud := run(noisy, cpu(t), 1); loud[0] != one[0] || loud[1] == one[1] {
		t.Errorf("the loss on answers is %v, and %v with noise on what changed in the basis: expected only the first equal", one, loud)
	}
	c.Accumulate = 2
	for i, loss := range run(c, pjrt(t), 2) {
		if math.Abs(loss-one[i]) > 1e-4*one[i] {
			t.Errorf("step %d in two parts on two devices of XLA: loss %v, at once %v", i+1, loss, one[i])
		}
	}

	few := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	dir := filepath.Join(t.TempDir(), "run")
	b := cpu(t)
	_, err := fit.Run(t.Context(), c, few, fit.Resources{Encoder: e, Backend: b, Task: task(t, b)}, dir, nil)
	if err == nil || !strings.Contains(err.Error(), "data set one in 1 directions hangs on its own checkpoints alone") {
		t.Errorf("two data sets left out in turns: %v", err)
	}
}

// A run that an older version began with data sets left out goes on with neither way of it.
func TestLeaveOutOfAnOlderRun(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collectedSets(t, "one", "two", "three"), nil, "", tiling))
	e, b, dir := tinyEncoder(t), cpu(t), t.TempDir()
	c := config(true)
	linearStart(&c)
	c.Steps, c.SaveEvery, c.BasisRate, c.LeaveOut = 3, 1, 0.1, true
	c.SetLoss(fit.LossTask)
	run := func(ctx context.Context, report func(fit.Progress)) error {
		_, err := fit.Run(ctx, c, data, fit.Resources{Encoder: e, Backend: b, Task: task(t, b)}, dir, report)
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := run(ctx, func(p fit.Progress) {
		if p.Stage == "fit" {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "standard.safetensors")
	f := must[*safetensors.File](t)(safetensors.Open(path))
	var old []safetensors.Tensor
	for _, info := range f.Tensors {
		if info.Name != "start.coordinates" {
			old = append(old, safetensors.FromFloat32s(info.Name, safetensors.F32, must[[]float32](t)(f.Float32s(info.Name)), info.Shape...))
		}
	}
	f.Close()
	if err := safetensors.WriteFile(path, old, nil); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), func(p fit.Progress) { t.Errorf("not refused at once: %+v", p) }); err == nil || !strings.Contains(err.Error(), "begun by an older version") {
		t.Errorf("resumed: %v", err)
	}
}

func TestLinearStartIsChecked(t *testing.T) {
	for want, change := range map[string]func(*fit.Config){
		"one layer of kernel size 1":               func(c *fit.Config) { c.Decoder.KernelSize = 3 },
		"no basis of weight tokens":                func(c *fit.Config) { *c = config(true); c.SetLoss(fit.LossTask); c.BasisRate = 0.1 },
		"basis_learning_rate is 0.1, but the loss": func(c *fit.Config) { c.BasisRate = 0.1 },
		"leave_out without":                        func(c *fit.Config) { c.LeaveOut = true },
		"linear_strength is -1":                    func(c *fit.Config) { c.LinearStrength = -1 },
		"linear_strength is 1 without":             func(c *fit.Config) { c.LinearStart, c.LinearStrength = false, 1 },
		"basis_noise is -1":                        func(c *fit.Config) { c.BasisNoise = -1 },
		"basis_noise is 1, but without":            func(c *fit.Config) { c.BasisNoise = 1 },
		"basis_learning_rate is 11":                func(c *fit.Config) { c.BasisRate = 11 },
	} {
		c := config(true)
		linearStart(&c)
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The mean of runs from different seeds is that of their tensors; others have none.
func TestMeanOfRuns(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collectedSets(t, "one", "two", "three"), nil, "", tiling))
	e, b := tinyEncoder(t), cpu(t)
	run := func(change func(*fit.Config)) string {
		t.Helper()
		c, dir := config(true), t.TempDir()
		linearStart(&c)
		c.Steps, c.SaveEvery, c.BasisRate, c.Batch = 3, 3, 0.1, 2
		c.SetLoss(fit.LossTask)
		change(&c)
		r := fit.Resources{Encoder: e, Backend: b}
		if c.Loss != fit.LossWeights {
			r.Task = task(t, b)
		}
		if _, err := fit.Run(t.Context(), c, data, r, dir, nil); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	seed := func(n int64) func(*fit.Config) { return func(c *fit.Config) { c.Seed = n } }
	one, two := run(seed(1)), run(seed(2))
	a, m, z := fittedShare(t, one, 0.5), fittedMean(t, 0.5, one, two), fittedShare(t, two, 0.5)
	moved := 0
	for name := range m {
		for k, v := range m[name] {
			if want := (a[name][k] + z[name][k]) / 2; !(math.Abs(float64(v-want)) <= 1e-6*(1+math.Abs(float64(want)))) {
				t.Fatalf("%s %d is %v, want %v", name, k, v, want)
			}
			if a[name][k] != z[name][k] {
				moved++
			}
		}
	}
	if moved == 0 {
		t.Error("two seeds came to the same weights")
	}
	plain := func(n int64) func(*fit.Config) {
		return func(c *fit.Config) { *c = config(true); c.Steps, c.SaveEvery, c.Seed = 2, 2, n }
	}
	for want, dirs := range map[string][]string{
		"as another run":           {one, two, one},
		"other weights each":       {run(plain(1)), run(plain(2))},
		"(batch is 4, there it is": {one, run(func(c *fit.Config) { c.Batch, c.Seed = 4, 3 })},
		"run.json":                 {one, t.TempDir()},
	} {
		if _, _, _, err := fit.Fitted(1, dirs...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
