package decoder_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

var update = flag.Bool("update", false, "rewrite the expected texts")

func compareText(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run with -update to write it", err)
	}
	if got != string(want) {
		t.Errorf("the text differs from %s: look at the difference after a run with -update\n%s", path, got)
	}
}

func config(t testing.TB, name string) decoder.Config {
	t.Helper()
	var c decoder.Config
	text, err := os.ReadFile(golden.Path("decoders", name, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func plan(t testing.TB, c decoder.Config, batch int, o decoder.Options) *graph.Program {
	t.Helper()
	b := graph.NewBuilder(graph.DefaultLimits())
	s := c.Condition()
	b.Read("output", decoder.Build(b, c, b.Input("condition", [4]int{batch, s[0], s[1], s[2]}), o))
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The shipped configurations (reference section b.4) and an ablation with tensors larger
// than a binding.
var shipped = []struct {
	name   string
	batch  int
	config decoder.Config
}{
	{"0.5B", 1, decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{
		{128, 384, 384}, {128, 200, 300}, {128, 100, 256}, {256, 50, 200}, {512, 50, 200}, {1024, 25, 200}, {1024, 10, 200}, {2048, 10, 200}, {4296, 10, 130}}}},
	{"0.5B ten draws", 10, decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{
		{128, 384, 384}, {128, 200, 300}, {128, 100, 256}, {256, 50, 200}, {512, 50, 200}, {1024, 25, 200}, {1024, 10, 200}, {2048, 10, 200}, {4296, 10, 130}}}},
	{"0.5B 512 texts", 1, decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{
		{512, 384, 384}, {512, 200, 300}, {128, 100, 256}, {256, 50, 200}, {512, 50, 200}, {1024, 25, 200}, {1024, 10, 200}, {2048, 10, 200}, {4296, 10, 130}}}},
	{"1.5B coding", 1, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 26624, ModifiedLength: 1000, Features: [][3]int{
		{16, 1000, 384}, {64, 500, 300}, {256, 125, 300}, {512, 64, 300}, {1024, 64, 256}, {2048, 32, 256}, {4508, 18, 258}}}},
	{"1.5B math", 1, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 4608, ModifiedLength: 1000, Features: [][3]int{
		{32, 1000, 384}, {64, 500, 300}, {256, 500, 300}, {512, 125, 300}, {1024, 64, 256}, {2048, 32, 256}, {4508, 18, 258}}}},
	{"7B coding", 1, decoder.Config{Class: decoder.SuperLarge, KernelSize: 11, MaxLength: 26624, ModifiedLength: 1000, Features: [][3]int{
		{16, 1000, 384}, {64, 500, 384}, {256, 125, 400}, {512, 64, 400}, {1024, 64, 400}, {2048, 32, 400}, {4928, 18, 514}}}},
	{"3B-VL", 1, decoder.Config{Class: decoder.FullCond, KernelSize: 11, Features: [][3]int{
		{16, 1536, 384}, {64, 500, 300}, {256, 125, 300}, {1024, 64, 300}, {2048, 16, 256}, {7308, 18, 258}}}},
}

// Every shipped configuration is planned within WebGPU's default limits; the summary
// shows what a change of the planner does to them.
func TestShipped(t *testing.T) {
	var s strings.Builder
	for _, c := range shipped {
		parameters := int64(0)
		for _, tensor := range c.config.Tensors() {
			n := int64(1)
			for _, d := range tensor.Shape {
				n *= int64(d)
			}
			parameters += n
		}
		p := plan(t, c.config, c.batch, decoder.Options{DType: "F16"})
		var cost, largest int64
		for _, d := range p.Dispatches {
			cost += d.Cost
			largest = max(largest, d.Cost)
		}
		fmt.Fprintf(&s, "%s: %d parameters, %d dispatches, %d buffers, %d kernels, cost %d, largest dispatch %d, largest binding %d, memory %d MiB\n",
			c.name, parameters, len(p.Dispatches), len(p.Buffers), len(p.Kernels), cost, largest, p.Requires.MaxStorageBufferBindingSize, peak(p)>>20)
	}
	compareText(t, "shipped.txt", s.String())
}

// peak is the most bytes alive at a time when buffers live from first to last use.
func peak(p *graph.Program) int64 {
	first, last := map[int]int{}, map[int]int{}
	for i, d := range p.Dispatches {
		for _, bind := range d.Binds {
			if _, ok := first[bind.Buffer]; !ok {
				first[bind.Buffer] = i
			}
			last[bind.Buffer] = i
		}
	}
	for _, r := range p.Reads {
		last[r.Buffer] = len(p.Dispatches)
	}
	change := make([]int64, len(p.Dispatches)+2)
	for buffer, i := range first {
		change[i] += p.Buffers[buffer].Bytes
		change[last[buffer]+1] -= p.Buffers[buffer].Bytes
	}
	var alive, most int64
	for _, c := range change {
		alive += c
		most = max(most, alive)
	}
	return most
}

