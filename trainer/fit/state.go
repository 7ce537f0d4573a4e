package fit

import (
	"math"
	"math/rand/v2"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
)

// state is what a step changes, on one device: parameters, both moments and, with
// Config.Average, the mean of the parameters; each in the order of weights.
type state struct {
	params, first, second, average []*tensors.Tensor
}

// parts are the lists of a state with the prefixes of their names in a checkpoint.
func (s *state) parts(c *Config) []statePart {
	all := []statePart{{"", &s.params}, {"first.", &s.first}, {"second.", &s.second}}
	if c.Average > 0 {
		all = append(all, statePart{"average.", &s.average})
	}
	return all
}

type statePart struct {
	prefix string
	list   *[]*tensors.Tensor
}

// initialState is a run's before its first step.
func initialState(c *Config, st *Standard) *state {
	s := &state{}
	list := c.fitted()
	for i, v := range c.initial(st) {
		make := func(v []float32) *tensors.Tensor { return tensors.FromFlatDataAndDimensions(v, list[i].Shape...) }
		s.params = append(s.params, make(v))
		s.first = append(s.first, tensors.FromShape(s.params[i].Shape()))
		s.second = append(s.second, tensors.FromShape(s.params[i].Shape()))
		if c.Average > 0 {
			s.average = append(s.average, make(append([]float32(nil), v...)))
		}
	}
	return s
}

// copies are n states equal to s, the first of them s itself.
func (s *state) copies(c *Config, n int) ([]*state, error) {
	all := []*state{s}
	for len(all) < n {
		other := &state{}
		from, to := s.parts(c), other.parts(c)
		for i := range from {
			var err error
			if *to[i].list, err = copied(*from[i].list); err != nil {
				return nil, err
			}
		}
		all = append(all, other)
	}
	return all, nil
}

// weights lists the fitted tensors: the decoder's, less those that Standardise computes.
func weights(c decoder.Config) []decoder.Tensor {
	c.Affine, c.Tokens = false, [3]int{}
	return c.Tensors()
}

// changeKey is, in a run's checkpoint, the change of the basis from the principal directions,
// in units of Config.BasisRate.
const changeKey = "output.basis.change"

// fitted lists what a run's steps change.
func (c *Config) fitted() []decoder.Tensor {
	list := weights(c.Decoder)
	if c.BasisRate > 0 {
		out := c.Decoder.Output()
		list = append(list, decoder.Tensor{Name: changeKey, Shape: []int{int(volume(out[:]...)), c.Decoder.Rank()}})
	}
	return list
}

// initial are the values of fitted before the first step.
func (c *Config) initial(st *Standard) [][]float32 {
	all := initial(c.Decoder, c.Seed)
	if c.LinearStart {
		st.start.place(c.Decoder, all)
	}
	for _, t := range c.fitted()[len(all):] {
		all = append(all, make([]float32, volume(t.Shape...)))
	}
	return all
}

// initial draws the reference's initial weights (b.2, b.1).
func initial(c decoder.Config, seed int64) [][]float32 {
	k2 := float64(c.KernelSize * c.KernelSize)
	rng := rand.New(rand.NewPCG(uint64(seed), 0x5eed))
	var all [][]float32
	fill := func(t decoder.Tensor, f func() float64) {
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(f())
		}
		all = append(all, v)
	}
	uniform := func(fan float64) func() float64 {
		bound := 1 / math.Sqrt(fan)
		return func() float64 { return (2*rng.Float64() - 1) * bound }
	}
	one := func() float64 { return 1 }
	zero := func() float64 { return 0 }
	list := weights(c)
	for i := range len(c.Features) - 1 {
		n, out := c.Features[i], c.Features[i+1]
		layer := list[9*i : 9*i+9]
		area := float64(out[1] * out[2])
		fill(layer[0], uniform(area*area)) // U(±1/(H'·W'))
		fill(layer[1], one)
		fill(layer[2], zero)
		fill(layer[3], uniform(float64(n[2])*k2))
		fill(layer[4], uniform(float64(n[1])*k2))
		fill(layer[5], uniform(float64(n[1])*k2))
		fill(layer[6], uniform(float64(n[2])*k2))
		fill(layer[7], uniform(float64(n[0])*k2))
		fill(layer[8], uniform(float64(n[0])*k2))
	}
	if c.Class == decoder.SuperLarge {
		last := list[len(list)-4:]
		fill(last[0], rng.NormFloat64)
		fill(last[1], uniform(float64(c.MaxLength)))
		fill(last[2], rng.NormFloat64)
		fill(last[3], uniform(float64(c.ModifiedLength)))
	}
	return all
}
