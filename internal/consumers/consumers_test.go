package consumers_test

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/merge"
	"github.com/drag-and-drop-lora/dnd/internal/consumers"
	"github.com/drag-and-drop-lora/dnd/trainer/dequant"
)

func need(t *testing.T) {
	t.Helper()
	if err := consumers.Missing(); err != nil {
		t.Skip(err)
	}
}

var prompts = [][]int32{{1, 2, 3, 40, 50, 60, 70, 80}, {7, 8}, {200, 100, 3, 100, 200, 17}}

// random is an adapter of all seven modules of all layers of a base.
func random(spec *lora.Spec, rank int, alpha float64, seed uint64) *lora.Adapter {
	rng := rand.New(rand.NewPCG(seed, 0))
	a := &lora.Adapter{Base: lora.Base{Model: "test/" + spec.Type, Rank: rank, Alpha: alpha}}
	q, kv := spec.Heads*spec.HeadDim, spec.KVHeads*spec.HeadDim
	for l := range spec.Layers {
		for _, m := range []struct {
			name    string
			in, out int
		}{{"self_attn.q_proj", spec.Hidden, q}, {"self_attn.k_proj", spec.Hidden, kv}, {"self_attn.v_proj", spec.Hidden, kv}, {"self_attn.o_proj", q, spec.Hidden},
			{"mlp.up_proj", spec.Hidden, spec.MLP}, {"mlp.gate_proj", spec.Hidden, spec.MLP}, {"mlp.down_proj", spec.MLP, spec.Hidden}} {
			a.Base.Targets = append(a.Base.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", l, m.name), In: m.in, Out: m.out})
			a.Pairs = append(a.Pairs, lora.Pair{A: normal(rng, rank*m.in), B: normal(rng, m.out*rank)})
		}
	}
	return a
}

func normal(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(0.1 * rng.NormFloat64())
	}
	return v
}

// fixture is a small model with an adapter, in every format.
type fixture struct {
	dir     string
	adapter *lora.Adapter
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func newFixture(t *testing.T, arch string) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir()}
	must(t, consumers.Model(t.Context(), arch, f.dir))
	spec, err := lora.ReadSpec(f.path("hf"))
	must(t, err)
	if spec.Architecture != arch {
		t.Fatalf("%+v", spec)
	}
	f.adapter = random(spec, 4, 8, 1)
	must(t, spec.Fit(&f.adapter.Base))
	f.write(t, lora.PEFT, f.adapter)
	// Each from the one before, so that both ways are tested.
	from := lora.PEFT
	for _, format := range []string{lora.GGUF, lora.MLX} {
		a, err := lora.Read(f.path(from), spec)
		must(t, err)
		f.write(t, format, a)
		from = format
	}
	a, err := lora.Read(f.path(lora.MLX), spec)
	must(t, err)
	f.writeTo(t, "peft-again", lora.PEFT, a)
	return f
}

func (f *fixture) write(t *testing.T, format string, a *lora.Adapter) {
	t.Helper()
	f.writeTo(t, format, format, a)
}

func (f *fixture) writeTo(t *testing.T, name, format string, a *lora.Adapter) {
	t.Helper()
	must(t, lora.Write(f.path(name), a, lora.Options{Format: format}))
}

