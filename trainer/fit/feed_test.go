package fit

import (
	"slices"
	"testing"
)

// Whole tokens are dropped, about as many as asked for, and the same ones for a seed.
func TestDropTokens(t *testing.T) {
	const tokens, width = 1000, 3
	dropped := func(share float64, seed uint64) []int {
		x := slices.Repeat([]float32{1}, tokens*width)
		dropTokens(x, width, share, seed)
		var list []int
		for i := range tokens {
			token := x[i*width : (i+1)*width]
			if !slices.Contains([]float32{0, 1}, token[0]) || token[1] != token[0] || token[2] != token[0] {
				t.Fatalf("token %d became %v", i, token)
			}
			if token[0] == 0 {
				list = append(list, i)
			}
		}
		return list
	}
	a := dropped(0.2, 1)
	if n := len(a); n < 150 || n > 250 || !slices.Equal(a, dropped(0.2, 1)) || slices.Equal(a, dropped(0.2, 2)) {
		t.Errorf("%d of %d tokens dropped, expected about a fifth, by seed", n, tokens)
	}
	if n := len(dropped(0, 1)); n != 0 {
		t.Errorf("%d tokens dropped, expected none", n)
	}
}
