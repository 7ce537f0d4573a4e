package linear

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"
)

// Principal are the coordinates of rows in their first rank principal directions, by their Gram
// matrix, around zero: rank values a row, whose mean square over the rows is 1 in each direction.
// spreads are how far the rows lie apart in each of their directions, of the first, falling: after
// those in which they differ, these drop. NaN count as zero. Rows that add up to zero span one
// direction fewer than they are; more directions than that are refused.
func Principal(rows [][]float32, rank int) (coordinates [][]float64, spreads []float64, err error) {
	n := len(rows)
	if rank < 1 || rank >= n {
		return nil, nil, fmt.Errorf("linear: %d directions, but the means of %d tasks differ in %d", rank, n, n-1)
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
		return nil, nil, errors.New("linear: the principal directions do not converge: is a value infinite?")
	}
	var vectors mat.Dense
	e.VectorsTo(&vectors)
	coordinates = make([][]float64, n)
	for i := range coordinates {
		for r := range rank {
			coordinates[i] = append(coordinates[i], vectors.At(i, n-1-r)*math.Sqrt(float64(n))) // eigenvalues ascend
		}
	}
	values := e.Values(nil)
	for i := n - 1; i > 0; i-- {
		spreads = append(spreads, math.Sqrt(max(0, values[i]/values[n-1])))
	}
	return coordinates, spreads, nil
}

// noSpread is the share of the first spread below which one is next to nothing, and a drop to it none.
const noSpread = 0.01

// Drop is how many directions there are before spreads (Principal's) drop most, from one to the next: as
// many as rows differ in by more than accident, if that is clear at all.
func Drop(spreads []float32) int {
	at, most := len(spreads), float32(0)
	for i := 1; i < len(spreads); i++ {
		if ratio := max(spreads[i-1], noSpread) / max(spreads[i], noSpread); ratio > most {
			at, most = i, ratio
		}
	}
	return at
}

// Span is the basis in which rows stand by coordinates of Principal: of the rows' columns one
// after another, a value for each direction. A row's sum of the directions times its coordinates
// is its least-squares prediction, the row itself as nearly as so many directions allow if the
// coordinates are its own. NaN count as zero.
func Span(rows [][]float32, coordinates [][]float64) []float32 {
	rank := len(coordinates[0])
	out := make([]float32, rank*len(rows[0]))
	for i, x := range rows {
		for r, c := range coordinates[i] {
			share := float32(c / float64(len(rows)))
			for k, v := range x {
				if v == v {
					out[k*rank+r] += share * v
				}
			}
		}
	}
	return out
}

// Kept is what a Ridge of a strength (NewRidge's) keeps of the rank first directions in which n rows,
// its features around their mean, spread (Principal): 1 is all.
func Kept(spreads []float64, n, rank int, strength float64) []float64 {
	square := 0.0
	for _, s := range spreads {
		square += s * s / float64(n)
	}
	out := make([]float64, rank)
	for j := range out {
		out[j] = 1 / (1 + strength*square/(spreads[j]*spreads[j]))
	}
	return out
}
