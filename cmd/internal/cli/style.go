package cli

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"golang.org/x/term"
)

// Style is how Styled shows a text where there are colours: the parameters of the terminal's
// "select graphic rendition" (ECMA-48).
type Style string

// The styles, of the sixteen colours that people have chosen for their terminal.
const (
	Bold   Style = "1"
	Red    Style = "31"
	Green  Style = "32"
	Yellow Style = "33"
	Blue   Style = "34"
	Cyan   Style = "36"
)

// Styled writes a formatted text in a style, if w is a command's output (of Result's text,
// say) on a terminal that shows colours; plain otherwise.
func Styled(w io.Writer, s Style, format string, args ...any) {
	p, ok := w.(plain)
	if !ok || !p.colours || s == "" {
		fmt.Fprintf(w, format, args...)
		return
	}
	// Past plain, which lets nothing through that steers a terminal.
	fmt.Fprintf(p.w, "\x1b[%sm", s)
	fmt.Fprintf(p, format, args...)
	fmt.Fprint(p.w, "\x1b[0m")
}

// person makes a writer for text that people read.
func person(w io.Writer) plain { return plain{w, colours(w)} }

// colours says whether to write in colours: on a terminal that has them, unless NO_COLOR is
// set (no-color.org).
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())) && enableColours(f)
}

// marks are the words that a message begins with, and how they stand out.
var marks = map[string]Style{"warning:": Yellow, "note:": Cyan}

// message writes a line, its mark in colour.
func message(w io.Writer, text string) {
	for mark, style := range marks {
		if rest, ok := strings.CutPrefix(text, mark); ok {
			Styled(w, style, "%s", mark)
			text = rest
		}
	}
	fmt.Fprintln(w, text)
}

// emptyDefaults are what pflag prints of flags whose default their usage explains.
var emptyDefaults = regexp.MustCompile(`(?m) \(default (\[\]|-1)\)$`)
