package combine

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Loss is what a cut to a lower rank leaves out, as a part of what was there (Frobenius
// norms): 0 is nothing, 1 all.
type Loss struct {
	Modules []float64 // in the order of the targets
	Total   float64   // of all modules together
}

// Rerank makes an adapter of another rank that adds as nearly the same as that rank can:
// every module's (alpha/rank)·B·A is cut to its largest singular values (Eckart and Young
// 1936). They are those of the small product of the factors' R, so that a module takes
// memory for its factors only. The new B and A take the root of the singular values each;
// alpha/rank stays. A rank above the old one adds zeros.
func Rerank(ctx context.Context, a *lora.Adapter, rank int) (*lora.Adapter, Loss, error) {
	out := &lora.Adapter{Base: a.Base, Pairs: make([]lora.Pair, len(a.Pairs))}
	out.Base.Rank = rank
	out.Base.Alpha = a.Base.Alpha / float64(a.Base.Rank) * float64(rank)
	if err := a.Check(); err != nil {
		return nil, Loss{}, err
	}
	if err := out.Base.Validate(); err != nil {
		return nil, Loss{}, err
	}
	loss := Loss{Modules: make([]float64, len(a.Pairs))}
	kept, left := make([]float64, len(a.Pairs)), make([]float64, len(a.Pairs))
	err := each(ctx, len(a.Pairs), func(i int) error {
		t := a.Base.Targets[i]
		pair, s, err := cut(a.Pairs[i], t, a.Base.Rank, rank)
		if err != nil {
			return err
		}
		out.Pairs[i] = pair
		k := min(rank, len(s))
		kept[i], left[i] = norm(s[:k]), norm(s[k:])
		loss.Modules[i] = part(left[i], math.Hypot(kept[i], left[i]))
		return nil
	})
	loss.Total = part(norm(left), math.Hypot(norm(kept), norm(left)))
	return out, loss, err
}

// each calls f for 0 … n-1 on all processors, up to the first error.
func each(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// cut brings a pair of rank r to another, and gives all singular values of B·A.
func cut(p lora.Pair, t lora.Target, r, rank int) (lora.Pair, []float64, error) {
	b := decompose(widened(p.B, t.Out, r, false))
	a := decompose(widened(p.A, r, t.In, true))
	u, vt, s, ok := singular(product(b.r, a.r, blas.NoTrans, blas.Trans))
	if !ok {
		return lora.Pair{}, nil, fmt.Errorf("combine: module %s: its singular values were not found", t.Name)
	}
	k := min(rank, len(s))
	for j := range k {
		root := math.Sqrt(s[j])
		blas64.Scal(root, blas64.Vector{N: u.Rows, Inc: u.Stride, Data: u.Data[j:]})
		blas64.Scal(root, blas64.Vector{N: vt.Cols, Inc: 1, Data: vt.Data[j*vt.Stride:]})
	}
	u.Cols, vt.Rows = k, k
	left, right := product(b.q, u, blas.NoTrans, blas.NoTrans), product(vt, a.q, blas.NoTrans, blas.Trans)
	out := lora.Pair{A: make([]float32, rank*t.In), B: make([]float32, t.Out*rank)}
	for i := range t.Out {
		for j := range k {
			out.B[i*rank+j] = float32(left.Data[i*left.Stride+j])
		}
	}
	for i, v := range right.Data {
		out.A[i] = float32(v)
	}
	return out, s, nil
}

func norm(v []float64) float64 { return blas64.Nrm2(vector(v)) }

// part is x/whole, 0 of nothing.
func part(x, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return x / whole
}
