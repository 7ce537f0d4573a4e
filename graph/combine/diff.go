package combine

import (
	"context"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Distance says how far what two adapters X and Y add to a weight is apart.
type Distance struct {
	Name string  `json:"name,omitempty"` // the module; empty for all together
	X    float64 `json:"x"`              // ‖X‖, Frobenius
	Y    float64 `json:"y"`              // ‖Y‖
	// Relative is ‖X-Y‖/‖X‖; ‖X-Y‖/‖Y‖ = 1 where X is zero.
	Relative float64 `json:"relative"`
	Cosine   float64 `json:"cosine"` // of the angle between X and Y; 0 where one is zero
	gap      float64 // ‖X-Y‖
	inner    float64 // X·Y
}

// Diff compares two adapters of one base model, by module in order, and all together. A
// module that one of them lacks is zero there.
func Diff(ctx context.Context, x, y *lora.Adapter) (modules []Distance, total Distance, err error) {
	for _, a := range []*lora.Adapter{x, y} {
		if err := a.Check(); err != nil {
			return nil, Distance{}, err
		}
	}
	base, err := union([]Term{{x, 1}, {y, 1}})
	if err != nil {
		return nil, Distance{}, err
	}
	modules = make([]Distance, len(base.Targets))
	err = each(ctx, len(modules), func(i int) error {
		modules[i] = distance(base.Targets[i], x, y)
		return nil
	})
	for _, m := range modules {
		total.X, total.Y = math.Hypot(total.X, m.X), math.Hypot(total.Y, m.Y)
		total.gap, total.inner = math.Hypot(total.gap, m.gap), total.inner+m.inner
	}
	total.finish()
	return modules, total, err
}

// distance of one module. With B = [b·Bx, -c·By] and A = [Ax; Ay], X-Y is B·A, and its
// norm that of the product of their R: as exact as the norms themselves, however near the
// two are.
func distance(t lora.Target, x, y *lora.Adapter) Distance {
	d := Distance{Name: t.Name}
	var bs, as []blas64.General
	for i, a := range []*lora.Adapter{x, y} {
		k := slices.Index(a.Base.Targets, t)
		if k < 0 {
			continue
		}
		r := a.Base.Rank
		b := widened(a.Pairs[k].B, t.Out, r, false)
		gain := a.Base.Alpha / float64(r)
		if i == 1 {
			gain = -gain
		}
		blas64.Scal(gain, vector(b.Data))
		bs, as = append(bs, b), append(as, widened(a.Pairs[k].A, r, t.In, true))
		norm := productNorm(b, as[len(as)-1])
		if i == 0 {
			d.X = norm
		} else {
			d.Y = norm
		}
	}
	d.gap = productNorm(beside(bs), beside(as))
	if len(bs) == 2 {
		// X·Y is the sum of (BxᵀBy)∘(AxAyᵀ); B of Y has its sign turned.
		inner, other := product(bs[0], bs[1], blas.Trans, blas.NoTrans), product(as[0], as[1], blas.Trans, blas.NoTrans)
		d.inner = -blas64.Dot(vector(inner.Data), vector(other.Data))
	}
	d.finish()
	return d
}

func (d *Distance) finish() {
	switch {
	case d.X > 0:
		d.Relative = d.gap / d.X
	case d.Y > 0:
		d.Relative = 1
	}
	if d.X > 0 && d.Y > 0 {
		d.Cosine = max(-1, min(1, d.inner/d.X/d.Y))
	}
}

// productNorm is ‖b·aᵀ‖ of two tall matrices, which stay.
func productNorm(b, a blas64.General) float64 {
	rb, _ := triangle(clone(b))
	ra, _ := triangle(clone(a))
	return frobenius(product(rb, ra, blas.NoTrans, blas.Trans))
}

func clone(m blas64.General) blas64.General {
	m.Data = slices.Clone(m.Data)
	return m
}

// beside puts matrices of equally many rows next to each other.
func beside(list []blas64.General) blas64.General {
	columns := 0
	for _, m := range list {
		columns += m.Cols
	}
	out := newMatrix(list[0].Rows, columns)
	at := 0
	for _, m := range list {
		for i := range m.Rows {
			copy(out.Data[i*out.Stride+at:], m.Data[i*m.Stride:i*m.Stride+m.Cols])
		}
		at += m.Cols
	}
	return out
}
