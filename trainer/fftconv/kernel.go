package fftconv

// All arithmetic is one small product of matrices, of block rows and lanes columns.
const (
	block = 6
	lanes = 16
)

// kernelGo is c = a·b, or c += a·b with add: c has block rows of lanes values, cStride
// apart; a is packed by packRows, k steps of block values; b has k rows of lanes values,
// bStride apart.
func kernelGo(k int, a, b []float32, bStride int, c []float32, cStride int, add bool) {
	for r := range block {
		var sum [lanes]float32
		row := c[r*cStride : r*cStride+lanes]
		if add {
			copy(sum[:], row)
		}
		for i := range k {
			v := a[i*block+r]
			from := b[i*bStride:][:lanes]
			for l, w := range from {
				sum[l] += v * w
			}
		}
		copy(row, sum[:])
	}
}

// matrix is a matrix packed for kernel: blocks of rows, the last filled up with zeros.
type matrix struct {
	rows, columns int
	values        []float32
}

// pack makes a matrix of rows times columns values at(r, c).
func pack(rows, columns int, at func(r, c int) float64) matrix {
	m := matrix{rows, columns, make([]float32, blocks(rows)*block*columns)}
	for r := range rows {
		for c := range columns {
			m.values[(r/block*columns+c)*block+r%block] = float32(at(r, c))
		}
	}
	return m
}

// times is c = m·b, or c += m·b: m.columns rows of b to m.rows rows of c, and to what more
// there is in the last block.
func (m matrix) times(b []float32, bStride int, c []float32, cStride int, add bool) {
	size := m.columns * block
	for i := 0; i*size < len(m.values); i++ {
		kernel(m.columns, m.values[i*size:(i+1)*size], b, bStride, c[i*block*cStride:], cStride, add)
	}
}

// blocks is how many blocks n rows take.
func blocks(n int) int { return (n + block - 1) / block }

// padded is n rounded up to whole blocks.
func padded(n int) int { return blocks(n) * block }
