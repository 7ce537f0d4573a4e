package model_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
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

// minilm is a file of the encoder that `make deps` fetches.
func minilm(name string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "build", "deps", "minilm", name)
}

type cases struct {
	Texts []string `json:"texts"`
	Cases []struct {
		Name      string `json:"name"`
		MaxLength int    `json:"max_length"`
		Rows      []struct {
			Text      int      `json:"text"`
			Positions []int    `json:"positions"`
			IDs       []uint32 `json:"ids"`
		} `json:"rows"`
	} `json:"cases"`
}

func TestEncoderGoldens(t *testing.T) {
	raw, err := os.ReadFile(minilm("config.json"))
	if err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	cfg, err := encoder.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	weights, err := safetensors.Open(minilm("model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer weights.Close()
	vocab, err := os.ReadFile(minilm("tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := text.FromJSON(vocab)
	if err != nil {
		t.Fatal(err)
	}
	var info cases
	readJSON(t, golden.Path("minilm", "info.json"), &info)
	hidden := open(t, "minilm", "hidden.safetensors")

	each(t, func(t *testing.T, b backend.Backend) {
		params := []any{nil, nil}
		for _, tensor := range cfg.Tensors() {
			params = append(params, load(t, weights, tensor.Name))
		}
		exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
			p := model.Params{}
			for i, tensor := range cfg.Tensors() {
				p[tensor.Name] = in[i+2]
			}
			return model.Encode(cfg, p, in[0], in[1], generator.PadsEncoded)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range info.Cases {
			batch, err := tok.Encode(info.Texts, c.MaxLength)
			if err != nil {
				t.Fatal(err)
			}
			words := func(v []uint32) *tensors.Tensor {
				out := make([]int32, len(v))
				for i := range v {
					out[i] = int32(v[i])
				}
				return tensors.FromFlatDataAndDimensions(out, batch.Texts, batch.Length)
			}
			params[0], params[1] = words(batch.IDs), words(batch.Mask)
			results, err := exec.Call(params...)
			if err != nil {
				t.Fatal(err)
			}
			got := tensors.MustCopyFlatData[float32](results[0])
			worst := 0.0
			for _, row := range c.Rows {
				want, err := hidden.Float32s(c.Name + "." + string(rune('0'+row.Text)))
				if err != nil {
					t.Fatal(err)
				}
				for i, position := range row.Positions {
					at := (row.Text*batch.Length + position) * cfg.HiddenSize
					for j := range cfg.HiddenSize {
						diff := math.Abs(float64(got[at+j] - want[i*cfg.HiddenSize+j]))
						if !(diff <= 2e-4) {
							t.Fatalf("%s, text %d, position %d: %v, want %v", c.Name, row.Text, position, got[at+j], want[i*cfg.HiddenSize+j])
						}
						worst = max(worst, diff)
					}
				}
			}
			t.Logf("%s: largest difference %.1e", c.Name, worst)
		}
	})
}
