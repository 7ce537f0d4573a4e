package fit

import "github.com/drag-and-drop-lora/dnd/trainer/linear"

// basis is Standard.Basis: the directions in which the means of the data sets' checkpoints,
// standardised, differ most. NaN of a token, where it holds nothing, count as zero.
func (d *Data) basis(s *Standard, rank int) ([]float32, error) {
	means := make([][]float32, len(d.Sets))
	for i, set := range d.Sets {
		means[i] = make([]float32, len(s.Mean))
		part := 1 / float32(len(set.Checkpoints))
		for j := range set.Checkpoints {
			tokens, err := d.tokens(i, j)
			if err != nil {
				return nil, err
			}
			s.apply(tokens)
			for k, v := range tokens {
				if v == v {
					means[i][k] += part * v
				}
			}
		}
	}
	return linear.Principal(means, rank)
}
