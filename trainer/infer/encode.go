package infer

import (
	"context"
	"encoding/binary"
	"fmt"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// maxScores bounds the attention scores of one group of sequences, in bytes.
const maxScores = 64 << 20

// Encode runs the text encoder: ids and mask (texts, length), the weights "encoder/KEY"
// of w -> condition (texts, length, C). pads is generator.PadsEncoded or PadsZero. Equal
// sequences, such as the 512-chunks of long conditions that hold padding only, are
// computed once. report may be nil. The error is ctx's soon after ctx is done.
func (r *Runner) Encode(ctx context.Context, c encoder.Config, w graph.Weights, ids, mask []uint32, texts, length int, pads string, report func(graph.Progress)) ([]float32, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if pads != generator.PadsEncoded && pads != generator.PadsZero {
		return nil, fmt.Errorf("infer: pads %q, expected %q or %q", pads, generator.PadsEncoded, generator.PadsZero)
	}
	if err := text.CheckLength(length); err != nil {
		return nil, err
	}
	chunk := min(length, text.ChunkLength)
	if chunk > c.MaxPositionEmbeddings {
		return nil, fmt.Errorf("infer: texts of %d tokens, the encoder has %d positions", length, c.MaxPositionEmbeddings)
	}
	if texts < 1 || len(ids) != texts*length || len(mask) != texts*length {
		return nil, fmt.Errorf("infer: %d ids and %d mask values, expected (%d, %d)", len(ids), len(mask), texts, length)
	}
	for i, id := range ids {
		if int64(id) >= int64(c.VocabSize) {
			return nil, fmt.Errorf("infer: token id %d at %d, the encoder's vocabulary has %d", id, i, c.VocabSize)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	s := findSequences(ids, mask, chunk)
	e := encoding{job: job{Runner: r, ctx: ctx, weights: w, report: report}, config: c, chunk: chunk, pads: pads}
	rowMACs := int64(c.NumHiddenLayers) * int64(chunk) * int64(c.HiddenSize) *
		(4*int64(c.HiddenSize) + 2*int64(c.IntermediateSize) + 2*int64(chunk))
	group := min(r.limits.flop/(2*rowMACs), maxScores/(4*int64(c.NumAttentionHeads)*int64(chunk)*int64(chunk)))
	group = min(max(group, 1), int64(len(s.unique)))
	e.done = graph.Progress{Stage: encoder.Stage, Total: rowMACs * int64(len(s.unique))}
	if err := e.advance(0); err != nil {
		return nil, err
	}
	params, err := e.params()
	if err != nil {
		return nil, err
	}
	defer free(params...)

	out := make([]float32, texts*length*c.HiddenSize)
	row := chunk * c.HiddenSize
	values := make([]float32, int(group)*row)
	for at := 0; at < len(s.unique); at += int(group) {
		rows := s.unique[at:min(at+int(group), len(s.unique))]
		if err := e.group(params, ids, mask, rows, int(group), values); err != nil {
			return nil, err
		}
		for i, first := range rows {
			for _, to := range s.places[first] {
				copy(out[to*row:(to+1)*row], values[i*row:])
			}
		}
		e.collect()
		if err := e.advance(rowMACs * int64(len(rows))); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sequences are the rows of ids and mask that differ from each other.
type sequences struct {
	unique []int         // first row of each
	places map[int][]int // the rows that each stands for, by its first
}

func findSequences(ids, mask []uint32, chunk int) sequences {
	s := sequences{places: map[int][]int{}}
	seen := map[string]int{}
	key := make([]byte, 0, 8*chunk)
	for row := range len(ids) / chunk {
		key = key[:0]
		for i := row * chunk; i < (row+1)*chunk; i++ {
			key = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(key, ids[i]), mask[i])
		}
		first, ok := seen[string(key)]
		if !ok {
			first = row
			seen[string(key)] = row
			s.unique = append(s.unique, row)
		}
		s.places[first] = append(s.places[first], row)
	}
	return s
}

type encoding struct {
	job
	config encoder.Config
	chunk  int
	pads   string
}

// params reads all tensors: an encoder is small beside a decoder.
func (e *encoding) params() ([]*tensors.Tensor, error) {
	var list []*tensors.Tensor
	for _, t := range e.config.Tensors() {
		p, err := e.load(encoder.Prefix+t.Name, 0, t.Shape...)
		if err != nil {
			free(list...)
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// group encodes the given rows of ids and mask into values (size, chunk, C); rows beyond
// the given ones are of no meaning.
func (e *encoding) group(params []*tensors.Tensor, ids, mask []uint32, rows []int, size int, values []float32) error {
	groupIDs, groupMask := make([]int32, size*e.chunk), make([]int32, size*e.chunk)
	for i, row := range rows {
		for k := range e.chunk {
			groupIDs[i*e.chunk+k] = int32(ids[row*e.chunk+k])
			groupMask[i*e.chunk+k] = int32(min(mask[row*e.chunk+k], 1))
		}
	}
	args := []any{
		tensors.FromFlatDataAndDimensions(groupIDs, size, e.chunk),
		tensors.FromFlatDataAndDimensions(groupMask, size, e.chunk),
	}
	defer free(args[0].(*tensors.Tensor), args[1].(*tensors.Tensor))
	for _, p := range params {
		args = append(args, p)
	}
	list, pads, c := e.config.Tensors(), e.pads, e.config
	type with struct {
		encoder.Config
		pads string
	}
	y, err := e.run(operation{"encoder", with{c, pads}}, func(in []*gomlx.Node) *gomlx.Node {
		p := model.Params{}
		for i, t := range list {
			p[t.Name] = in[2+i]
		}
		return model.Encode(c, p, in[0], in[1], pads)
	}, args...)
	if err != nil {
		return err
	}
	return download(y, values)
}
