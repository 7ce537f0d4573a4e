package fftconv

import "math"

// transforms are the matrices of a plan's transforms. Rows of a plane go first: real
// values to half a spectrum, real parts before imaginary ones; then its columns.
type transforms struct {
	planeRows, kernelRows matrix    // (2·half, size), (2·half, Kernel)
	plane, kernel         [2]matrix // of real and imaginary parts: (2·size, size), (2·size, Kernel)
	cosine, sine, minus   matrix    // back along the columns: (step, size)
	back                  matrix    // back along the rows: (step, 2·half)
}

func newTransforms(p Plan) transforms {
	return transforms{
		planeRows:  half(p.columns.size, p.columns.size, -1),
		kernelRows: half(p.columns.size, p.Kernel, 1),
		plane:      full(p.rows.size, p.rows.size, -1),
		// A correlation multiplies by the conjugates.
		kernel: full(p.rows.size, p.Kernel, 1),
		cosine: pack(p.rows.step, p.rows.size, func(r, c int) float64 { return math.Cos(angle(r, c, p.rows.size)) }),
		sine:   pack(p.rows.step, p.rows.size, func(r, c int) float64 { return math.Sin(angle(r, c, p.rows.size)) }),
		minus:  pack(p.rows.step, p.rows.size, func(r, c int) float64 { return -math.Sin(angle(r, c, p.rows.size)) }),
		back:   realPart(p),
	}
}

// angle reduces before it multiplies, for exact symmetries.
func angle(a, b, size int) float64 { return 2 * math.Pi * float64(a*b%size) / float64(size) }

// half is the transform of n real values, zeros after them, to the first half of size
// frequencies.
func half(size, n int, sign float64) matrix {
	count := size/2 + 1
	return pack(2*count, n, func(r, c int) float64 {
		if r < count {
			return math.Cos(angle(r, c, size))
		}
		return sign * math.Sin(angle(r-count, c, size))
	})
}

// full is the transform of n complex values, zeros after them: a matrix for their real
// parts and one for the imaginary ones. Results are real and imaginary by turns.
func full(size, n int, sign float64) [2]matrix {
	var m [2]matrix
	for part := range m {
		m[part] = pack(2*size, n, func(r, c int) float64 {
			a := angle(r/2, c, size)
			switch {
			case r%2 == part:
				return math.Cos(a)
			case part == 0:
				return sign * math.Sin(a)
			default:
				return -sign * math.Sin(a)
			}
		})
	}
	return m
}

// realPart is the way back from half a spectrum to step real values, and the scale of both
// axes.
func realPart(p Plan) matrix {
	size, count := p.columns.size, p.half()
	scale := 1 / float64(size*p.rows.size)
	return pack(p.columns.step, 2*count, func(r, c int) float64 {
		f := c % count
		a, weight := angle(r, f, size), 2*scale
		if f == 0 || 2*f == size {
			weight = scale
		}
		if c < count {
			return weight * math.Cos(a)
		}
		return -weight * math.Sin(a)
	})
}
