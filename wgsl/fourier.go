package wgsl

import (
	"fmt"
	"math"
	"strings"
	"sync"
)

// MaxPoints bounds T, the points of a transform, which kernels unroll.
const MaxPoints = 32

// RealOps counts the additions and multiplications of fourierrows' transform: n real
// values, zeros after them up to points, to half a spectrum.
func RealOps(points, n int) int { return count('r', points, n, realForward) }

// ComplexOps is that of fouriercolumns' transform of n complex values.
func ComplexOps(points, n int) int { return count('c', points, n, complexForward) }

// ComplexBackOps is that of inversecolumns' transform to the first n of points values.
func ComplexBackOps(points, n int) int { return count('C', points, n, complexBack) }

// RealBackOps is that of inverserows' transform.
func RealBackOps(points, n int) int { return count('R', points, n, realBack) }

// counted are the results of count: planners ask for the same ones over and over.
var counted sync.Map // from countKey to int

type countKey struct {
	kind      byte
	points, n int
}

func count(kind byte, points, n int, write func(points, n int) (string, int)) int {
	key := countKey{kind, points, n}
	if ops, ok := counted.Load(key); ok {
		return ops.(int)
	}
	_, ops := write(points, n)
	counted.Store(key, ops)
	return ops
}

// The texts of transforms: straight-line code without arrays, from named inputs to named
// outputs, with everything left out that is zero or not asked for.

// realForward is from x0… to yr0, yi0, … yr{points/2}.
func realForward(points, n int) (text string, ops int) {
	l := newLine()
	x := make([]value, points)
	for i := range n {
		x[i] = l.input(fmt.Sprintf("x%d", i))
	}
	return l.half(l.realTransform(x))
}

func (l *line) half(y []complexValue) (string, int) {
	for k := range len(y)/2 + 1 {
		l.output(fmt.Sprintf("yr%d", k), y[k].re)
		l.output(fmt.Sprintf("yi%d", k), y[k].im)
	}
	return l.text()
}

// complexForward is from xr0, xi0, … to yr0, yi0, ….
func complexForward(points, n int) (text string, ops int) { return complexLine(points, n, points, -1) }

// complexBack is the same with the other sign, from all to the first n, without a scale.
func complexBack(points, n int) (text string, ops int) { return complexLine(points, points, n, 1) }

func complexLine(points, in, out int, sign float64) (string, int) {
	l := newLine()
	x := make([]complexValue, points)
	for i := range in {
		x[i] = complexValue{l.input(fmt.Sprintf("xr%d", i)), l.input(fmt.Sprintf("xi%d", i))}
	}
	for k, y := range l.transform(x, sign)[:out] {
		l.output(fmt.Sprintf("yr%d", k), y.re)
		l.output(fmt.Sprintf("yi%d", k), y.im)
	}
	return l.text()
}

// realBack is from xr0, xi0, … xr{points/2} to the first n real values y0, …, without a
// scale. The imaginary parts of the first and the middle frequency are zero and not read.
func realBack(points, n int) (text string, ops int) {
	l := newLine()
	x := make([]complexValue, points)
	for k := range points/2 + 1 {
		x[k].re = l.input(fmt.Sprintf("xr%d", k))
		if k > 0 && 2*k < points {
			x[k].im = l.input(fmt.Sprintf("xi%d", k))
			x[points-k] = x[k].conjugate()
		}
	}
	for i, y := range l.realInverse(x)[:n] {
		l.output(fmt.Sprintf("y%d", i), y)
	}
	return l.text()
}

// value is an operation's result, or its negative; the zero value is zero.
type value struct {
	id       int
	negative bool
}

func (v value) negate() value {
	if v.id != 0 {
		v.negative = !v.negative
	}
	return v
}

type complexValue struct{ re, im value }

func (v complexValue) conjugate() complexValue { return complexValue{v.re, v.im.negate()} }

// operation is one line: a sum, a difference, a product with a constant, or an input.
type operation struct {
	op   byte
	a, b int
	c    float64
	name string
}

