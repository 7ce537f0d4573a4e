package experiment_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/experiment"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func save(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tasks are two contents in three formats, which a made-up base can be tuned on.
func tasks(t *testing.T, dir string) {
	t.Helper()
	contents := map[string]string{"a": "capital", "b": "colour"}
	formats := map[string][2]string{"x": {"x%s", "one"}, "y": {"(%s)", "two"}, "z": {"%s!", "three"}}
	for content, word := range contents {
		for format, how := range formats {
			pattern, number := how[0], how[1]
			for part, n := range map[string]int{"train": 6, "test": 4} {
				var records []map[string]string
				for i := range n {
					answer := []string{"1", "2"}[i%2]
					records = append(records, map[string]string{"prompt": fmt.Sprint(strings.Repeat(word+" ", 1+i%3), number, " ", part, i), "response": fmt.Sprintf(pattern, answer)})
				}
				save(t, filepath.Join(dir, "data", part, content+"-"+format+".json"), records)
			}
		}
	}
	save(t, filepath.Join(dir, "data", "grid.json"), map[string]any{"contents": []string{"a", "b"}, "formats": []string{"x", "y", "z"},
		"train": []string{"a-x", "a-y", "b-x", "b-z"}, "validation": []string{"a-z"}, "held_out": []string{"b-y"},
		"systems": map[string]string{"x": "An x, then the answer.", "y": "Round brackets.", "z": "The answer and an exclamation mark."}})
}

// plan writes a plan of tiny numbers beside the tasks.
func plan(t *testing.T, dir string, change func(map[string]any)) string {
	t.Helper()
	base := madeup.SmallBase("llama")
	base.Rank, base.Alpha = 2, 4
	tiling := lora.Tiling{Kind: lora.CustomCut, Height: 4, Width: 34, Chunk: 32}
	layout, err := lora.NewLayout(base, tiling)
	if err != nil {
		t.Fatal(err)
	}
	n, h, w := layout.Shape()
	save(t, filepath.Join(dir, "layout.json"), map[string]any{"class": "HyperConvDecoderModel_FullCond", "features": [][3]int{{2, 16, 384}, {4, 4, 12}, {n, h, w}},
		"kernel_size": 3, "affine": true, "tokenizer": "custom", "chunk": 32})
	tune := map[string]any{"rank": 2, "alpha": 4, "batch": 2, "steps": 2, "warm_up": 1, "late_steps": 2, "max_tokens": 200}
	p := map[string]any{"base_model": "made-up/small", "data": "data", "layout": "layout.json", "collect": tune, "joint": tune,
		"fit": map[string]any{"steps": 3, "batch": 2, "learning_rate": 1e-3, "save_every": 1, "pads": "zero",
			"loss": "both", "task": map[string]any{"from": 1, "weights_share": 0.1, "records": 1, "base_dtype": "f32"}},
		"eval": map[string]any{"records": 3, "cross_records": 2, "draws": 2, "shots": 1}, "seeds": []int{5},
		"splits": []map[string]any{{"name": "one", "validation": []string{"a-z"}, "held_out": []string{"b-y", "a-x"}, "seeds": []int{1, 2}}}}
	if change != nil {
		change(p)
	}
	path := filepath.Join(dir, "plan.json")
	save(t, path, p)
	return path
}

func resources(t *testing.T, p *experiment.Plan) experiment.Resources {
	t.Helper()
	dir := t.TempDir()
	path, encoder := filepath.Join(dir, "base.gguf"), filepath.Join(dir, "encoder")
	if err := madeup.WriteBase(path, madeup.BaseOptions{Base: madeup.SmallBase("llama"), Types: []gguf.TensorType{gguf.F32}, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	if err := madeup.WriteEncoder(encoder); err != nil {
		t.Fatal(err)
	}
	var r experiment.Resources
	var err error
	if r.Encoder, err = p.OpenEncoder(encoder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Encoder.Close() })
	if r.Backend, err = backend.Open(backend.CPU); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Backend.Finalize)
	m, err := lm.Load(path, r.Backend)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	m.Config.Model = "made-up/small"
	r.Models = []*lm.Model{m}
	r.Runner = runner{infer.New(r.Backend)}
	return r
}

type runner struct{ *infer.Runner }

func (runner) Name() string   { return backend.CPU }
func (runner) Device() string { return "here" }