func TestProgramText(t *testing.T) {
	compareText(t, "superlarge_k11.txt", plan(t, config(t, "superlarge_k11"), 2, decoder.Options{}).String())
	affine := config(t, "fullcond_k4_even")
	affine.Affine = true
	compareText(t, "fullcond_k4_even.txt", plan(t, affine, 1, decoder.Options{DType: "F16"}).String())
}

// Names, shapes and order are those of checkpoints written by the official code.
func TestTensors(t *testing.T) {
	for pth, name := range map[string]string{"qwen0.5lora__golden1000": "fullcond_k5", "qwen1.5lora__golden500": "superlarge_k11"} {
		var listed struct {
			Keys []string `json:"keys_in_order"`
		}
		text, err := os.ReadFile(golden.Path("pth", pth+".pth.json"))
		if err == nil {
			err = json.Unmarshal(text, &listed)
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Open(golden.Path("decoders", name, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var keys []string
		for _, tensor := range config(t, name).Tensors() {
			keys = append(keys, tensor.Name)
			if info, _ := f.Lookup(tensor.Name); fmt.Sprint(info.Shape) != fmt.Sprint(tensor.Shape) {
				t.Errorf("%s: %s has shape %v, the checkpoint %v", name, tensor.Name, tensor.Shape, info.Shape)
			}
		}
		// criterion_weight comes first and is training's own.
		if want := listed.Keys[1:]; fmt.Sprint(keys) != fmt.Sprint(want) {
			t.Errorf("%s: keys\n%v, want\n%v", name, keys, want)
		}
	}
}

// The basis comes between the layers' tensors and those of Affine.
func TestBasis(t *testing.T) {
	c := config(t, "fullcond_k4_even")
	layers, cost := len(c.Tensors()), c.MACs(2)
	rank := c.Output()[0] * c.Output()[1] * c.Output()[2]
	c.Affine, c.Tokens = true, [3]int{7, 4, 6}
	if c.Rank() != rank || c.Output() != c.Tokens || c.MACs(2) != cost+2*int64(rank)*7*4*6 {
		t.Errorf("rank %d, output %v, %d multiply-accumulates; want %d, %v, %d", c.Rank(), c.Output(), c.MACs(2), rank, c.Tokens, cost+2*int64(rank)*7*4*6)
	}
	got := fmt.Sprint(c.Tensors()[layers:])
	if want := fmt.Sprintf("[{output.basis.weight [168 %d]} {output.scale [7]} {output.offset [7 4 6]}]", rank); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		want  string
		spoil func(*decoder.Config)
	}{
		{"class", func(c *decoder.Config) { c.Class = "HyperConvDecoderModel" }},
		{"1 features, expected 2", func(c *decoder.Config) { c.Features = c.Features[:1] }},
		{"kernel size 0", func(c *decoder.Config) { c.KernelSize = 0 }},
		{"kernel size 64", func(c *decoder.Config) { c.KernelSize = 64 }},
		{"features 1: shape [0 5 6]", func(c *decoder.Config) { c.Features[1][0] = 0 }},
		{"features 1: shape [4 -5 6]", func(c *decoder.Config) { c.Features[1][1] = -5 }},
		{"too large", func(c *decoder.Config) { c.Features[1] = [3]int{1 << 40, 1 << 40, 1 << 40} }},
		{"tensor model.decoder.module_list.0.linear2.weight", func(c *decoder.Config) { c.Features[1][0] = 1 << 31 }},
		{"modified_length 0", func(c *decoder.Config) { c.ModifiedLength = 0 }},
		{"max_length -1", func(c *decoder.Config) { c.MaxLength = -1 }},
		{"weight tokens of shape [7 0 6]", func(c *decoder.Config) { c.Tokens = [3]int{7, 0, 6} }},
		{"tensor output.basis.weight", func(c *decoder.Config) { c.Tokens = [3]int{1 << 12, 1 << 12, 1 << 11} }},
		{"they must agree", func(c *decoder.Config) { c.ModifiedLength = 9 }},
	} {
		d := config(t, "superlarge_k11")
		c.spoil(&d)
		err := d.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
			continue
		}
		// Build gives the same error.
		b := graph.NewBuilder(graph.DefaultLimits())
		decoder.Build(b, d, b.Input("condition", [4]int{1, 1, 1, 1}), decoder.Options{})
		if b.Err() == nil || b.Err().Error() != err.Error() {
			t.Errorf("Build: %v, want %v", b.Err(), err)
		}
	}
	b := graph.NewBuilder(graph.DefaultLimits())
	decoder.Build(b, config(t, "superlarge_k11"), b.Input("condition", [4]int{2, 3, 8, 6}), decoder.Options{})
	if b.Err() == nil || !strings.Contains(b.Err().Error(), "expected (batch, 3, 20, 6)") {
		t.Errorf("condition of another shape: %v", b.Err())
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, c := range shipped[:1] {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				plan(b, c.config, c.batch, decoder.Options{})
			}
		})
	}
}