// line makes straight-line code. Equal operations are done once.
type line struct {
	operations []operation // the first is zero
	known      map[operation]int
	outputs    []string
	results    []value
}

func newLine() *line { return &line{operations: make([]operation, 1), known: map[operation]int{}} }

func (l *line) do(o operation) int {
	if id, ok := l.known[o]; ok {
		return id
	}
	l.operations = append(l.operations, o)
	l.known[o] = len(l.operations) - 1
	return len(l.operations) - 1
}

func (l *line) input(name string) value { return value{id: l.do(operation{op: 'i', name: name})} }

func (l *line) output(name string, v value) {
	l.outputs, l.results = append(l.outputs, name), append(l.results, v)
}

func (l *line) add(a, b value) value {
	switch {
	case a.id == 0:
		return b
	case b.id == 0:
		return a
	case a.negative == b.negative:
		return value{l.do(operation{op: '+', a: min(a.id, b.id), b: max(a.id, b.id)}), a.negative}
	case a.id == b.id:
		return value{}
	case a.negative:
		a, b = b, a
	}
	// A difference and its negative are one operation.
	if a.id > b.id {
		return value{l.do(operation{op: '-', a: b.id, b: a.id}), true}
	}
	return value{l.do(operation{op: '-', a: a.id, b: b.id}), false}
}

func (l *line) scale(a value, c float64) value {
	switch {
	case a.id == 0 || c == 0:
		return value{}
	case c < 0:
		return l.scale(a.negate(), -c)
	case c == 1:
		return a
	}
	return value{l.do(operation{op: '*', a: a.id, c: c}), a.negative}
}

func (l *line) plus(a, b complexValue) complexValue {
	return complexValue{l.add(a.re, b.re), l.add(a.im, b.im)}
}

func (l *line) times(a complexValue, c, s float64) complexValue {
	return complexValue{
		l.add(l.scale(a.re, c), l.scale(a.im, -s)),
		l.add(l.scale(a.re, s), l.scale(a.im, c)),
	}
}

// turn is e^(2πi·k/n). Angles are folded into an eighth, so that symmetric ones have the
// very same sine and cosine.
func turn(k, n int) (c, s float64) {
	k = (k%n + n) % n
	switch {
	case 2*k > n:
		c, s = turn(n-k, n)
		return c, -s
	case 4*k > n:
		c, s = turn4(2*n-4*k, n)
		return -c, s
	}
	return turn4(4*k, n)
}

// turn4 is turn of k/4, for 0 <= k <= n.
func turn4(k, n int) (c, s float64) {
	if 2*k > n {
		s, c = turn4(n-k, n)
		return c, s
	}
	a := math.Pi / 2 * float64(k) / float64(n)
	if 2*k == n {
		return math.Sqrt2 / 2, math.Sqrt2 / 2
	}
	return math.Cos(a), math.Sin(a)
}

func smallestFactor(n int) int {
	for p := 2; p*p <= n; p++ {
		if n%p == 0 {
			return p
		}
	}
	return n
}

// short is the transform of a prime number of values, by pairs of them.
func (l *line) short(t []complexValue, sign float64) []complexValue {
	n := len(t)
	y := make([]complexValue, n)
	y[0] = t[0]
	for j := 1; j < n; j++ {
		y[0] = l.plus(y[0], t[j])
	}
	if n == 2 {
		y[1] = l.plus(t[0], l.times(t[1], -1, 0))
		return y
	}
	for k := 1; k <= n/2; k++ {
		even, odd := t[0], complexValue{}
		for j := 1; j <= n/2; j++ {
			c, s := turn(j*k, n)
			even = l.plus(even, l.times(l.plus(t[j], t[n-j]), c, 0))
			odd = l.plus(odd, l.times(l.plus(t[j], l.times(t[n-j], -1, 0)), 0, sign*s))
		}
		y[k] = l.plus(even, odd)
		y[n-k] = l.plus(even, l.times(odd, -1, 0))
	}
	return y
}

