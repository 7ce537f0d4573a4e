package generator

import (
	"context"
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// run compiles a Program for the memory there is, and runs it.
func (r *ExecutorRunner) run(ctx context.Context, p *Package, compile program, in []graph.Input, report func(graph.Progress)) (values []float32, err error) {
	planned, piece, err := r.plan(compile)
	if err != nil {
		return nil, err
	}
	if piece > 0 {
		r.note(PiecesNote(piece))
	}
	run := func(q *graph.Program) error {
		values, err = r.once(ctx, p, q, in, report)
		return err
	}
	if r.over(planned) > 0 { // which the executor says
		if err := run(planned); err != nil && piece > 0 {
			return nil, fmt.Errorf("in pieces of at most %d bytes: %w", piece, err)
		}
		return values, err
	}
	// The device may have less than it says, and others use it.
	smaller, err := InPieces(planned, r.exec.Limits(), compile, run, func(piece int64) { r.note(PiecesNote(piece)) })
	if smaller > 0 {
		piece = smaller
	}
	if err == nil && piece > 0 {
		r.piece = piece
	}
	return values, err
}

// over is by how many bytes a Program needs more than the executor's budget.
func (r *ExecutorRunner) over(p *graph.Program) int64 {
	if e, ok := r.exec.(graph.Budgeted); ok && e.Budget() > 0 {
		return e.Need(p) - e.Budget()
	}
	return 0
}

// limits are the executor's, in pieces that its memory has sufficed for.
func (r *ExecutorRunner) limits() graph.Limits {
	limits := r.exec.Limits()
	if r.piece > 0 {
		limits.MaxStorageBufferBindingSize = min(limits.MaxStorageBufferBindingSize, r.piece)
	}
	return limits
}

// mostHalvings is how often pieces are halved to fit a budget: then launching them all takes
// longer than computing.
const mostHalvings = 5

// plan compiles a Program that fits the executor's budget: for the device's limits if that
// is little enough, else in pieces of at most so many bytes, and at last by direct summation,
// which takes the least. If none fits, it is the smallest of the last, whose need the
// executor will name: that does not depend on the budget.
func (r *ExecutorRunner) plan(compile program) (best *graph.Program, piece int64, err error) {
	limits := r.limits()
	best, err = compile(limits)
	if err != nil && r.piece > 0 { // another generator, which needs larger ones
		limits = r.exec.Limits()
		best, err = compile(limits)
	}
	if err != nil || r.over(best) <= 0 {
		return best, 0, err
	}
	whole := largest(best)
	for _, tuning := range []*graph.Tuning{limits.Tuning, {All: graph.ConvWay{Method: graph.Direct}}} {
		limits.Tuning = tuning
		least := int64(math.MaxInt64)
		for size := whole; size > whole>>(mostHalvings+1); size /= 2 {
			limits.MaxStorageBufferBindingSize = size
			p, err := compile(limits)
			if err != nil { // pieces this small do not do for these shapes
				break
			}
			if over := r.over(p); over < least {
				best, least, piece = p, over, size
			}
			if least <= 0 {
				return best, piece, nil
			}
		}
	}
	return best, piece, nil
}
