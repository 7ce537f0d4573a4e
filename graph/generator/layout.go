package generator

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Layout is what an official checkpoint does not say of itself: the decoder's
// architecture and how its tokens are cut. It is written by hand.
type Layout struct {
	Decoder decoder.Config
	// Tiling has no Kind if the layout names no tokenizer.
	Tiling lora.Tiling
}

// maxLayout bounds a layout file.
const maxLayout = 1 << 20

// ReadLayout reads a layout file.
func ReadLayout(path string) (Layout, error) {
	raw, err := readSmall(path, maxLayout)
	if err != nil {
		return Layout{}, err
	}
	l, err := ParseLayout(raw)
	if err != nil {
		return Layout{}, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// ParseLayout reads the text of a layout: class, features, kernel_size and, for the
// class with projections, max_length and modified_length, as in the reference's
// settings (b.1, b.2); affine and tokens (decoder.Config's) for generators of this project. tokenizer is a tokenizer
// class of the reference or its alias (0.5B, 1.5B, 3B-VL, 7B), or "custom" with chunk,
// the columns of a chunk; token_size repeats (h,w). Other keys are ignored.
func ParseLayout(raw []byte) (Layout, error) {
	var f struct {
		Class          string  `json:"class"`
		Features       [][]int `json:"features"`
		KernelSize     int     `json:"kernel_size"`
		MaxLength      int     `json:"max_length"`
		ModifiedLength int     `json:"modified_length"`
		Affine         bool    `json:"affine"`
		Tokens         []int   `json:"tokens"`
		Tokenizer      string  `json:"tokenizer"`
		TokenSize      []int   `json:"token_size"`
		Chunk          int     `json:"chunk"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return Layout{}, fmt.Errorf("layout: %w", jsonError(raw, err))
	}
	var l Layout
	l.Decoder = decoder.Config{Class: f.Class, KernelSize: f.KernelSize, Affine: f.Affine}
	if f.Tokens != nil {
		if len(f.Tokens) != 3 || slices.Min(f.Tokens) < 1 {
			return Layout{}, fmt.Errorf("layout: tokens is %v, expected (T,h,w), the number and size of the weight tokens", f.Tokens)
		}
		l.Decoder.Tokens = [3]int(f.Tokens)
	}
	if f.Class == decoder.SuperLarge {
		l.Decoder.MaxLength, l.Decoder.ModifiedLength = f.MaxLength, f.ModifiedLength
	}
	for i, shape := range f.Features {
		if len(shape) != 3 {
			return Layout{}, fmt.Errorf("layout: features %d has %d axes, expected (N,H,W)", i, len(shape))
		}
		l.Decoder.Features = append(l.Decoder.Features, [3]int(shape))
	}
	if err := l.Decoder.Validate(); err != nil {
		return Layout{}, fmt.Errorf("layout: %w", err)
	}
	out := l.Decoder.Output()
	l.Tiling = lora.Tiling{Height: out[1], Width: out[2], Chunk: f.Chunk}
	if f.TokenSize != nil && (len(f.TokenSize) != 2 || f.TokenSize[0] != out[1] || f.TokenSize[1] != out[2]) {
		return Layout{}, fmt.Errorf("layout: token_size is %v, but the weight tokens are of %v", f.TokenSize, out[1:])
	}
	if f.Tokenizer != "" {
		var err error
		if l.Tiling.Kind, err = lora.Kind(f.Tokenizer); err != nil {
			return Layout{}, fmt.Errorf("layout: tokenizer: %w", err)
		}
	}
	if (f.Chunk != 0) != (l.Tiling.Kind == lora.CustomCut) || f.Chunk < 0 {
		return Layout{}, fmt.Errorf("layout: chunk is %d with tokenizer %q: a chunk size belongs to tokenizer %q, and only to it", f.Chunk, clip(f.Tokenizer), lora.CustomCut)
	}
	return l, nil
}
