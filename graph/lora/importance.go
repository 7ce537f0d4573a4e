package lora

import (
	"fmt"
	"iter"
	"math"
)

// ImportanceWeights measures how much each token varies from checkpoint to checkpoint
// (reference d.2): its mean deviation over the mean deviation of everything, T values.
// The tokens are float32. Positions that are NaN in any checkpoint do not count.
//
// checkpoints is ranged over twice and must give the same adapters in the same order;
// one is in memory at a time, beside three arrays of T·h·w float32 values. The
// reference passes Tiling.WithoutFrame for all but its 0.5B sets.
func ImportanceWeights(base Base, t Tiling, checkpoints iter.Seq2[*Adapter, error]) ([]float32, error) {
	l, err := NewLayout(base, t)
	if err != nil {
		return nil, err
	}
	size := l.h * l.w
	tokens := make([]float32, l.count*size)
	mean := make([]float32, len(tokens))
	square := make([]float32, len(tokens))
	pass := func(add func(n float32)) (int, error) {
		n := 0
		for a, err := range checkpoints {
			if err != nil {
				return n, err
			}
			if err := l.Encode(a, Float32, tokens); err != nil {
				return n, fmt.Errorf("checkpoint %d: %w", n, err)
			}
			n++
			add(float32(n))
		}
		return n, nil
	}
	n, err := pass(func(n float32) {
		for i, v := range tokens {
			mean[i] += (v - mean[i]) / n
		}
	})
	if err != nil {
		return nil, err
	}
	again, err := pass(func(n float32) {
		for i, v := range tokens {
			d := v - mean[i]
			square[i] += (float32(d*d) - square[i]) / n
		}
	})
	if err != nil {
		return nil, err
	}
	if n == 0 || n != again {
		return nil, fmt.Errorf("lora: importance weights of %d checkpoints, then %d: expected the same ones twice, and at least one", n, again)
	}
	return weights(square, size)
}

// weights turns variances (T, h·w) into importance weights (T).
func weights(variance []float32, size int) ([]float32, error) {
	out := make([]float32, len(variance)/size)
	total, count := 0.0, 0
	for t := range out {
		sum, valid := 0.0, 0
		for _, v := range variance[t*size : (t+1)*size] {
			if s := math.Sqrt(float64(v)); !math.IsNaN(s) {
				sum += s
				valid++
			}
		}
		out[t] = float32(sum / float64(valid))
		total += sum
		count += valid
	}
	if !(total > 0) {
		return nil, fmt.Errorf("lora: importance weights: the checkpoints do not differ")
	}
	for t := range out {
		out[t] *= float32(float64(count) / total)
	}
	return out, nil
}

// MeanImportance is the plain mean of the vectors of several data sets, as training
// takes it.
func MeanImportance(vectors ...[]float32) ([]float32, error) {
	if len(vectors) == 0 {
		return nil, fmt.Errorf("lora: no importance weights to take the mean of")
	}
	mean := make([]float32, len(vectors[0]))
	for t := range mean {
		sum := 0.0
		for i, v := range vectors {
			if len(v) != len(mean) {
				return nil, fmt.Errorf("lora: importance weights %d have %d values, expected %d", i, len(v), len(mean))
			}
			sum += float64(v[t])
		}
		mean[t] = float32(sum / float64(len(vectors)))
	}
	return mean, nil
}
