package fit

import "github.com/drag-and-drop-lora/dnd/graph/decoder"

// Tensors lists what is fitted of a decoder: all but the two tensors of Affine, which
// standardisation computes.
func Tensors(c decoder.Config) []decoder.Tensor { return weights(c) }

// Initial draws the reference's initial weights (b.2, b.1), in the order of Tensors.
func Initial(c decoder.Config, seed int64) [][]float32 { return initial(c, seed) }
