package linear

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"
)

// Principal are the first rank principal components of the rows, by their Gram matrix, around
// zero: of the columns one after another, rank values each. Every row is about the sum of the
// components times its coordinates, whose mean square over the rows is 1. NaN count as zero. Rows that add up to
// zero span one direction fewer than they are; more directions than that are refused.
func Principal(rows [][]float32, rank int) ([]float32, error) {
	n := len(rows)
	if rank < 1 || rank >= n {
		return nil, fmt.Errorf("linear: %d directions, but the means of %d tasks differ in %d", rank, n, n-1)
	}
	gram := mat.NewSymDense(n, nil)
	for i, x := range rows {
		for j, y := range rows[:i+1] {
			sum := 0.0
			for k, v := range x {
				if p := float64(v) * float64(y[k]); p == p {
					sum += p
				}
			}
			gram.SetSym(i, j, sum)
		}
	}
	var e mat.EigenSym
	if !e.Factorize(gram, true) {
		return nil, errors.New("linear: the principal components do not converge: is a value infinite?")
	}
	var vectors mat.Dense
	e.VectorsTo(&vectors)
	out := make([]float32, rank*len(rows[0]))
	for r := range rank {
		for i, x := range rows {
			share := float32(vectors.At(i, n-1-r) / math.Sqrt(float64(n))) // eigenvalues ascend
			for k, v := range x {
				if v == v {
					out[k*rank+r] += share * v
				}
			}
		}
	}
	return out, nil
}
