package combine

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack"
	"gonum.org/v1/gonum/lapack/lapack64"
)

// thin is the QR decomposition of an (n,r) matrix: Q (n,k) with orthonormal columns, R
// (k,r) upper triangular, k = min(n,r).
type thin struct{ q, r blas64.General }

// newMatrix is a zero matrix.
func newMatrix(rows, columns int) blas64.General {
	return blas64.General{Rows: rows, Cols: columns, Stride: columns, Data: make([]float64, rows*columns)}
}

// widened is a row-major float32 matrix in float64, or its transpose.
func widened(m []float32, rows, columns int, transpose bool) blas64.General {
	if transpose {
		out := newMatrix(columns, rows)
		for i := range rows {
			for j := range columns {
				out.Data[j*rows+i] = float64(m[i*columns+j])
			}
		}
		return out
	}
	out := newMatrix(rows, columns)
	for i, v := range m {
		out.Data[i] = float64(v)
	}
	return out
}

// triangle is the R of a (n,r) matrix's QR decomposition, which overwrites the matrix.
func triangle(m blas64.General) (r blas64.General, tau []float64) {
	k := min(m.Rows, m.Cols)
	tau = make([]float64, k)
	work := make([]float64, 1)
	lapack64.Geqrf(m, tau, work, -1)
	work = make([]float64, int(work[0]))
	lapack64.Geqrf(m, tau, work, len(work))
	r = newMatrix(k, m.Cols)
	for i := range k {
		copy(r.Data[i*r.Stride+i:(i+1)*r.Stride], m.Data[i*m.Stride+i:(i+1)*m.Stride])
	}
	return r, tau
}

// decompose overwrites m.
func decompose(m blas64.General) thin {
	r, tau := triangle(m)
	q := m
	q.Cols = len(tau) // the stride stays
	work := make([]float64, 1)
	lapack64.Orgqr(q, tau, work, -1)
	work = make([]float64, int(work[0]))
	lapack64.Orgqr(q, tau, work, len(work))
	return thin{q, r}
}

// product is a·b, either of them transposed first if so said.
func product(a, b blas64.General, ta, tb blas.Transpose) blas64.General {
	rows, columns := a.Rows, b.Cols
	if ta == blas.Trans {
		rows = a.Cols
	}
	if tb == blas.Trans {
		columns = b.Rows
	}
	out := newMatrix(rows, columns)
	blas64.Gemm(ta, tb, 1, a, b, 0, out)
	return out
}

func vector(v []float64) blas64.Vector { return blas64.Vector{N: len(v), Inc: 1, Data: v} }

// singular is the decomposition m = u·diag(s)·vt, which overwrites m. It fails only where
// the iteration does not converge.
func singular(m blas64.General) (u, vt blas64.General, s []float64, ok bool) {
	k := min(m.Rows, m.Cols)
	u, vt, s = newMatrix(m.Rows, k), newMatrix(k, m.Cols), make([]float64, k)
	work := make([]float64, 1)
	lapack64.Gesvd(lapack.SVDStore, lapack.SVDStore, m, u, vt, s, work, -1)
	work = make([]float64, int(work[0]))
	ok = lapack64.Gesvd(lapack.SVDStore, lapack.SVDStore, m, u, vt, s, work, len(work))
	return u, vt, s, ok
}

// frobenius is the root of the sum of squares.
func frobenius(m blas64.General) float64 {
	norm := 0.0
	for i := range m.Rows {
		norm = math.Hypot(norm, blas64.Nrm2(vector(m.Data[i*m.Stride:i*m.Stride+m.Cols])))
	}
	return norm
}
