package infer

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

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
// computed once, and all in groups of similar length (passes): no further than their text
// where padding is zero, and without keys and values beyond it where padding is encoded.
// report may be nil. The error is ctx's soon after ctx is done.
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
	passes := e.passes(s.unique, func(row int) int {
		n := chunk
		for n > 0 && mask[row*chunk+n-1] == 0 {
			n--
		}
		return n
	})
	e.done = graph.Progress{Stage: encoder.Stage}
	for _, p := range passes {
		e.done.Total += p.macs * int64(len(p.rows))
	}
	if err := e.advance(0); err != nil {
		return nil, err
	}
	params, err := e.params()
	if err != nil {
		return nil, err
	}
	defer free(slices.Collect(maps.Values(params))...)

	out := make([]float32, texts*length*c.HiddenSize)
	for _, p := range passes {
		size := e.groupSize(p)
		values := make([]float32, size*p.tokens*c.HiddenSize)
		for rows := range slices.Chunk(p.rows, size) {
			if err := e.group(params, ids, mask, p, rows, size, values); err != nil {
				return nil, err
			}
			for i, first := range rows {
				for _, to := range s.places[first] {
					e.place(out, to, values[i*p.tokens*c.HiddenSize:], p.tokens, mask[first*chunk:])
				}
			}
			e.collect()
			if err := e.advance(p.macs * int64(len(rows))); err != nil {
				return nil, err
			}
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

// params reads all tensors, by their names: an encoder is small beside a decoder.
func (e *encoding) params() (map[string]*tensors.Tensor, error) {
	all := map[string]*tensors.Tensor{}
	for _, t := range e.config.Tensors() {
		p, err := e.load(encoder.Prefix+t.Name, 0, t.Shape...)
		if err != nil {
			free(slices.Collect(maps.Values(all))...)
			return nil, err
		}
		all[t.Name] = p
	}
	return all, nil
}

// place copies a sequence's values (tokens, C) to row to of the condition, where zeros stay
// at padding if it is zero.
func (e *encoding) place(out []float32, to int, values []float32, tokens int, mask []uint32) {
	width := e.config.HiddenSize
	row := out[to*e.chunk*width:]
	for k := range tokens {
		if e.pads == generator.PadsEncoded || mask[k] != 0 {
			copy(row[k*width:(k+1)*width], values[k*width:])
		}
	}
}

// group encodes the given rows of ids and mask into values (size, p.tokens, C); what is in
// values beyond the given rows has no meaning.
func (e *encoding) group(params map[string]*tensors.Tensor, ids, mask []uint32, p pass, rows []int, size int, values []float32) error {
	groupIDs, groupMask := make([]int32, size*p.tokens), make([]int32, size*p.keys)
	for i, row := range rows {
		for k := range p.tokens {
			groupIDs[i*p.tokens+k] = int32(ids[row*e.chunk+k])
		}
		for k := range p.keys {
			groupMask[i*p.keys+k] = int32(min(mask[row*e.chunk+k], 1))
		}
	}
	idTensor := tensors.FromFlatDataAndDimensions(groupIDs, size, p.tokens)
	maskTensor := tensors.FromFlatDataAndDimensions(groupMask, size, p.keys)
	defer free(idTensor, maskTensor)

	c := e.config
	x, err := e.part("embeddings", params, embedding(c), []any{idTensor}, func(in []*gomlx.Node, p model.Params) *gomlx.Node {
		return model.Embed(c, p, in[0], nil)
	})
	if err != nil {
		return err
	}
	for i := range c.NumHiddenLayers {
		y, err := e.part("encoder layer", params, layer(c, i), []any{x, maskTensor}, func(in []*gomlx.Node, p model.Params) *gomlx.Node {
			return model.EncoderLayer(c, p, 0, in[0], in[1], nil)
		})
		free(x)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		x = y
	}
	return download(x, values)
}

// part computes one part of the encoder. names are its tensors, and what they are called
// in the graph, which all layers share.
func (e *encoding) part(name string, params map[string]*tensors.Tensor, names [][2]string, args []any, build func(in []*gomlx.Node, p model.Params) *gomlx.Node) (*tensors.Tensor, error) {
	own := len(args)
	for _, n := range names {
		args = append(args, params[n[0]])
	}
	return e.run(operation{name, e.config}, func(in []*gomlx.Node) *gomlx.Node {
		p := model.Params{}
		for i, n := range names {
			p[n[1]] = in[own+i]
		}
		return build(in[:own], p)
	}, args...)
}

// embedding lists the tensors of the embeddings.
func embedding(c encoder.Config) [][2]string {
	var list [][2]string
	for _, t := range c.Tensors() {
		if strings.HasPrefix(t.Name, "embeddings.") {
			list = append(list, [2]string{t.Name, t.Name})
		}
	}
	return list
}

// layer lists the tensors of layer i, and their names in layer 0.
func layer(c encoder.Config, i int) [][2]string {
	var list [][2]string
	for _, t := range c.Tensors() {
		if rest, ok := strings.CutPrefix(t.Name, encoder.LayerKey(i, "")); ok {
			list = append(list, [2]string{t.Name, encoder.LayerKey(0, rest)})
		}
	}
	return list
}
