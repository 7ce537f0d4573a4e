package conformance

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// The decoders whose every layer the official modules gave, with the smallest binding
// that holds eight output channels' weights.
var goldenDecoders = []struct {
	name    string
	binding int64
}{
	{"fullcond_k5", 8 << 10},
	{"superlarge_k11", 32 << 10},
	{"fullcond_k9", 24 << 10},
	{"fullcond_k4_even", 4 << 10},
	{"mini_qwen_k3", 4 << 10},
}

func decoderCases() ([]Case, error) {
	var cases []Case
	for _, d := range goldenDecoders {
		for _, v := range []struct {
			binding int64
			ending  ending
			method  graph.Method
		}{{0, plain, ""}, {d.binding, plain, graph.Direct}, {d.binding, affine, graph.Direct}, {d.binding, basis, graph.Direct}, {0, plain, graph.Fourier}} {
			c, err := decoderCase(d.name, v.binding, v.ending, v.method, nil)
			if err != nil {
				return nil, fmt.Errorf("decoder %s: %w", d.name, err)
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// readAll is every tensor of a safetensors file, with prefix before its name.
func readAll(path, prefix string) (Tensors, map[string][]int, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	tensors, shapes := Tensors{}, map[string][]int{}
	for _, info := range f.Tensors {
		if info.DType == "I64" {
			continue
		}
		values, err := f.Float32s(info.Name)
		if err != nil {
			return nil, nil, err
		}
		tensors[prefix+info.Name] = values
		for _, d := range info.Shape {
			shapes[info.Name] = append(shapes[info.Name], int(d))
		}
	}
	return tensors, shapes, nil
}

// ending is what follows a decoder's last layer.
type ending string

const (
	plain  ending = ""
	affine ending = "affine"
	basis  ending = "basis" // and affine
)

// decoderCase holds a decoder to a golden file; prepare is the Builder's.
func decoderCase(name string, binding int64, end ending, method graph.Method, prepare *graph.Preparation) (Case, error) {
	var config decoder.Config
	text, err := os.ReadFile(golden.Path("decoders", name, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		return Case{}, err
	}
	weights, shapes, err := readAll(golden.Path("decoders", name, "model.safetensors"), decoder.Prefix)
	if err != nil {
		return Case{}, err
	}
	for _, t := range config.Tensors() {
		if fmt.Sprint(shapes[t.Name]) != fmt.Sprint(t.Shape) {
			return Case{}, fmt.Errorf("tensor %s has shape %v, the file %v", t.Name, t.Shape, shapes[t.Name])
		}
	}
	io, ioShapes, err := readAll(golden.Path("decoders", name, "io.safetensors"), "")
	if err != nil {
		return Case{}, err
	}
	title := strings.TrimSpace(fmt.Sprintf("%s binding%d %s %s", name, binding, end, method))
	if end == basis {
		config.Tokens = [3]int{7, 4, 6}
		io["output"] = expand(config, io["output"], weights)
		if binding > 0 {
			binding = max(binding, int64(4*8*config.Rank())) // one tile of positions
		}
	}
	if end != plain {
		config.Affine = true
		io["output"] = finish(config, io["output"], weights)
	}
	limits := bound(binding)
	limits.Tuning = &graph.Tuning{All: graph.ConvWay{Method: method}}
	p, err := build(title, limits, func(b *graph.Builder) {
		b.Prepare = prepare
		condition := b.Input("condition", [4]int(ioShapes["condition"]))
		b.Read("output", decoder.Build(b, config, condition, decoder.Options{Intermediates: true}))
	})
	if err != nil {
		return Case{}, err
	}
	c := Case{Name: title, Program: p, Weights: weights, Inputs: []graph.Input{{Name: "condition", Data: Floats(io["condition"])}}}
	for _, r := range p.Reads {
		w := Want{Name: r.Name, Tolerance: 2e-5, Values: io[r.Name]}
		switch {
		case strings.HasSuffix(r.Name, ".height_first"):
			w.Map = math.Tanh
		case w.Values == nil && strings.HasSuffix(r.Name, ".linear2"):
			// The golden file has it only where a residual follows.
			w.Values = io[strings.TrimSuffix(r.Name, "linear2")+"out"]
		}
		if n := len(c.Want); n > 0 && c.Want[n-1].Name == r.Name {
			continue // another piece of the same result
		}
		if w.Values == nil {
			return Case{}, fmt.Errorf("the golden file has no %s", r.Name)
		}
		c.Want = append(c.Want, w)
	}
	return c, nil
}

// expand makes up a basis of weight tokens, and adds up those that it stands for.
func expand(c decoder.Config, coordinates []float32, weights Tensors) []float32 {
	out, rank := c.Output(), c.Rank()
	values := out[0] * out[1] * out[2]
	table := scaled(uniform(3, values*rank), float32(1/math.Sqrt(float64(rank))))
	weights[decoder.Prefix+decoder.BasisKey] = table
	var tokens []float32
	for ; len(coordinates) > 0; coordinates = coordinates[rank:] {
		for i := range values {
			sum := 0.0
			for j, x := range coordinates[:rank] {
				sum += float64(x) * float64(table[i*rank+j])
			}
			tokens = append(tokens, float32(sum))
		}
	}
	return tokens
}

// finish makes up the tensors of an affine output and applies them.
func finish(c decoder.Config, output []float32, weights Tensors) []float32 {
	out := c.Output()
	plane := out[1] * out[2]
	scale, offset := uniform(1, out[0]), uniform(2, out[0]*plane)
	weights[decoder.Prefix+"output.scale"], weights[decoder.Prefix+"output.offset"] = scale, offset
	y := make([]float32, len(output))
	for i, v := range output {
		y[i] = float32(float64(v)*float64(scale[i/plane%out[0]]) + float64(offset[i%len(offset)]))
	}
	return y
}