// merge merges the adapter into the GGUF base or, for "hf", into the folder.
func (f *fixture) merge(t *testing.T, base, kind, out string) *merge.Report {
	t.Helper()
	if base == "hf" {
		r, err := merge.Folder(t.Context(), f.path(base), f.adapter, f.path(out), nil)
		must(t, err)
		return r
	}
	file, err := gguf.Open(f.path(base))
	must(t, err)
	defer file.Close()
	values, err := dequant.Open(file)
	must(t, err)
	defer values.Close()
	r, err := merge.GGUF(t.Context(), file, values, f.adapter, kind, f.path(out), nil)
	must(t, err)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var printTable = flag.Bool("table", false, "print what TestLogits measures as the table of docs/consumers.md")

// families are the architectures that TestLogits measures.
var families = []string{"llama", "qwen2", "granite", "gemma2"}

// Every consumer computes the same from the base and the adapter: this is the table of
// docs/consumers.md.
func TestLogits(t *testing.T) {
	need(t)
	measured := map[string][]string{} // by row, then family
	var order []string
	for i, arch := range families {
		t.Run(arch, func(t *testing.T) {
			testLogits(t, arch, func(what string, difference float64) {
				if measured[what] == nil {
					order = append(order, what)
					measured[what] = slices.Repeat([]string{"–"}, len(families))
				}
				measured[what][i] = fmt.Sprintf("%.2g", difference)
			})
		})
	}
	if !*printTable {
		return
	}
	fmt.Printf("| consumer, what it loads | %s |\n|---|%s\n", strings.Join(families, " | "), strings.Repeat("---|", len(families)))
	for _, what := range order {
		fmt.Printf("| %s | %s |\n", what, strings.Join(measured[what], " | "))
	}
}

func testLogits(t *testing.T, arch string, report func(what string, difference float64)) {
	f := newFixture(t, arch)
	// What dnd can run itself, and whose rows quantised types fit.
	whole := arch == "llama" || arch == "qwen2"
	lost := map[string]float64{}
	for _, c := range []struct{ base, kind, out string }{
		{"hf", "", "merged"}, {"base.gguf", "", "merged-f32"}, {"base.gguf", "f16", "merged-f16"}, {"base.gguf", "q8_0", "merged-q8_0"}, {"base.gguf", "q4_1", "merged-q4_1"},
	} {
		if !whole && c.kind != "" {
			continue
		}
		lost[c.out] = f.merge(t, c.base, c.kind, c.out).Lost
	}
	gguf := func(name string) string { return filepath.Join(f.path(name), merge.GGUFName) }
	peft, mlx, llama, hf := consumers.PEFT, consumers.MLX, consumers.LlamaCPP, consumers.Transformers
	type row struct {
		what      string
		job       consumers.Job
		tolerance float64
	}
	const float = 1e-4
	inLlama := float
	if arch == "gemma2" {
		inLlama = 0.02 // llama.cpp's GELU is a table of half floats
	}
	rows := []row{
		{"transformers + PEFT, adapter in PEFT format", consumers.Job{Program: peft, Model: f.path("hf"), Adapter: f.path("peft")}, 0},
		{"transformers, no adapter", consumers.Job{Program: hf, Model: f.path("hf")}, math.Inf(1)},
		{"transformers + PEFT, PEFT > GGUF > MLX > PEFT", consumers.Job{Program: peft, Model: f.path("hf"), Adapter: f.path("peft-again")}, float},
		{"transformers, merged folder", consumers.Job{Program: hf, Model: f.path("merged")}, float},
		{"mlx-lm, adapter in MLX format", consumers.Job{Program: mlx, Model: f.path("hf"), Adapter: f.path("mlx")}, float},
		{"mlx-lm, merged folder", consumers.Job{Program: mlx, Model: f.path("merged")}, float},
		{"llama.cpp, adapter in GGUF format", consumers.Job{Program: llama, Model: f.path("base.gguf"), Adapter: f.path("gguf/adapter.gguf")}, inLlama},
		{"llama.cpp, merged GGUF, F32", consumers.Job{Program: llama, Model: gguf("merged-f32")}, inLlama},
	}
	if whole {
		rows = append(rows, []row{
			{"llama.cpp, merged GGUF, F16", consumers.Job{Program: llama, Model: gguf("merged-f16")}, 0.02},
			{"llama.cpp, merged GGUF, Q8_0", consumers.Job{Program: llama, Model: gguf("merged-q8_0")}, 0.3},
			{"llama.cpp, merged GGUF, Q4_1", consumers.Job{Program: llama, Model: gguf("merged-q4_1")}, 5},
		}...)
	}
	jobs := make([]consumers.Job, len(rows))
	for i := range rows {
		jobs[i] = rows[i].job
		jobs[i].Prompts = prompts
	}
	results, err := consumers.Logits(t.Context(), jobs...)
	must(t, err)
	reference := results[0]
	adapter, err := lora.Read(f.path("gguf"), nil)
	must(t, err)
	for _, o := range []struct {
		what, path string
		a          *lora.Adapter
	}{{"dnd (`trainer/lm`), GGUF base and GGUF adapter", "base.gguf", adapter}, {"dnd (`trainer/lm`), folder and PEFT adapter", "hf", f.adapter}} {
		if !whole {
			continue
		}
		r, err := consumers.Own(f.path(o.path), o.a, prompts)
		must(t, err)
		rows, results = append(rows, row{what: o.what, tolerance: float}), append(results, r)
	}
	change := consumers.Farthest(results[1], reference)
	if change < 1 {
		t.Errorf("the adapter changes logits by %g only: nothing is tested", change)
	}
	for i, r := range rows {
		d := consumers.Farthest(results[i], reference)
		t.Logf("%-48s %9.2g", r.what, d)
		report(r.what, d)
		if !(d <= r.tolerance) {
			t.Errorf("%s: differs by %g", r.what, d)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(lost)) {
		t.Logf("%-48s %9.2g of the adapter lost", name, lost[name])
	}
}

// What adapters are made of several, and scaled ones, are what their consumers compute.
func TestCombined(t *testing.T) {
	need(t)
	f := newFixture(t, "llama")
	spec, err := lora.ReadSpec(f.path("hf"))
	must(t, err)
	other := random(spec, 2, 6, 9)
	must(t, spec.Fit(&other.Base))
	both, err := combine.Concat(combine.Term{Adapter: f.adapter, Weight: 0.75}, combine.Term{Adapter: other, Weight: -0.5})
	must(t, err)
	ranked, loss, err := combine.Rerank(t.Context(), both, 6)
	must(t, err)
	f.writeTo(t, "both", lora.PEFT, both)
	f.writeTo(t, "ranked", lora.GGUF, ranked)
	// The reference: both, one after the other, merged into the base.
	scaled, err := combine.Scale(f.adapter, 0.75)
	must(t, err)
	minus, err := combine.Scale(other, -0.5)
	must(t, err)
	_, err = merge.Folder(t.Context(), f.path("hf"), scaled, f.path("one"), nil)
	must(t, err)
	_, err = merge.Folder(t.Context(), f.path("one"), minus, f.path("two"), nil)
	must(t, err)
	results, err := consumers.Logits(t.Context(),
		consumers.Job{Program: consumers.Transformers, Model: f.path("two"), Prompts: prompts},
		consumers.Job{Program: consumers.PEFT, Model: f.path("hf"), Adapter: f.path("both"), Prompts: prompts},
		consumers.Job{Program: consumers.LlamaCPP, Model: f.path("base.gguf"), Adapter: f.path("ranked/adapter.gguf"), Prompts: prompts})
	must(t, err)
	for i, r := range results[1:] {
		if d := consumers.Farthest(results[0], r); !(d < 1e-4) {
			t.Errorf("result %d differs by %g; re-rank lost %g", i+1, d, loss.Total)
		}
	}
}

// Adapters whose modules differ in rank and scale, as PEFT writes them, compute the same
// when they have become plain ones.
func TestUnlikeModules(t *testing.T) {
	need(t)
	f := &fixture{dir: t.TempDir()}
	must(t, consumers.Model(t.Context(), "llama", f.dir))
	spec, err := lora.ReadSpec(f.path("hf"))
	must(t, err)
	all := []string{"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"}
	var jobs []consumers.Job
	for name, settings := range map[string]map[string]any{
		"stabilised": {"r": 3, "lora_alpha": 5, "target_modules": all, "use_rslora": true},
		"patterns": {"r": 4, "lora_alpha": 8, "target_modules": all, "use_rslora": true,
			"rank_pattern": map[string]int{"q_proj": 8, "layers.1.mlp.down_proj": 2, ".*\\.0\\..*v_proj": 1}, "alpha_pattern": map[string]int{"k_proj": 32, "mlp.*": 3}},
		"some": {"r": 2, "lora_alpha": 3, "target_modules": all, "exclude_modules": []string{"k_proj"}, "layers_to_transform": []int{0, 2},
			"alpha_pattern": map[string]int{"^model.layers.2.self_attn.o_proj": 9}, "fan_in_fan_out": true},
	} {
		must(t, consumers.Adapter(t.Context(), f.path("hf"), f.path(name), settings))
		a, err := lora.Read(f.path(name), spec)
		must(t, err)
		f.writeTo(t, name+"-peft", lora.PEFT, a)
		f.writeTo(t, name+"-gguf", lora.GGUF, a)
		jobs = append(jobs, consumers.Job{Program: consumers.PEFT, Model: f.path("hf"), Adapter: f.path(name), Prompts: prompts},
			consumers.Job{Program: consumers.PEFT, Model: f.path("hf"), Adapter: f.path(name + "-peft"), Prompts: prompts},
			consumers.Job{Program: consumers.LlamaCPP, Model: f.path("base.gguf"), Adapter: filepath.Join(f.path(name+"-gguf"), lora.GGUFName), Prompts: prompts})
	}
	results, err := consumers.Logits(t.Context(), append(jobs, consumers.Job{Program: consumers.Transformers, Model: f.path("hf"), Prompts: prompts})...)
	must(t, err)
	base := results[len(jobs)]
	for i := 0; i < len(jobs); i += 3 {
		if change := consumers.Farthest(results[i], base); change < 0.1 {
			t.Errorf("%s changes logits by %g only: nothing is tested", jobs[i].Adapter, change)
		}
		for k := 1; k < 3; k++ {
			d := consumers.Farthest(results[i], results[i+k])
			t.Logf("%-12s in %-10s %9.2g", filepath.Base(jobs[i].Adapter), jobs[i+k].Program, d)
			if !(d < 1e-4) {
				t.Errorf("%s differs by %g in %s", jobs[i].Adapter, d, jobs[i+k].Program)
			}
		}
	}
}

// versions are named with the measurements.
func TestVersions(t *testing.T) {
	need(t)
	v, err := consumers.Versions(t.Context())
	must(t, err)
	for _, name := range []string{"transformers", "peft", "gguf", "mlx-lm", "xllamacpp"} {
		if v[name] == "" {
			t.Errorf("no version of %s", name)
		}
	}
	t.Log(strings.Trim(fmt.Sprint(v), "map[]"))
}
