package science

import (
	"maps"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// mixing ends the name of a kernel (N',N,k,k) that mixes over N. A factored one has two
// tensors in its place: down (rank,N,k,k) and up (N',rank), whose product it is.
const (
	mixing = ".linear2.weight"
	down   = ".down"
	up     = ".up"
)

// factors tells whether a tensor of that name and shape is replaced by factors of a rank:
// where it mixes over N and they are smaller.
func factors(t decoder.Tensor, rank int) bool {
	return rank > 0 && strings.HasSuffix(t.Name, mixing) && factoredSize(t.Shape, rank) < wholeSize(t.Shape)
}

// wholeSize and factoredSize are how many weights a kernel over N has, as it is and as two
// factors; that many multiply-accumulates it also takes at each position of its plane.
func wholeSize(shape []int) int              { return shape[0] * shape[1] * shape[2] * shape[3] }
func factoredSize(shape []int, rank int) int { return rank*shape[1]*shape[2]*shape[3] + shape[0]*rank }

// factored puts factors of a rank in place of the kernels that they are smaller than.
// values are the tensors' first; the factors' product starts with the deviation of the kernel.
func factored(list []decoder.Tensor, values [][]float32, rank int, seed int64) ([]decoder.Tensor, [][]float32) {
	rng := rand.New(rand.NewPCG(uint64(seed), 0xfac))
	var tensors []decoder.Tensor
	var initial [][]float32
	for i, t := range list {
		if !factors(t, rank) {
			tensors, initial = append(tensors, t), append(initial, values[i])
			continue
		}
		second := make([]float32, t.Shape[0]*rank)
		for j := range second {
			second[j] = float32((2*rng.Float64() - 1) * math.Sqrt(3/float64(rank)))
		}
		first := append([]int{rank}, t.Shape[1:]...)
		tensors = append(tensors, decoder.Tensor{Name: t.Name + down, Shape: first}, decoder.Tensor{Name: t.Name + up, Shape: []int{t.Shape[0], rank}})
		initial = append(initial, values[i][:wholeSize(first)], second)
	}
	return tensors, initial
}

// multiply gives p the kernels whose factors it has.
func multiply(p model.Params) {
	whole := model.Params{}
	for name, w := range p {
		if kernel, ok := strings.CutSuffix(name, up); ok {
			whole[kernel] = graph.Einsum("or,rikl->oikl", w, p[kernel+down])
		}
	}
	maps.Copy(p, whole)
}

// macs are the multiply-accumulates of generating one adapter.
func (g *network) macs() int64 {
	n, layer := g.config.MACs(1), 0
	for _, t := range fit.Tensors(g.config) {
		if !strings.HasSuffix(t.Name, mixing) {
			continue
		}
		layer++
		if rank := g.c.Generator.MixingRank; factors(t, rank) {
			plane := g.config.Features[layer][1] * g.config.Features[layer][2]
			n -= int64(plane * (wholeSize(t.Shape) - factoredSize(t.Shape, rank)))
		}
	}
	return n
}