func (r runner) Encode(ctx context.Context, p *generator.Package, b text.Batch, report func(graph.Progress)) ([]float32, error) {
	m := &p.Manifest
	return r.Runner.Encode(ctx, m.Encoder.Config, p.Weights(), b.IDs, b.Mask, b.Texts, b.Length, m.Condition.Pads, report)
}

func (r runner) Decode(ctx context.Context, p *generator.Package, condition []float32, batch int, report func(graph.Progress)) ([]float32, error) {
	return r.Runner.Decode(ctx, p.Manifest.Decoder, p.Weights(), condition, batch, report)
}

func (r runner) Close() error {
	r.Runner.Close()
	return nil
}

// An experiment that is stopped again and again comes to the same tables as one that is
// not, has every method in them, and made every adapter of another kind.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	p, err := experiment.Read(plan(t, dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	r, whole, stopped := resources(t, p), filepath.Join(dir, "whole"), filepath.Join(dir, "stopped")
	want, err := experiment.Run(t.Context(), p, r, whole, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := want.Splits[0].Seeds[0].Result
	if !slices.Equal(first.Methods, eval.Methods) {
		t.Errorf("methods %q, left out %v", first.Methods, first.Left)
	}
	if len(want.Splits[0].Train) != 3 || len(want.Splits[0].Seeds) != 2 || len(first.Tasks) != 2 || first.Tasks[0].Records != 3 {
		t.Errorf("result %+v", want)
	}
	seen := map[string]string{}
	for _, m := range eval.Methods {
		nll := fmt.Sprint(first.Tasks[0].Scores[m].NLL.Value)
		if other := seen[nll]; other != "" && m != eval.TrainBest && m != eval.Nearest {
			t.Errorf("%s and %s have the same likelihood %s", m, other, nll)
		}
		seen[nll] = m
	}

	stops := 0
	for ; ; stops++ {
		ctx, cancel := context.WithCancel(t.Context())
		reports := 0
		_, err := experiment.Run(ctx, p, r, stopped, func(experiment.Progress) {
			if reports++; reports == 8+12*stops {
				cancel()
			}
		})
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if stops == 40 {
			t.Fatal("it never ends")
		}
	}
	if stops < 4 {
		t.Errorf("stopped %d times only", stops)
	}
	for _, name := range []string{"result.json", "one/eval-1/result.json", "one/eval-2/result.md"} {
		a, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(stopped, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("%s differs from that of the experiment that was not stopped", name)
		}
	}

	// The tail that a kill leaves of a line is no cell.
	cells := filepath.Join(stopped, "one", "eval-1", "cells.jsonl")
	raw, err := os.ReadFile(cells)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cells, raw[:len(raw)-20], 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := experiment.Run(t.Context(), p, r, stopped, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := again.Splits[0].Seeds[0].Result.Average[eval.Own].NLL, first.Average[eval.Own].NLL; a != b {
		t.Errorf("after a torn line %+v, before %+v", a, b)
	}
	if mended, err := os.ReadFile(cells); err != nil || string(mended) != string(raw) {
		t.Errorf("the cells are not those of before, %v", err)
	}

	// A folder of another plan is refused, whatever is finished in it.
	other, err := experiment.Read(plan(t, dir, func(p map[string]any) { p["fit"].(map[string]any)["learning_rate"] = 2e-3 }))
	if err != nil {
		t.Fatal(err)
	}
	other.BasisShare = 0.5
	_, err = experiment.Run(t.Context(), other, r, whole, nil)
	for _, want := range []string{"fit-1 holds a run of another configuration (learning_rate is 0.002, there it is 0.001)", "fit-2 holds", "generator-1 it is 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("another plan: %v, want %q", err, want)
		}
	}

	// What seconds buy: generating beside tuning.
	in, err := experiment.Inputs(experiment.GridOf(p, 0), filepath.Join(dir, "data"), filepath.Join(whole, "collected"), "")
	if err != nil {
		t.Fatal(err)
	}
	in.Model, in.Runner = r.Models[0], r.Runner
	if in.Package, err = generator.Open(filepath.Join(whole, "one", "generator-1")); err != nil {
		t.Fatal(err)
	}
	defer in.Package.Close()
	cost, err := experiment.Cost(t.Context(), in, "b-y", p.Collect, lm.F32, p.Eval, "here")
	if err != nil || !(cost.Generate > 0) || !(cost.Tune > 0) || cost.Steps < 2 || cost.Steps > 4 || !(cost.Target.NLL > 0) {
		t.Errorf("cost %+v, %v", cost, err)
	}
	if _, err := experiment.Cost(t.Context(), in, "b-z", p.Collect, lm.F32, p.Eval, "here"); err == nil {
		t.Error("a cost of a task that was trained")
	}
	refused(t, p.Eval, *in)
	// One that has a method and a draw goes on with more of both, and a rival, and comes to the same.
	grown, with := filepath.Join(dir, "grown"), *in
	for draws, methods := range [][]string{{eval.Generated}, {eval.Base, eval.Joint, eval.Generated}} {
		c := p.Eval
		c.Methods, c.Draws = methods, draws+1
		x, err := eval.Run(t.Context(), c, with, grown, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range methods {
			if have, want := x.Average[m].NLL, first.Average[m].NLL; draws == 1 && have != want {
				t.Errorf("%s, with more methods and draws %+v, at once %+v", m, have, want)
			}
		}
		with.Joint = &eval.Trained{Name: "joint", Dir: filepath.Join(whole, "one", "joint", "joint")}
	}
	with.Joint.Dir = filepath.Join(whole, "collected", "a-y")
	if _, err := eval.Run(t.Context(), p.Eval, with, grown, nil); err == nil || !strings.Contains(err.Error(), "another configuration") {
		t.Errorf("another joint LoRA in the same folder: %v", err)
	}
	c := p.Eval
	c.Records = 2
	if _, err := eval.Run(t.Context(), c, *in, grown, nil); err == nil || !strings.Contains(err.Error(), "another configuration") {
		t.Errorf("other records in the same folder: %v", err)
	}
	// Adapters next to nothing are the base alone; the own-task LoRA stays as it is.
	c = p.Eval
	c.Methods, c.Scale = []string{eval.Base, eval.Average, eval.Generated, eval.Own}, 1e-9
	x, err := eval.Run(t.Context(), c, *in, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	nll := func(method string) float64 { return x.Average[method].NLL.Value }
	for _, method := range []string{eval.Average, eval.Generated} {
		if math.Abs(nll(method)-nll(eval.Base)) > 1e-4 {
			t.Errorf("%s, scaled to nothing: %v nats, the base has %v", method, nll(method), nll(eval.Base))
		}
	}
	if math.Abs(nll(eval.Own)-nll(eval.Base)) < 1e-4 {
		t.Errorf("the own-task LoRA was scaled, too: %v nats, as the base", nll(eval.Own))
	}
	c.Scale = math.NaN()
	if _, err := eval.Run(t.Context(), c, *in, "", nil); err == nil || !strings.Contains(err.Error(), "scale") {
		t.Errorf("a scale of NaN: %v", err)
	}
}

// refused gives inputs that are wrong in several ways.
func refused(t *testing.T, c eval.Config, in eval.Inputs) {
	t.Helper()
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(in.Own[0].Dir)); err != nil {
		t.Fatal(err)
	}
	last := filepath.Join(broken, "checkpoints", "000002.safetensors")
	raw, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[len(raw)-4:], []byte{0, 0, 0xc0, 0x7f}) // the last value is NaN
	if err := os.WriteFile(last, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	in.Training = append(slices.Clone(in.Training), eval.Trained{Name: "b-y", Dir: t.TempDir()})
	in.Joint = &eval.Trained{Name: "joint", Dir: broken}
	in.Tasks = append(slices.Clone(in.Tasks), eval.Task{Name: "empty"})
	c.Draws = 0
	out := filepath.Join(t.TempDir(), "out")
	_, err = eval.Run(t.Context(), c, in, out, nil)
	for _, want := range []string{"draws: 0", "b-y is scored, but the generator was fitted on it", "LoRA of b-y", "no checkpoint", "LoRA of joint", "NaN", "empty: no record"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("output was left behind")
	}
}

// All that is wrong with a plan is said at once.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	path := plan(t, dir, func(p map[string]any) {
		p["seeds"] = []int{}
		p["joint"].(map[string]any)["batch"] = 0
		p["fit"].(map[string]any)["task"].(map[string]any)["base_dtype"] = "bf16"
		p["splits"] = []map[string]any{
			{"name": "one", "validation": []string{"a-z"}, "held_out": []string{"a-z", "c-x"}},
			{"name": "one", "held_out": []string{}},
			{"name": "collected", "held_out": []string{"a-x"}, "without_contents": []string{"a", "b"}, "scales": []float64{0}},
		}
	})
	_, err := experiment.Read(path)
	for _, want := range []string{path, "0 seeds", "batch is 0", "base_dtype", "c-x is not in the grid", "a-z is held out and for validation", `split "one"`, `split "collected"`, "0 training", "scale 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
}

