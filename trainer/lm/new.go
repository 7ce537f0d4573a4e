package lm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// New makes a model with random weights and a head of its own, to be trained from
// nothing. It has no tokenizer: Examples are made by the caller.
func New(c Config, seed int64, b backend.Backend) (*Model, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("lm: %w", err)
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 0x1a))
	weights := map[string][]float32{}
	for _, w := range weightList(&c, false) {
		v := make([]float32, w.values())
		switch {
		case strings.HasSuffix(w.name, "norm.weight"):
			for i := range v {
				v[i] = 1
			}
		case len(w.shape) == 2:
			// Embeddings and head small; matrices keep the variance of their input.
			deviation := 0.05
			if strings.Contains(w.name, "_proj") {
				deviation = 1 / math.Sqrt(float64(w.shape[1]))
			}
			for i := range v {
				v[i] = float32(rng.NormFloat64() * deviation)
			}
		}
		weights[w.name] = v
	}
	return newModel(c, nil, weights, Options{}, b)
}

// Replace gives the model the weights that Tensors wrote of one of the same configuration.
// What was compiled stays.
func (m *Model) Replace(f *safetensors.File) error {
	if m.half {
		return errHalf
	}
	var weights []*tensors.Tensor
	for i, name := range m.names {
		v, err := f.Float32s(name)
		if err != nil {
			backend.Free(weights)
			return fmt.Errorf("lm: %w", err)
		}
		shape := m.weights[i].Shape()
		if len(v) != shape.Size() {
			backend.Free(weights)
			return fmt.Errorf("lm: tensor %s has %d values, expected shape %v", name, len(v), shape.Dimensions)
		}
		weights = append(weights, tensors.FromFlatDataAndDimensions(v, shape.Dimensions...))
	}
	backend.Free(m.weights)
	m.weights = weights
	return nil
}

// Tensors are the weights for a file, by their Hugging Face names.
func (m *Model) Tensors() ([]safetensors.Tensor, error) {
	if m.half {
		return nil, errHalf
	}
	var list []safetensors.Tensor
	for i, x := range m.weights {
		v, err := tensors.CopyFlatData[float32](x)
		if err != nil {
			return nil, fmt.Errorf("lm: tensor %s: %w", m.names[i], err)
		}
		list = append(list, safetensors.FromFloat32s(m.names[i], safetensors.F32, v, x.Shape().Dimensions...))
	}
	return list, nil
}

// Weights are the weights on the device, for a graph that calls Losses. They stay the
// model's.
func (m *Model) Weights() []*tensors.Tensor { return m.weights }

// Losses are the negative log-likelihoods of labels as nodes of a caller's graph, and the
// logits (answers, vocabulary). weights are those of Weights; a and b the LoRA of every
// target, in the order of Config.Base: A (rank,in) and B (out,rank), or (groups,…) where
// equal parts of the rows of ids have one each; nil for no LoRA. ids is (rows,length),
// positions and labels (rows,answers), as Batch makes them.
func (m *Model) Losses(weights, a, b []*graph.Node, scale float64, ids, positions, labels *graph.Node) (nll, logits *graph.Node) {
	return m.network(weights, a, b, scale).losses(ids, positions, labels, nil)
}
