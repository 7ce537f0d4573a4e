package text

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalize does what BERT's normaliser does (reference a.2, step 2): control
// characters go, white space becomes a space, CJK ideographs stand alone, accents go,
// letters become lower case one by one.
func (t *Tokenizer) normalize(s string) string {
	var clean strings.Builder
	for _, r := range s {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			clean.WriteByte(' ')
		case r == 0 || r == unicode.ReplacementChar || isOther(r):
		case unicode.IsSpace(r):
			clean.WriteByte(' ')
		case isCJK(r):
			clean.WriteByte(' ')
			clean.WriteRune(r)
			clean.WriteByte(' ')
		default:
			clean.WriteRune(r)
		}
	}
	if !t.lower {
		return clean.String()
	}
	var out strings.Builder
	write := func(s string) {
		for _, r := range s {
			if !unicode.Is(unicode.Mn, r) || unicode.Is(kept, r) {
				out.WriteRune(toLower(r))
			}
		}
	}
	rest := clean.String()
	for rest != "" {
		plain := strings.IndexFunc(rest, isLater)
		if plain < 0 {
			plain = len(rest)
		}
		write(norm.NFD.String(rest[:plain]))
		_, size := utf8.DecodeRuneInString(rest[plain:])
		write(rest[plain : plain+size])
		rest = rest[plain+size:]
	}
	return out.String()
}

// isLater says whether r came to Unicode, or to its normalisation, after the reference's
// tokenizer: it takes such a mark for a letter that others are not sorted across.
func isLater(r rune) bool { return r >= rune(later.R16[0].Lo) && unicode.Is(later, r) }

// isOther says whether r is of category C*. Unassigned characters do not count: the
// reference's tokenizer keeps them.
func isOther(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs) && !unicode.Is(kept, r) || unicode.Is(dropped, r)
}

func toLower(r rune) rune {
	if r >= newerLower[0].lo {
		for _, n := range newerLower {
			if n.lo <= r && r <= n.hi {
				return r + n.by
			}
		}
	}
	return unicode.ToLower(r)
}

// isCJK says whether r lies in one of the blocks that BERT spaces out. Kana and hangul
// are not among them.
func isCJK(r rune) bool {
	switch {
	case 0x4E00 <= r && r <= 0x9FFF,
		0x3400 <= r && r <= 0x4DBF,
		0x20000 <= r && r <= 0x2A6DF,
		0x2A700 <= r && r <= 0x2B73F,
		0x2B740 <= r && r <= 0x2B81F,
		0x2B920 <= r && r <= 0x2CEAF,
		0xF900 <= r && r <= 0xFAFF,
		0x2F800 <= r && r <= 0x2FA1F:
		return true
	}
	return false
}

// isPunctuation says whether r is a word of its own: every ASCII symbol, and
// category P*.
func isPunctuation(r rune) bool {
	switch {
	case 33 <= r && r <= 47, 58 <= r && r <= 64, 91 <= r && r <= 96, 123 <= r && r <= 126:
		return true
	}
	return unicode.Is(unicode.P, r) && !unicode.Is(noPunctuation, r) || unicode.Is(extraPunctuation, r)
}
