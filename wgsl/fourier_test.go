package wgsl

import (
	"fmt"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var assignment = regexp.MustCompile(`^\s*let (\w+) = (-?)(\w+(?:\.\d+)?)(?: ([-+*]) (\S+))?;$`)

// interpret runs straight-line code in float32.
func interpret(t *testing.T, text string, values map[string]float32) {
	t.Helper()
	get := func(name string) float32 {
		if v, ok := values[name]; ok {
			return v
		}
		v, err := strconv.ParseFloat(name, 64)
		if err != nil {
			t.Fatalf("%s is used before it is known", name)
		}
		return float32(v)
	}
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q", line)
		}
		v := get(m[3])
		if m[2] == "-" {
			v = -v
		}
		switch m[4] {
		case "+":
			v += get(m[5])
		case "-":
			v -= get(m[5])
		case "*":
			v *= get(m[5])
		}
		if _, ok := values[m[1]]; ok {
			t.Fatalf("%s is assigned twice", m[1])
		}
		values[m[1]] = v
	}
}

// Every transform's text computes its definition.
func TestTransforms(t *testing.T) {
	for points := 2; points <= MaxPoints; points++ {
		random := rand.New(rand.NewPCG(1, uint64(points)))
		x := make([]complex128, points)
		for i := range x {
			x[i] = complex(2*random.Float64()-1, 2*random.Float64()-1)
		}
		define := func(sign float64, x []complex128, k int) (sum complex128) {
			for j, v := range x {
				sum += v * cmplx.Exp(complex(0, sign*2*math.Pi*float64(j*k)/float64(points)))
			}
			return sum
		}
		check := func(what, name string, values map[string]float32, want float64) {
			t.Helper()
			if got, ok := values[name]; !ok || math.Abs(float64(got)-want) > 2e-6*float64(points) {
				t.Errorf("%d points, %s: %s is %v, expected %v", points, what, name, got, want)
			}
		}
		for _, n := range []int{1, (points + 1) / 2, points} {
			values := map[string]float32{}
			for i := range n {
				values[fmt.Sprintf("x%d", i)] = float32(real(x[i]))
			}
			text, _ := realForward(points, n)
			interpret(t, text, values)
			reals := make([]complex128, n)
			for i := range reals {
				reals[i] = complex(real(x[i]), 0)
			}
			for k := range points/2 + 1 {
				check("real", fmt.Sprintf("yr%d", k), values, real(define(-1, reals, k)))
				check("real", fmt.Sprintf("yi%d", k), values, imag(define(-1, reals, k)))
			}

			values = map[string]float32{}
			for i := range n {
				values[fmt.Sprintf("xr%d", i)], values[fmt.Sprintf("xi%d", i)] = float32(real(x[i])), float32(imag(x[i]))
			}
			text, _ = complexForward(points, n)
			interpret(t, text, values)
			for k := range points {
				check("complex", fmt.Sprintf("yr%d", k), values, real(define(-1, x[:n], k)))
				check("complex", fmt.Sprintf("yi%d", k), values, imag(define(-1, x[:n], k)))
			}

			values = map[string]float32{}
			for i := range points {
				values[fmt.Sprintf("xr%d", i)], values[fmt.Sprintf("xi%d", i)] = float32(real(x[i])), float32(imag(x[i]))
			}
			text, _ = complexBack(points, n)
			interpret(t, text, values)
			for k := range n {
				check("back", fmt.Sprintf("yr%d", k), values, real(define(1, x, k)))
				check("back", fmt.Sprintf("yi%d", k), values, imag(define(1, x, k)))
			}

			// A spectrum with its conjugates.
			spectrum := make([]complex128, points)
			values = map[string]float32{}
			for k := range points/2 + 1 {
				spectrum[k] = x[k]
				if k == 0 || 2*k == points {
					spectrum[k] = complex(real(x[k]), 0)
				}
				spectrum[(points-k)%points] = cmplx.Conj(spectrum[k])
				values[fmt.Sprintf("xr%d", k)], values[fmt.Sprintf("xi%d", k)] = float32(real(x[k])), float32(imag(x[k]))
			}
			text, _ = realBack(points, n)
			interpret(t, text, values)
			for i := range n {
				check("real back", fmt.Sprintf("y%d", i), values, real(define(1, spectrum, i)))
			}
		}
	}
	if n := RealOps(16, 16); n > 90 {
		t.Errorf("a real transform of 16 points takes %d operations", n)
	}
	if n := ComplexOps(16, 16); n > 200 {
		t.Errorf("a complex transform of 16 points takes %d operations", n)
	}
}
