package lora

import (
	"fmt"
)

// maxTokenValues bounds T·h·w: 8 GiB of float32, forty times the reference's largest.
const maxTokenValues = 1 << 31

// Layout says which part of which matrix every weight token holds. It is made by
// NewLayout and safe for concurrent use.
type Layout struct {
	base  Base
	h, w  int
	count int
	parts []part
	room  bool
}

// part is one matrix and its tokens: A as it is, B transposed, cut along the columns.
type part struct {
	target int
	b      bool
	n      int // columns of a chunk
	chunks int
	first  int // index of the first token
}

// NewLayout checks that a tiling fits a base model: every axis divides into its chunks,
// every chunk fits into a token.
func NewLayout(base Base, t Tiling) (*Layout, error) {
	if err := base.Validate(); err != nil {
		return nil, err
	}
	if t.Height < 2 || t.Width < 2 || t.Height%2 != 0 || t.Width%2 != 0 || t.Height > maxAxis || t.Width > maxAxis {
		return nil, fmt.Errorf("lora: token size (%d,%d), expected even numbers of 2 or more", t.Height, t.Width)
	}
	l := &Layout{base: base, h: t.Height, w: t.Width, room: base.Rank+2 <= t.Height}
	if base.Rank > t.Height {
		return nil, fmt.Errorf("lora: rank %d does not fit into tokens of height %d", base.Rank, t.Height)
	}
	for i, target := range base.Targets {
		na, nb, err := t.cut(target)
		if err != nil {
			return nil, err
		}
		for _, p := range []part{
			{target: i, n: na, chunks: target.In / na},
			{target: i, n: nb, chunks: target.Out / nb, b: true},
		} {
			if p.n > t.Width {
				return nil, fmt.Errorf("lora: module %s: a chunk of %d columns does not fit into tokens of width %d", target.Name, p.n, t.Width)
			}
			if p.n+2 > t.Width {
				l.room = false
			}
			p.first = l.count
			l.count += p.chunks
			if l.count > maxTokenValues/t.Height/t.Width {
				return nil, fmt.Errorf("lora: the tokens have more than %d values", maxTokenValues)
			}
			l.parts = append(l.parts, p)
		}
	}
	return l, nil
}

// Shape is (T, h, w): the number of tokens and the size of one.
func (l *Layout) Shape() (count, height, width int) { return l.count, l.h, l.w }

// Base is the base model that the layout was made for.
func (l *Layout) Base() Base { return l.base }

// FirstToken is the index of the first token of a target's A, and of its B.
func (l *Layout) FirstToken(target int) (a, b int) {
	return l.parts[2*target].first, l.parts[2*target+1].first
}

// Tokens turns an adapter into weight tokens, row-major (T, h, w): NaN where neither
// data nor frame is (reference c.3, c.5).
func Tokens(base Base, t Tiling, a *Adapter, mode Mode) ([]float32, error) {
	l, err := NewLayout(base, t)
	if err != nil {
		return nil, err
	}
	tokens := make([]float32, l.count*l.h*l.w)
	return tokens, l.Encode(a, mode, tokens)
}

// FromTokens turns weight tokens (T, h, w) into an adapter for base (reference c.4,
// c.5). Values come as the arithmetic gives them: a token whose data are NaN (a chunk
// of equal values has no others) gives NaN, which Adapter.Check and the writers refuse.
func FromTokens(base Base, t Tiling, tokens []float32, mode Mode) (*Adapter, error) {
	l, err := NewLayout(base, t)
	if err != nil {
		return nil, err
	}
	return l.Decode(tokens, mode)
}

// Encode is Tokens into a slice of T·h·w values.
func (l *Layout) Encode(a *Adapter, mode Mode, tokens []float32) error {
	if err := a.fits(l.base); err != nil {
		return err
	}
	size := l.h * l.w
	if len(tokens) != l.count*size {
		return fmt.Errorf("lora: %d token values, expected (%d,%d,%d)", len(tokens), l.count, l.h, l.w)
	}
	r := l.base.Rank
	c := codec{h: l.h, w: l.w, r: r, bf16: mode == BFloat16}
	var chunk []float32
	for _, p := range l.parts {
		chunk = append(chunk[:0], make([]float32, r*p.n)...)
		for k := range p.chunks {
			l.eachRow(a, p, k, func(i int, row []float32, stride int) {
				for j := range p.n {
					chunk[i*p.n+j] = row[j*stride]
				}
			})
			at := (p.first + k) * size
			c.encode(chunk, p.n, tokens[at:at+size])
		}
	}
	return nil
}

// Reversible is the error of a layout whose tokens cannot be turned back.
func (l *Layout) Reversible() error {
	if !l.room {
		return fmt.Errorf("lora: tokens of (%d,%d) have no room for the frame beside the data: they cannot be turned back", l.h, l.w)
	}
	return nil
}

// Decode is FromTokens with the layout's base and tiling.
func (l *Layout) Decode(tokens []float32, mode Mode) (*Adapter, error) {
	size := l.h * l.w
	if len(tokens) != l.count*size {
		return nil, fmt.Errorf("lora: %d token values, expected (%d,%d,%d)", len(tokens), l.count, l.h, l.w)
	}
	if err := l.Reversible(); err != nil {
		return nil, err
	}
	a := &Adapter{Base: l.base, Pairs: make([]Pair, len(l.base.Targets))}
	r := l.base.Rank
	for i, t := range l.base.Targets {
		a.Pairs[i] = Pair{A: make([]float32, r*t.In), B: make([]float32, t.Out*r)}
	}
	c := codec{h: l.h, w: l.w, r: r, bf16: mode == BFloat16}
	var chunk []float32
	for _, p := range l.parts {
		chunk = append(chunk[:0], make([]float32, r*p.n)...)
		for k := range p.chunks {
			at := (p.first + k) * size
			c.decode(tokens[at:at+size], p.n, chunk)
			l.eachRow(a, p, k, func(i int, row []float32, stride int) {
				for j := range p.n {
					row[j*stride] = chunk[i*p.n+j]
				}
			})
		}
	}
	return a, nil
}

// eachRow calls f with every row of chunk k of a part: element j of the row is
// row[j·stride], in place.
func (l *Layout) eachRow(a *Adapter, p part, k int, f func(i int, row []float32, stride int)) {
	r := l.base.Rank
	if p.b {
		b := a.Pairs[p.target].B[k*p.n*r:]
		for i := range r {
			f(i, b[i:], r)
		}
		return
	}
	in := l.base.Targets[p.target].In
	for i := range r {
		f(i, a.Pairs[p.target].A[i*in+k*p.n:], 1)
	}
}
