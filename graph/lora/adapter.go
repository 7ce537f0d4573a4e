package lora

import (
	"fmt"
	"math"
)

// Adapter is a LoRA adapter in memory.
type Adapter struct {
	Base  Base
	Pairs []Pair // one for each of Base.Targets, in their order
	// AlphaAssumed says that no file named alpha, and Base.Alpha is twice the rank, as in
	// all adapters of the reference.
	AlphaAssumed bool
}

// Pair is the two matrices of a module, row-major: A (rank, in), B (out, rank). The
// module's weight changes by (alpha/rank)·B·A.
type Pair struct{ A, B []float32 }

// Check checks the base, the sizes of the matrices, and that all values are finite.
func (a *Adapter) Check() error {
	if err := a.Base.Validate(); err != nil {
		return err
	}
	if err := a.sized(); err != nil {
		return err
	}
	for i, t := range a.Base.Targets {
		if err := finite(t.Name+".lora_A", a.Pairs[i].A); err != nil {
			return err
		}
		if err := finite(t.Name+".lora_B", a.Pairs[i].B); err != nil {
			return err
		}
	}
	return nil
}

func finite(name string, values []float32) error {
	for i, v := range values {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("lora: tensor %s: value %d is %v, expected finite numbers", name, i, v)
		}
	}
	return nil
}

func (a *Adapter) sized() error {
	if len(a.Pairs) != len(a.Base.Targets) {
		return fmt.Errorf("lora: an adapter of %d modules has %d pairs of matrices", len(a.Base.Targets), len(a.Pairs))
	}
	r := a.Base.Rank
	for i, t := range a.Base.Targets {
		if len(a.Pairs[i].A) != r*t.In || len(a.Pairs[i].B) != t.Out*r {
			return fmt.Errorf("lora: module %s: matrices of %d and %d values, expected A (%d,%d) and B (%d,%d)",
				t.Name, len(a.Pairs[i].A), len(a.Pairs[i].B), r, t.In, t.Out, r)
		}
	}
	return nil
}

// fits checks that the adapter has the rank, modules and sizes of base.
func (a *Adapter) fits(base Base) error {
	if a.Base.Rank != base.Rank {
		return fmt.Errorf("lora: the adapter has rank %d, expected %d", a.Base.Rank, base.Rank)
	}
	for i, want := range base.Targets {
		if i >= len(a.Base.Targets) {
			return fmt.Errorf("lora: the adapter lacks module %s", want.Name)
		}
		if got := a.Base.Targets[i]; got != want {
			return fmt.Errorf("lora: the adapter has module %s (out %d, in %d) where %s (out %d, in %d) is expected",
				got.Name, got.Out, got.In, want.Name, want.Out, want.In)
		}
	}
	if n := len(base.Targets); len(a.Base.Targets) > n {
		return fmt.Errorf("lora: the adapter has module %s, which is not expected", a.Base.Targets[n].Name)
	}
	return a.sized()
}

// Norm is the Frobenius norm of what an adapter adds to one module's weight, or to all
// of a layer's.
type Norm struct {
	Name  string // the module; empty for a layer
	Layer int
	Value float64
}

// Norms gives ‖(alpha/rank)·B·A‖ of every module, in the order of the targets, and of
// every layer (the root of the sum of its modules' squares), by layer. B·A is not
// formed: the norm comes from the two rank×rank Gram matrices. Conversions keep products
// and sums from being fused: the bits are the same on every machine.
func (a *Adapter) Norms() (modules, layers []Norm, err error) {
	if err := a.Base.Validate(); err != nil {
		return nil, nil, err
	}
	if err := a.sized(); err != nil {
		return nil, nil, err
	}
	r := a.Base.Rank
	gain := a.Base.Alpha / float64(r)
	for i, t := range a.Base.Targets {
		m, err := parseModule(t.Name)
		if err != nil {
			return nil, nil, err
		}
		// ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB)∘(AAᵀ)
		ga := gram(a.Pairs[i].A, r, t.In, t.In, 1)
		gb := gram(a.Pairs[i].B, r, t.Out, 1, r)
		square := 0.0
		for k := range ga {
			square += float64(ga[k] * gb[k])
		}
		// Rounding can leave a tiny negative sum.
		norm := gain * math.Sqrt(max(square, 0))
		modules = append(modules, Norm{Name: t.Name, Layer: m.layer, Value: norm})
		if n := len(layers); n == 0 || layers[n-1].Layer != m.layer {
			layers = append(layers, Norm{Layer: m.layer})
		}
		last := &layers[len(layers)-1]
		last.Value = math.Sqrt(float64(last.Value*last.Value) + float64(norm*norm))
	}
	return modules, layers, nil
}

// gram is the r×r matrix of inner products of r vectors of n values; vector i begins at
// i·row, its values are step apart.
func gram(v []float32, r, n, row, step int) []float64 {
	g := make([]float64, r*r)
	x := make([]float64, r)
	for k := range n {
		for i := range r {
			x[i] = float64(v[i*row+k*step])
		}
		for i, xi := range x {
			for j, xj := range x[:i+1] {
				g[i*r+j] += float64(xi * xj)
			}
		}
	}
	for i := range r {
		for j := range i {
			g[j*r+i] = g[i*r+j]
		}
	}
	return g
}