// transform is Σ x[j]·e^(sign·2πi·jk/n), by decimation in time.
func (l *line) transform(x []complexValue, sign float64) []complexValue {
	n := len(x)
	if n == 1 {
		return x
	}
	p := smallestFactor(n)
	parts := make([][]complexValue, p)
	for r := range p {
		part := make([]complexValue, n/p)
		for i := range part {
			part[i] = x[i*p+r]
		}
		parts[r] = l.transform(part, sign)
	}
	return l.join(parts, n, sign, n/p)
}

// join makes a transform of those of every p-th value, for the first frequencies of each.
func (l *line) join(parts [][]complexValue, n int, sign float64, first int) []complexValue {
	p := len(parts)
	y := make([]complexValue, n)
	t := make([]complexValue, p)
	for k := range first {
		for r := range p {
			c, s := turn(r*k, n)
			t[r] = l.times(parts[r][k], c, sign*s)
		}
		for q, v := range l.short(t, sign) {
			y[k+q*n/p] = v
		}
	}
	return y
}

// realTransform is the transform of real values. Only the first half of it is computed.
func (l *line) realTransform(x []value) []complexValue {
	n := len(x)
	if n == 1 {
		return []complexValue{{re: x[0]}}
	}
	p := smallestFactor(n)
	parts := make([][]complexValue, p)
	for r := range p {
		part := make([]value, n/p)
		for i := range part {
			part[i] = x[i*p+r]
		}
		parts[r] = l.realTransform(part)
	}
	y := l.join(parts, n, -1, n/p)
	for k := range n/2 + 1 {
		if k == 0 || 2*k == n {
			y[k].im = value{}
			continue
		}
		y[n-k] = y[k].conjugate()
	}
	return y
}

// realInverse is the real values of a spectrum with its conjugates, by decimation in
// frequency.
func (l *line) realInverse(x []complexValue) []value {
	n := len(x)
	if n == 1 {
		return []value{x[0].re}
	}
	p := smallestFactor(n)
	m := n / p
	parts := make([][]complexValue, p)
	for r := range parts {
		parts[r] = make([]complexValue, m)
	}
	t := make([]complexValue, p)
	for k := range m/2 + 1 {
		for q := range p {
			t[q] = x[k+q*m]
		}
		for r, v := range l.short(t, 1) {
			c, s := turn(r*k, n)
			v = l.times(v, c, s)
			if k == 0 || 2*k == m {
				v.im = value{}
			} else {
				parts[r][m-k] = v.conjugate()
			}
			parts[r][k] = v
		}
	}
	y := make([]value, n)
	for r := range p {
		for i, v := range l.realInverse(parts[r]) {
			y[i*p+r] = v
		}
	}
	return y
}

// text writes what the outputs need, and counts it.
func (l *line) text() (text string, ops int) {
	needed := make([]bool, len(l.operations))
	for _, v := range l.results {
		needed[v.id] = true
	}
	for i := len(l.operations) - 1; i > 0; i-- {
		if o := l.operations[i]; needed[i] {
			needed[o.a], needed[o.b] = true, true
		}
	}
	var b strings.Builder
	name := func(id int) string {
		if o := l.operations[id]; o.op == 'i' {
			return o.name
		}
		return fmt.Sprintf("t%d", id)
	}
	for i, o := range l.operations {
		if i == 0 || !needed[i] || o.op == 'i' {
			continue
		}
		ops++
		if o.op == '*' {
			fmt.Fprintf(&b, "  let t%d = %s * %.9g;\n", i, name(o.a), o.c)
		} else {
			fmt.Fprintf(&b, "  let t%d = %s %c %s;\n", i, name(o.a), o.op, name(o.b))
		}
	}
	for i, v := range l.results {
		switch {
		case v.id == 0:
			fmt.Fprintf(&b, "  let %s = 0.0;\n", l.outputs[i])
		case v.negative:
			fmt.Fprintf(&b, "  let %s = -%s;\n", l.outputs[i], name(v.id))
		default:
			fmt.Fprintf(&b, "  let %s = %s;\n", l.outputs[i], name(v.id))
		}
	}
	return b.String(), ops
}
