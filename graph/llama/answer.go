package llama

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

// Answer reads a prompt's tokens and then the likeliest token after token in each row, until
// the row's is one of ends or the step's positions are used up. token is called with each,
// but for ends, as it comes; an error of its stops.
func (s *Step) Answer(ctx context.Context, h graph.Held, prompt, ends []int32, token func(row int, id int32) error) error {
	if len(prompt) == 0 || len(prompt) > s.Length {
		return fmt.Errorf("llama: a prompt of %d tokens, expected 1 to %d: what the step is planned for", len(prompt), s.Length)
	}
	var factor []byte
	for _, f := range s.Factor {
		factor = binary.LittleEndian.AppendUint32(factor, math.Float32bits(f))
	}
	next, ended := make([]int32, rows), make([]bool, rows)
	for at := range s.Length {
		if at < len(prompt) {
			next[RowBase], next[RowAdapter] = prompt[at], prompt[at]
		}
		var tokens []byte
		for _, id := range next {
			tokens = binary.LittleEndian.AppendUint32(tokens, uint32(id))
		}
		result, err := h.Run(ctx, []graph.Input{{Name: InputTokens, Data: tokens},
			{Name: InputPosition, Data: binary.LittleEndian.AppendUint32(nil, uint32(at))}, {Name: InputFactor, Data: factor}})
		if err != nil {
			return err
		}
		if at < len(prompt)-1 {
			continue
		}
		raw, ok := result.Output(OutputNext)
		if !ok || len(raw) != 4*rows {
			return fmt.Errorf("llama: a step gave %d bytes of %s, expected %d", len(raw), OutputNext, 4*rows)
		}
		for row := range rows {
			next[row] = int32(binary.LittleEndian.Uint32(raw[4*row:]))
			ended[row] = ended[row] || slices.Contains(ends, next[row])
			if ended[row] {
				continue
			}
			if err := token(row, next[row]); err != nil {
				return err
			}
		}
		if !slices.Contains(ended, false) {
			return nil
		}
	}
	return nil
}

// Ends are the tokens that end an answer: the end of a turn, and what a file says ends a text.
func Ends(f *gguf.File, t *Tokenizer) ([]int32, error) {
	end, err := t.End()
	if err != nil {
		return nil, err
	}
	ends := []int32{end}
	for _, key := range []string{"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"} {
		kv, _ := f.Lookup(key)
		if id, ok := kv.Value.(uint64); ok && id < uint64(t.Size()) && !slices.Contains(ends, int32(id)) {
			ends = append(ends, int32(id))
		}
	}
	return ends, nil
}
