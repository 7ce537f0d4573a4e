package consumers

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Own is what this project's own model (package lm) makes of prompts with an adapter of
// all its modules, as Logits gives it.
func Own(path string, a *lora.Adapter, prompts [][]int32) ([][]float64, error) {
	b, err := backend.Open(backend.Auto)
	if err != nil {
		return nil, err
	}
	defer b.Finalize()
	m, err := lm.Load(path, b)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if n := len(m.Config.Base(1, 1).Targets); n != len(a.Base.Targets) {
		return nil, fmt.Errorf("consumers: the adapter has %d modules, expected all %d", len(a.Base.Targets), n)
	}
	longest := 0
	for _, p := range prompts {
		longest = max(longest, len(p))
	}
	// Padding behind a prompt changes nothing before it.
	ids, last := make([]int32, len(prompts)*longest), make([]int32, len(prompts))
	for i, p := range prompts {
		copy(ids[i*longest:], p)
		last[i] = int32(len(p) - 1)
	}
	args := []any{tensors.FromFlatDataAndDimensions(ids, len(prompts), longest), tensors.FromFlatDataAndDimensions(last, len(prompts), 1),
		tensors.FromFlatDataAndDimensions(make([]int32, len(prompts)), len(prompts), 1)}
	for _, w := range m.Weights() {
		args = append(args, w)
	}
	for i, t := range a.Base.Targets {
		args = append(args, tensors.FromFlatDataAndDimensions(a.Pairs[i].A, a.Base.Rank, t.In))
	}
	for i, t := range a.Base.Targets {
		args = append(args, tensors.FromFlatDataAndDimensions(a.Pairs[i].B, t.Out, a.Base.Rank))
	}
	n := len(a.Base.Targets)
	exec, err := graph.NewExec(b.Backend, func(in []*graph.Node) *graph.Node {
		rest := in[3:]
		w, la, lb := rest[:len(rest)-2*n], rest[len(rest)-2*n:len(rest)-n], rest[len(rest)-n:]
		_, logits := m.Losses(w, la, lb, a.Base.Alpha/float64(a.Base.Rank), in[0], in[1], in[2])
		return logits
	})
	if err != nil {
		return nil, err
	}
	defer exec.Finalize()
	out, err := exec.Call(args...)
	if err != nil {
		return nil, err
	}
	flat, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		return nil, err
	}
	var rows [][]float64
	for row := range slices.Chunk(flat, len(flat)/len(prompts)) {
		rows = append(rows, logSoftmax(row))
	}
	return rows, nil
}

func logSoftmax(row []float32) []float64 {
	most, total := float64(slices.Max(row)), 0.0
	for _, v := range row {
		total += math.Exp(float64(v) - most)
	}
	out := make([]float64, len(row))
	for i, v := range row {
		out[i] = float64(v) - most - math.Log(total)
	}
	return out
}

// Farthest is the largest difference of a logit in two results of the same prompts.
func Farthest(a, b [][]float64) float64 {
	worst := 0.0
	for i := range a {
		for j := range a[i] {
			worst = max(worst, math.Abs(a[i][j]-b[i][j]))
		}
	}
	return worst
}

// Divergence is the mean over prompts of the Kullback-Leibler divergence of b from a, in
// nats.
func Divergence(a, b [][]float64) float64 {
	sum := 0.0
	for i := range a {
		for j := range a[i] {
			sum += math.Exp(a[i][j]) * (a[i][j] - b[i][j])
		}
	}
	return sum / float64(len(a))
}