// A key that nothing knows would leave a default in its place.
func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	for name, change := range map[string]func(map[string]any){
		"basis_shar":   func(p map[string]any) { p["basis_shar"] = 0.5 },
		"learningrate": func(p map[string]any) { p["fit"].(map[string]any)["learningrate"] = 1 },
		"draw":         func(p map[string]any) { p["eval"].(map[string]any)["draw"] = 1 },
	} {
		if _, err := experiment.Read(plan(t, dir, change)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want the key %s in it", err, name)
		}
	}
	path := plan(t, dir, nil)
	raw, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(raw, "{}"...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := experiment.Read(path); err == nil || !strings.Contains(err.Error(), "something follows") {
		t.Errorf("two plans in a file: %v", err)
	}
}

// basis lets the layout beside a plan have one layer and a basis of so many directions.
func basis(t *testing.T, dir string, directions int) {
	t.Helper()
	path, layout := filepath.Join(dir, "layout.json"), map[string]any{}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &layout)
	}
	if err != nil {
		t.Fatal(err)
	}
	features := layout["features"].([]any)
	if layout["tokens"] == nil {
		layout["tokens"] = features[2]
	}
	layout["features"], layout["kernel_size"] = []any{features[0], []int{1, 1, directions}}, 1
	save(t, path, layout)
}

