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
	word := binary.LittleEndian.AppendUint32
	var factor []byte
	for _, f := range s.Factor {
		factor = word(factor, math.Float32bits(f))
	}
	at := 0
	run := func(stage, input string, tokens []byte) (*graph.Result, error) {
		return h.Run(ctx, stage, []graph.Input{{Name: input, Data: tokens}, {Name: InputPosition, Data: word(nil, uint32(at))}, {Name: InputFactor, Data: factor}}, nil)
	}
	// The last token is the first answer's step. What the others' last run reads beyond them
	// is written anew before it is used.
	for last := len(prompt) - 1; at < last; at = min(at+ReadTokens, last) {
		var tokens []byte
		for i := range rows * ReadTokens {
			tokens = word(tokens, uint32(prompt[min(at+i%ReadTokens, last)]))
		}
		if _, err := run(StageRead, InputPrompt, tokens); err != nil {
			return err
		}
	}
	next, ended := []int32{RowBase: prompt[at], RowAdapter: prompt[at]}, make([]bool, rows)
	for ; at < s.Length; at++ {
		var tokens []byte
		for _, id := range next {
			tokens = word(tokens, uint32(id))
		}
		result, err := run(StageAnswer, InputTokens, tokens)
		if err != nil {
			return err
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
