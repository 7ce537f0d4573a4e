package decoder

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// Tensor is one tensor of the decoder's weights by its state-dict key.
type Tensor struct {
	Name  string
	Shape []int
}

const (
	maxLayers   = 256
	maxElements = 1 << 36 // of one tensor or activation
)

// Validate checks the architecture. A decoder that passes has sizes that fit in memory
// arithmetic, if not in any device.
func (c Config) Validate() error {
	if c.Class != FullCond && c.Class != SuperLarge {
		return fmt.Errorf("decoder: class %q, expected %s or %s", c.Class, FullCond, SuperLarge)
	}
	if len(c.Features) < 2 || len(c.Features) > maxLayers+1 {
		return fmt.Errorf("decoder: %d features, expected 2 to %d", len(c.Features), maxLayers+1)
	}
	if c.KernelSize < 1 || c.KernelSize > wgsl.MaxKernelSize {
		return fmt.Errorf("decoder: kernel size %d, expected 1 to %d", c.KernelSize, wgsl.MaxKernelSize)
	}
	for i, f := range c.Features {
		if !fits(f[:]...) {
			return fmt.Errorf("decoder: features %d: shape %v is impossible or too large", i, f)
		}
	}
	if c.Class == SuperLarge {
		if !fits(c.MaxLength, c.ModifiedLength) || !fits(c.Features[0][0], c.MaxLength, c.Features[0][2]) {
			return fmt.Errorf("decoder: %s with max_length %d and modified_length %d, expected positive ones",
				c.Class, c.MaxLength, c.ModifiedLength)
		}
		if c.Features[0][1] != c.ModifiedLength {
			return fmt.Errorf("decoder: features 0 is %v, but modified_length is %d: they must agree in H", c.Features[0], c.ModifiedLength)
		}
	}
	if c.Tokens != [3]int{} && !fits(c.Tokens[:]...) {
		return fmt.Errorf("decoder: weight tokens of shape %v are impossible or too large", c.Tokens)
	}
	for _, t := range c.Tensors() {
		if !fits(t.Shape...) {
			return fmt.Errorf("decoder: tensor %s of shape %v is too large", t.Name, t.Shape)
		}
	}
	return nil
}

func fits(dims ...int) bool {
	n := 1
	for _, d := range dims {
		if d < 1 || d > maxElements/n {
			return false
		}
		n *= d
	}
	return true
}

// Condition is the shape (N, L, C) of one condition.
func (c Config) Condition() [3]int {
	s := c.Features[0]
	if c.Class == SuperLarge {
		s[1] = c.MaxLength
	}
	return s
}

// Output is the shape (T, h, w) of the weight tokens.
func (c Config) Output() [3]int {
	if c.Tokens != [3]int{} {
		return c.Tokens
	}
	return c.Features[len(c.Features)-1]
}

// Rank is the number of coordinates of the basis of weight tokens, 0 without one.
func (c Config) Rank() int {
	if c.Tokens == [3]int{} {
		return 0
	}
	return int(volume(c.Features[len(c.Features)-1]))
}

func volume(s [3]int) int64 { return int64(s[0]) * int64(s[1]) * int64(s[2]) }

// Residual says whether layer i adds its input to its output (reference section b.2).
func (c Config) Residual(i int) bool { return c.Features[i] == c.Features[i+1] }

func layerKey(i int, name string) string {
	return fmt.Sprintf("model.decoder.module_list.%d.%s", i, name)
}

// Tensors lists the tensors that the decoder reads, in the order of the reference's state
// dict (section b.2); criterion_weight, which only training reads, is not among them.
func (c Config) Tensors() []Tensor {
	var list []Tensor
	k := c.KernelSize
	for i := range len(c.Features) - 1 {
		n, h, w := c.Features[i][0], c.Features[i][1], c.Features[i][2]
		no, ho, wo := c.Features[i+1][0], c.Features[i+1][1], c.Features[i+1][2]
		add := func(name string, shape ...int) { list = append(list, Tensor{layerKey(i, name), shape}) }
		add("linear1.bias", ho, wo)
		add("linear1.norm.weight", h, w)
		add("linear1.norm.bias", h, w)
		add("linear1.conv1w.weight", wo, w, k, k)
		add("linear1.conv1h.weight", ho, h, k, k)
		add("linear1.conv2h.weight", ho, h, k, k)
		add("linear1.conv2w.weight", wo, w, k, k)
		add("linear2.weight", no, n, k, k)
		add("linear2.bias", no)
	}
	if c.Class == SuperLarge {
		list = append(list,
			Tensor{"down_proj.weight", []int{c.ModifiedLength, c.MaxLength}},
			Tensor{"down_proj.bias", []int{c.ModifiedLength}},
			Tensor{"gate_proj.weight", []int{c.ModifiedLength, c.ModifiedLength}},
			Tensor{"gate_proj.bias", []int{c.ModifiedLength}})
	}
	out := c.Output()
	if r := c.Rank(); r > 0 {
		list = append(list, Tensor{BasisKey, []int{int(volume(out)), r}})
	}
	if c.Affine {
		list = append(list,
			Tensor{"output.scale", []int{out[0]}},
			Tensor{"output.offset", []int{out[0], out[1], out[2]}})
	}
	return list
}