// A basis has fewer directions than a split has training tasks.
func TestReadBasis(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	path := plan(t, dir, nil)
	for directions, want := range map[int]string{2: "", 3: "split one: the decoder's basis has 3 directions, but 3 data sets differ in 2"} {
		basis(t, dir, directions)
		if _, err := experiment.Read(path); (err == nil) != (want == "") || want != "" && !strings.Contains(err.Error(), want) {
			t.Errorf("%d directions: %v, want %q", directions, err, want)
		}
	}
}

// What stays of a basis' change is a share, of a change that is made; the packages say it.
func TestBasisShare(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	path := plan(t, dir, func(p map[string]any) { p["basis_share"] = 0.5 })
	if _, err := experiment.Read(path); err == nil || !strings.Contains(err.Error(), "basis_share 0.5, but without basis_learning_rate") {
		t.Errorf("half of the change of a basis that there is not: %v", err)
	}
	path = plan(t, dir, func(p map[string]any) {
		p["basis_share"] = 0.5
		p["fit"] = map[string]any{"steps": 2, "batch": 2, "pads": "zero", "linear_start": true, "basis_learning_rate": 0.01,
			"loss": "task", "task": map[string]any{"records": 1, "base_dtype": "f32"}}
		p["eval"].(map[string]any)["methods"] = []string{eval.Generated}
		p["splits"] = []map[string]any{{"name": "one", "validation": []string{"a-z"}, "held_out": []string{"b-y"}}}
	})
	basis(t, dir, 2)
	p, err := experiment.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	r, out := resources(t, p), filepath.Join(dir, "out")
	for range 2 { // the second finds all of it there
		if _, err := experiment.Run(t.Context(), p, r, out, nil); err != nil {
			t.Fatal(err)
		}
	}
	made, err := generator.Open(filepath.Join(out, "one", "generator-5"))
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if got := made.Manifest.Provenance.BasisShare; got != 0.5 {
		t.Errorf("the package says a share of %v, want 0.5", got)
	}
}

