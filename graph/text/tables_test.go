package text

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Every character is normalised, told apart and sorted as the reference's tokenizer does
// it. A new Go with a newer Unicode fails here: then the tables need the characters that
// the test names.
func TestEveryCharacter(t *testing.T) {
	raw, err := os.ReadFile("testdata/characters.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Dropped, Space, Spaced, Punctuation, Ordered, Lower [][]rune
		Digest                                              string `json:"normalized_sha256"`
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	set := func(ranges [][]rune) map[rune]bool {
		m := map[rune]bool{}
		for _, r := range ranges {
			for c := r[0]; c <= r[1]; c++ {
				m[c] = true
			}
		}
		return m
	}
	lower := map[rune]rune{}
	for _, r := range want.Lower {
		for c := r[0]; c <= r[1]; c++ {
			lower[c] = c + r[2]
		}
	}
	dropped, space, spaced := set(want.Dropped), set(want.Space), set(want.Spaced)
	punctuation, ordered := set(want.Punctuation), set(want.Ordered)

	tok := &Tokenizer{lower: true}
	digest := sha256.New()
	wrong := 0
	check := func(c rune, what string, got, want bool) {
		if got != want {
			if wrong++; wrong <= 20 {
				t.Errorf("%U %s: %v, want %v", c, what, got, want)
			}
		}
	}
	for c := rune(0); c <= utf8.MaxRune; c++ {
		if !utf8.ValidRune(c) {
			continue
		}
		got := tok.normalize("a" + string(c) + "b")
		fmt.Fprintln(digest, got)
		check(c, "dropped", got == "ab", dropped[c])
		check(c, "space", got == "a b", space[c])
		check(c, "ideograph", isCJK(c), spaced[c])
		check(c, "punctuation", isPunctuation(c), punctuation[c])
		if c != 'İ' { // two characters, but NFD takes it apart before
			small, ok := lower[c]
			if !ok {
				small = c
			}
			check(c, "lower case", toLower(c) == small, true)
		}
		p := norm.NFD.PropertiesString(string(c))
		mark := p.CCC() != 0 && p.Decomposition() == nil
		check(c, "sorted mark", mark && !isLater(c), ordered[c])
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != want.Digest {
		t.Errorf("normalised characters have SHA-256 %s, want %s", got, want.Digest)
	}
}
