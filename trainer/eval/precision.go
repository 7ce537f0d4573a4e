package eval

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// WeightTypes are the storage types whose cost Precision knows.
var WeightTypes = []string{"f32", "f16", "q8", "q4"}

// PrecisionRow is what storing the decoder's matrices and kernels as a type costs.
type PrecisionRow struct {
	Weights string `json:"weights"`
	// WeightError and OutputError are root mean squares relative to what is stored: of the
	// weights, and of what the decoder adds to output.offset, its mean weight tokens.
	WeightError float64 `json:"weight_error"`
	OutputError float64 `json:"output_error"`
	// Tasks are the scores of the adapters that come out, in the order of the data sets.
	Tasks []lm.Score `json:"tasks,omitempty"`
}

// Precision generates an adapter for each data set with the decoder's weights rounded to
// each type, and scores it on at most count of the records (0: all); m is nil for no scores.
func Precision(ctx context.Context, m *lm.Model, p *generator.Package, encoder generator.Runner, r *infer.Runner, sets []*collect.DataSet, types []string, seed int64, count int) ([]PrecisionRow, error) {
	var examples [][]lm.Example
	var conditions [][]float32
	for _, s := range sets {
		t := Task{Records: s.Records}
		condition, _, err := encode(ctx, p, encoder, t.prompts(), seed, 0)
		if err != nil {
			return nil, fmt.Errorf("eval: %s: %w", s.Name, err)
		}
		conditions = append(conditions, condition)
		if m == nil {
			continue
		}
		records := s.Records
		if count > 0 {
			records = records[:min(count, len(records))]
		}
		list, _, err := collect.Examples(m, records, maxTokens)
		if err != nil {
			return nil, fmt.Errorf("eval: %s: %w", s.Name, err)
		}
		examples = append(examples, list)
	}
	c := p.Manifest.Decoder
	offset, err := offsetOf(c, p.Weights())
	if err != nil {
		return nil, err
	}
	exact := make([][]float32, len(sets))
	for i := range sets {
		if exact[i], err = r.Decode(ctx, c, p.Weights(), conditions[i], 1, nil); err != nil {
			return nil, err
		}
	}
	var rows []PrecisionRow
	for _, name := range types {
		w := newRounded(c, p.Weights(), name)
		row := PrecisionRow{Weights: name}
		var off, all float64
		for i := range sets {
			tokens, err := r.Decode(ctx, c, w, conditions[i], 1, nil)
			if err != nil {
				return nil, err
			}
			for k, v := range tokens {
				d, a := float64(v-exact[i][k]), float64(exact[i][k]-offset[k])
				off, all = off+d*d, all+a*a
			}
			if m == nil {
				continue
			}
			var a *lora.Adapter
			if a, err = generator.Finish(&p.Manifest, tokens, nil); err != nil {
				return nil, err
			}
			score, err := m.Evaluate(ctx, examples[i], a)
			if err != nil {
				return nil, err
			}
			row.Tasks = append(row.Tasks, score)
		}
		row.OutputError, row.WeightError = math.Sqrt(off/all), math.Sqrt(w.off/w.all)
		rows = append(rows, row)
	}
	return rows, nil
}

// offsetOf is the decoder's output.offset, zeros without one.
func offsetOf(c decoder.Config, w graph.Weights) ([]float32, error) {
	o := c.Output()
	values := make([]float32, o[0]*o[1]*o[2])
	if !c.Affine {
		return values, nil
	}
	raw := make([]byte, 4*len(values))
	if err := w.ReadWeights(decoder.Prefix+"output.offset", "F32", 0, raw); err != nil {
		return nil, err
	}
	return values, safetensors.DecodeFloats(safetensors.F32, raw, values)
}

// rounded are weights as if they had been stored in another type.
type rounded struct {
	inner    graph.Weights
	sizes    map[string]int64 // values of each tensor that is rounded
	round    func(block []float32) error
	mu       sync.Mutex
	off, all float64 // sums of squares of errors and of values, where they were read
}

// newRounded rounds what packages store in that type: matrices and kernels.
func newRounded(c decoder.Config, w graph.Weights, name string) *rounded {
	r := &rounded{inner: w, sizes: map[string]int64{}, round: func([]float32) error { return nil }}
	for _, t := range c.Tensors() {
		if strings.HasSuffix(t.Name, ".weight") && !strings.HasSuffix(t.Name, "norm.weight") {
			n := int64(1)
			for _, d := range t.Shape {
				n *= int64(d)
			}
			r.sizes[decoder.Prefix+t.Name] = n
		}
	}
	raw := make([]byte, quant.Values*4)
	switch d := generator.Storages[name]; d {
	case generator.F16:
		r.round = func(block []float32) error {
			half := raw[:2*len(block)]
			if err := safetensors.EncodeFloats(safetensors.F16, block, half); err != nil {
				return err
			}
			return safetensors.DecodeFloats(safetensors.F16, half, block)
		}
	case generator.Q8, generator.Q4:
		r.round = func(block []float32) error {
			codes := raw[:quant.BlockBytes(d)]
			if err := quant.Encode(d, block, codes); err != nil {
				return err
			}
			return quant.Decode(d, codes, block)
		}
	}
	return r
}

// ReadWeights implements graph.Weights.
func (r *rounded) ReadWeights(name, dtype string, off int64, p []byte) error {
	size := r.sizes[name]
	if size == 0 || dtype != string(safetensors.F32) {
		return r.inner.ReadWeights(name, dtype, off, p)
	}
	first, count := off/4, int64(len(p))/4
	from := first / quant.Values * quant.Values
	to := min((first+count+quant.Values-1)/quant.Values*quant.Values, size)
	raw := make([]byte, 4*(to-from))
	if err := r.inner.ReadWeights(name, dtype, 4*from, raw); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var block [quant.Values]float32
	for at := from; at < to; at += quant.Values {
		b := block[:min(quant.Values, to-at)]
		bytes := raw[4*(at-from) : 4*(at-from)+4*int64(len(b))]
		if err := safetensors.DecodeFloats(safetensors.F32, bytes, b); err != nil {
			return err
		}
		exact := block
		if err := r.round(b); err != nil {
			return fmt.Errorf("tensor %s: %w", name, err)
		}
		for i, v := range b {
			d, a := float64(v-exact[i]), float64(exact[i])
			r.off, r.all = r.off+d*d, r.all+a*a
			binary.LittleEndian.PutUint32(bytes[4*i:], math.Float32bits(v))
		}
	}
	copy(p, raw[4*(first-from):])
	return nil
}