// Splits that leave no content out are summed up together, with what methods all of them have.
func TestPooled(t *testing.T) {
	dir := t.TempDir()
	tasks(t, dir)
	p, err := experiment.Read(plan(t, dir, func(p map[string]any) {
		p["eval"].(map[string]any)["methods"] = []string{eval.Base, eval.Foreign, eval.Generated}
		p["splits"] = []map[string]any{
			{"name": "one", "validation": []string{"a-z"}, "held_out": []string{"b-y", "a-x"}, "seeds": []int{1, 2}},
			{"name": "two", "validation": []string{"a-z"}, "held_out": []string{"b-x"}},
			{"name": "without", "validation": []string{"a-z"}, "held_out": []string{"b-x", "b-y"}, "without_contents": []string{"b"}, "scales": []float64{0.5, 1e-9}},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	r, err := experiment.Run(t.Context(), p, resources(t, p), out, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The second split has one task alone, and no prompts that are foreign to it.
	if r.Pooled == nil || r.Pooled.Tasks != 3 || !slices.Equal(r.Pooled.Methods, []string{eval.Base, eval.Generated}) {
		t.Fatalf("pooled %+v", r.Pooled)
	}
	mean := func(method string) (exact, nll float64) {
		for _, split := range r.Splits[:2] {
			for _, task := range split.Seeds[0].Result.Tasks {
				exact += task.Scores[method].Exact.Value / 3
				nll += task.Scores[method].NLL.Value / 3
			}
		}
		return exact, nll
	}
	close := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	exact, nll := mean(eval.Generated)
	baseExact, baseNLL := mean(eval.Base)
	g, b := r.Pooled.Scores[eval.Generated], r.Pooled.Scores[eval.Base]
	if !close(g.Exact.Value, exact) || !close(g.NLL.Value, nll) || g.LeadExact != nil {
		t.Errorf("generated %+v, want %v and %v", g, exact, nll)
	}
	if !close(b.LeadExact.Value, exact-baseExact) || !close(b.LeadNLL.Value, baseNLL-nll) || b.NLL.Low > b.NLL.Value || b.NLL.High < b.NLL.Value {
		t.Errorf("base %+v, want leads of %v and %v", b, exact-baseExact, baseNLL-nll)
	}
	// Weaker adapters are nearer to the base, which itself is not scored again.
	weaker := r.Splits[2].Seeds[0].Scaled
	if len(weaker) != 2 || weaker[0].Config.Scale != 0.5 || !slices.Equal(weaker[1].Methods, []string{eval.Foreign, eval.Generated}) {
		t.Fatalf("scaled %+v", weaker)
	}
	without := r.Splits[2].Seeds[0].Result.Average
	away := func(s eval.Score) float64 { return math.Abs(s.NLL.Value - without[eval.Base].NLL.Value) }
	if half, none := away(weaker[0].Average[eval.Generated]), away(weaker[1].Average[eval.Generated]); !(none < half && half < away(without[eval.Generated])) {
		t.Errorf("%v nats from the base at full strength, %v at half and %v at next to none", away(without[eval.Generated]), half, none)
	}
	raw, err := os.ReadFile(filepath.Join(out, "result.md"))
	if err != nil || !strings.Contains(string(raw), "### without, adapters at 0.5 of their strength") || !strings.Contains(string(raw), "The 3 held-out tasks") || !strings.Contains(string(raw), fmt.Sprintf("| base | %.3f [", baseExact)) {
		t.Errorf("result.md: %v\n%s", err, raw)
	}
}

// The plans that come with the project are plans, and keep each content and format of what is
// held out in training, but for the splits that leave contents out.
func TestTierM(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	for _, name := range []string{"tier-m.json", "tier-m-short.json"} {
		t.Run(name, func(t *testing.T) { planKeepsAttributes(t, filepath.Join(models, name)) })
	}
	// Its data are made of models/data, and have the same grid.
	t.Run("tier-m-inputs.json", func(t *testing.T) {
		dir := t.TempDir()
		for to, from := range map[string]string{"models/tier-m-inputs.json": "tier-m-inputs.json", "models/layout-linear.json": "layout-linear.json", "build/data-inputs/grid.json": "data/grid.json"} {
			raw, err := os.ReadFile(filepath.Join(models, from))
			if err != nil {
				t.Fatal(err)
			}
			to = filepath.Join(dir, to)
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, raw, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		planKeepsAttributes(t, filepath.Join(dir, "models", "tier-m-inputs.json"))
	})
}

func planKeepsAttributes(t *testing.T, path string) {
	p, err := experiment.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	for i, s := range p.Splits {
		train := experiment.GridOf(p, i).Train
		for _, task := range slices.Concat(s.HeldOut, s.Validation) {
			if len(s.Without) == 0 {
				held[task] = true
			}
			content, format, _ := strings.Cut(task, "-")
			contents, formats := 0, 0
			for _, other := range train {
				if strings.HasPrefix(other, content+"-") {
					contents++
				}
				if strings.HasSuffix(other, "-"+format) {
					formats++
				}
			}
			if without := slices.Contains(s.Without, content); without && contents > 0 || !without && contents < 2 || formats < 2 {
				t.Errorf("split %s: %s: its content is trained %d times, its format %d times", s.Name, task, contents, formats)
			}
		}
	}
	if seeds := max(len(p.Seeds), len(p.Splits[0].Seeds)); len(held) < 24 || seeds < 3 {
		t.Errorf("%d combinations are held out over the splits, %d seeds", len(held), seeds)
	}
}
