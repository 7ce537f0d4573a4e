package fit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// TextEncoder is the frozen text encoder that conditions are made with.
type TextEncoder struct {
	Config    encoder.Config
	Tokenizer *text.Tokenizer
	Weights   *safetensors.File
}

// OpenEncoder opens a text encoder in Hugging Face layout.
func OpenEncoder(dir string) (*TextEncoder, error) {
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config, err := encoder.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	tokenizer, err := generator.ReadTokenizer(dir)
	if err != nil {
		return nil, err
	}
	weights, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return nil, err
	}
	return &TextEncoder{Config: config, Tokenizer: tokenizer, Weights: weights}, nil
}

// encodeGroup is how many texts are encoded at a time.
const encodeGroup = 16

// conditions encodes the first texts of each data set, one row (L,C) a prompt, and sums up
// where the data sets lie. The
// reference's dropout in the frozen encoder is not reproduced (RATIONALE.md).
func conditions(ctx context.Context, c *Config, d *Data, e *TextEncoder, b backend.Backend, report func(done, total int)) (all [][][]float32, coverage *generator.Coverage, err error) {
	params := []any{nil, nil}
	list := e.Config.Tensors()
	for _, t := range list {
		v, err := e.Weights.Shaped(t.Name, t.Shape...)
		if err != nil {
			return nil, nil, fmt.Errorf("fit: text encoder: %w", err)
		}
		params = append(params, tensors.FromFlatDataAndDimensions(v, t.Shape...))
	}
	exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
		p := model.Params{}
		for i, t := range list {
			p[t.Name] = in[i+2]
		}
		return model.Encode(e.Config, p, in[0], in[1], c.Pads)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("fit: build the text encoder: %w", err)
	}
	defer exec.Finalize()
	total, done := 0, 0
	for i := range d.Sets {
		total += pool(c, &d.Sets[i])
	}
	all = make([][][]float32, len(d.Sets))
	var names []string
	var centers [][]float32
	for i := range d.Sets {
		var pooled generator.Pool
		prompts := d.Sets[i].Prompts[:pool(c, &d.Sets[i])]
		for at := 0; at < len(prompts); at += encodeGroup {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			group := prompts[at:min(at+encodeGroup, len(prompts))]
			// A last, shorter group is filled up: every shape is compiled once.
			full := append(append([]string{}, group...), make([]string, encodeGroup-len(group))...)
			in, err := e.Tokenizer.Encode(full, c.Length)
			if err != nil {
				return nil, nil, err
			}
			params[0], params[1] = words(in.IDs, encodeGroup, c.Length), words(in.Mask, encodeGroup, c.Length)
			out, err := exec.Call(params...)
			if err != nil {
				return nil, nil, fmt.Errorf("fit: encode prompts of %s: %w", d.Sets[i].Name, err)
			}
			flat, err := tensors.CopyFlatData[float32](out[0])
			if err != nil {
				return nil, nil, err
			}
			free(out)
			size := c.Length * e.Config.HiddenSize
			for j := range group {
				row := flat[j*size : (j+1)*size : (j+1)*size]
				all[i] = append(all[i], row)
				pooled.Add(row, in.Mask[j*c.Length:(j+1)*c.Length])
			}
			done += len(group)
			if report != nil {
				report(done, total)
			}
		}
		names = append(names, d.Sets[i].Name)
		centers = append(centers, pooled.Vector())
	}
	coverage, err = generator.NewCoverage(names, centers)
	return all, coverage, err
}

func pool(c *Config, s *DataSet) int {
	if c.Prompts == 0 {
		return len(s.Prompts)
	}
	return min(c.Prompts, len(s.Prompts))
}

func words(v []uint32, dims ...int) *tensors.Tensor {
	out := make([]int32, len(v))
	for i := range v {
		out[i] = int32(v[i])
	}
	return tensors.FromFlatDataAndDimensions(out, dims...)
}
