package cli

import (
	"io"
	"strings"
	"unicode"
)

// plain is a writer of text for people. Names, errors and answers come from files and
// servers that nobody vouches for: what would steer a terminal, or turn the order of letters
// around, arrives as U+FFFD.
type plain struct {
	w       io.Writer
	colours bool // for Styled
}

// Write implements io.Writer for whole characters, as fmt writes them.
func (p plain) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, strings.Map(printable, string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

func printable(r rune) rune {
	if r != '\n' && r != '\t' && unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r) {
		return unicode.ReplacementChar
	}
	return r
}
