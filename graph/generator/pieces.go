package generator

import (
	"errors"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// maxHalvings is how often pieces are halved for want of memory: then launching them all
// takes longer than computing.
const maxHalvings = 3

// InPieces runs a Program. Where the device's memory does not suffice (graph.ErrMemory), it
// is compiled anew with tensors cut into smaller pieces: what is packed and padded for one
// convolution, and its sums, are there once a piece, so less of them is alive at a time.
// smaller is told the bytes of a piece before each new try, and they are returned when one
// suffices; 0 is the Program as it came.
func InPieces(p *graph.Program, limits graph.Limits, compile func(graph.Limits) (*graph.Program, error), run func(*graph.Program) error, smaller func(piece int64)) (piece int64, err error) {
	err = run(p)
	for range maxHalvings {
		if !errors.Is(err, graph.ErrMemory) {
			break
		}
		whole := largest(p)
		limits.MaxStorageBufferBindingSize = whole / 2
		next, compileErr := compile(limits)
		if compileErr != nil {
			return 0, fmt.Errorf("%w (and pieces of less than %d bytes are not possible)", err, whole)
		}
		p, piece = next, limits.MaxStorageBufferBindingSize
		smaller(piece)
		if err = run(p); err != nil {
			err = fmt.Errorf("in pieces of at most %d bytes: %w", piece, err)
		}
	}
	return piece, err
}

// PiecesNote tells a person what InPieces does.
func PiecesNote(piece int64) string {
	return fmt.Sprintf("GPU memory does not suffice: computing in pieces of at most %d bytes", piece)
}

// largest is the size of a Program's largest buffer.
func largest(p *graph.Program) int64 {
	bytes := int64(0)
	for _, b := range p.Buffers {
		bytes = max(bytes, b.Bytes)
	}
	return bytes
}
