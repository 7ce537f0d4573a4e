package cli

import (
	"bytes"
	"strings"
	"testing"
)

// Colours are the program's own: what steers a terminal in the text itself is still taken
// out, and where there is no terminal there are no colours.
func TestStyled(t *testing.T) {
	var b bytes.Buffer
	Styled(plain{&b, true}, Red, "%s", "a\x1b[32mb")
	if want := "\x1b[31ma\ufffd[32mb\x1b[0m"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	w := &bytes.Buffer{}
	Styled(person(w), Red, "%s", "a")
	message(person(w), "warning: b")
	if w.String() != "awarning: b\n" {
		t.Errorf("%q", w.String())
	}
	b.Reset()
	message(plain{&b, true}, "note: c")
	if !strings.HasPrefix(b.String(), "\x1b[36mnote:\x1b[0m c\n") {
		t.Errorf("%q", b.String())
	}
}
