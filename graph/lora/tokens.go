package lora

import (
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Mode is the arithmetic of tokens. Values are held as float32 in both.
type Mode int

const (
	// Float32 loses nothing to speak of: there and back differ by about 1e-7.
	Float32 Mode = iota
	// BFloat16 is what the reference trains and generates with, bit for bit (c.5): every
	// operation is rounded to bfloat16. Small deviations become coarse.
	BFloat16
)

// codec turns chunks (r, n) into tokens (h, w) and back (reference c.3 to c.5).
type codec struct {
	h, w, r int
	bf16    bool
}

// The constants of the scales. PyTorch rounds what it adds to a bfloat16 tensor to
// bfloat16 first, but not what it multiplies or divides by.
const (
	scale    = float32(0.9)
	floor32  = float32(0.1)
	shift32  = float32(1.6)
	floor16  = float32(0.10009765625)
	shift16  = float32(1.6015625)
	meanGain = float32(8)
)

func (c codec) constants() (floor, shift float32) {
	if c.bf16 {
		return floor16, shift16
	}
	return floor32, shift32
}

// round rounds the result of one operation to the mode's precision. As a conversion it
// also keeps the compiler from fusing it with the next operation.
func (c codec) round(v float32) float32 {
	if c.bf16 {
		return safetensors.RoundBF16(v)
	}
	return float32(v)
}

// round64 rounds a value that was accumulated in float64.
func (c codec) round64(v float64) float32 { return c.round(float32(v)) }

// encode writes the token of a chunk. It may overwrite the chunk.
func (c codec) encode(chunk []float32, n int, token []float32) {
	sum := 0.0
	for i, v := range chunk {
		chunk[i] = c.round(v)
		sum += float64(chunk[i])
	}
	exact := sum / float64(len(chunk))
	mean := c.round64(exact)
	square := 0.0
	for _, v := range chunk {
		d := float64(v) - exact
		square += d * d
	}
	// The sample deviation of one element is 0/0.
	sigma := float32(1)
	if len(chunk) > 1 {
		sigma = c.round64(math.Sqrt(square / float64(len(chunk)-1)))
	}
	nan := float32(math.NaN())
	for i := range token {
		token[i] = nan
	}
	for y := range c.r {
		for x := range n {
			token[y*c.w+x] = c.round(c.round(chunk[y*n+x]-mean) / sigma)
		}
	}
	c.frame(token, c.round(meanGain*mean), c.encodeSigma(sigma))
}

func (c codec) encodeSigma(sigma float32) float32 {
	floor, shift := c.constants()
	inner := c.round(c.round(scale*sigma) + floor)
	return c.round(c.round64(math.Log(float64(inner))) + shift)
}

// frame fills the last two rows and columns with the scales, over whatever is there.
func (c codec) frame(token []float32, mean, sigma float32) {
	pair := [2]float32{mean, sigma}
	for y := range c.h {
		if y < c.h-2 {
			token[y*c.w+c.w-2], token[y*c.w+c.w-1] = mean, sigma
			continue
		}
		for x := range c.w {
			token[y*c.w+x] = pair[x%2]
		}
	}
}

// decode reads a chunk (r, n) back from its token.
func (c codec) decode(token []float32, n int, chunk []float32) {
	floor, shift := c.constants()
	var mean, sigma [2]float32
	for q := range 2 {
		// Row q from the frame's two rows, and the rows of parity q of its two columns.
		row := token[(c.h-2+q)*c.w:]
		m := c.average(c.strided(row, 0, 2, c.w/2), c.strided(token, q*c.w+c.w-2, 2*c.w, c.h/2))
		s := c.average(c.strided(row, 1, 2, c.w/2), c.strided(token, q*c.w+c.w-1, 2*c.w, c.h/2))
		mean[q] = c.round(m / meanGain)
		grown := c.round64(exp(float64(c.round(s - shift))))
		sigma[q] = c.round(c.round(grown-floor) / scale)
	}
	mu := c.round(c.round(mean[0]+mean[1]) / 2)
	sd := c.round(c.round(sigma[0]+sigma[1]) / 2)
	for y := range c.r {
		for x := range n {
			v := c.round(token[y*c.w+x])
			chunk[y*n+x] = c.round(c.round(v*sd) + mu)
		}
	}
}

func (c codec) average(a, b float32) float32 {
	return c.round(c.round(a+b) * 0.5)
}

// strided is the mean of count values of v from at on, step apart.
func (c codec) strided(v []float32, at, step, count int) float32 {
	sum := 0.0
	for range count {
		sum += float64(c.round(v[at]))
		at += step
	}
	return c.round64(sum / float64(count))
}

// exp is math.Exp to the last bit but one, with the same bits on every machine: an
// adapter's bytes do not depend on where it was made. (math.Exp is assembly on some
// machines, and compilers fuse a product and a sum where the machine can, unless a
// conversion stands between.) It is exact enough for a result that is rounded to float32.
func exp(x float64) float64 {
	if !(math.Abs(x) < 200) {
		return math.Exp(x) // 0, infinity or NaN as a float32
	}
	// e^x = 2^k·e^r with |r| up to ln(2)/2, in two parts so that k·ln(2) loses nothing.
	const high, low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
	k := math.Round(x / math.Ln2)
	r := float64(x-float64(k*high)) - float64(k*low)
	sum := 1.0
	for i := 14; i > 0; i-- { // the exponential series, by Horner's rule
		sum = 1 + float64(r*sum)/float64(i)
	}
	return math.Ldexp(sum, int(k))
}
