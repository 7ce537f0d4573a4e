package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/rivo/uniseg"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
)

const (
	leastColumn = 28 // characters of a text beside others
	gutter      = 2
)

// sideBySide writes texts with their heads in columns of a terminal of so many characters;
// one below the other where there is no room, or no terminal (0).
func sideBySide(w io.Writer, width int, heads, texts []string) {
	across := min(len(heads), (width+gutter)/(leastColumn+gutter))
	if across < 2 {
		for i := range heads {
			cli.Styled(w, cli.Bold, "%s:", heads[i])
			fmt.Fprintf(w, "\n%s\n", indented(texts[i]))
		}
		return
	}
	column := (width - gutter*(across-1)) / across
	for from := 0; from < len(heads); from += across {
		to := min(from+across, len(heads))
		if from > 0 {
			fmt.Fprintln(w)
		}
		row(w, column, heads[from:to], cli.Bold)
		row(w, column, texts[from:to], "")
	}
}

// row writes texts beside each other, each in lines of at most column characters, without
// blanks at their ends.
func row(w io.Writer, column int, texts []string, style cli.Style) {
	var lines [][]string
	most := 0
	for _, t := range texts {
		lines = append(lines, wrapped(t, column))
		most = max(most, len(lines[len(lines)-1]))
	}
	for i := range most {
		missing := 0 // blanks before the next cell
		for k := range lines {
			if i >= len(lines[k]) || lines[k][i] == "" {
				missing += column + gutter
				continue
			}
			fmt.Fprint(w, strings.Repeat(" ", missing))
			cli.Styled(w, style, "%s", lines[k][i])
			missing = column + gutter - uniseg.StringWidth(lines[k][i])
		}
		fmt.Fprintln(w)
	}
}

// wrapped breaks a text into lines of at most width columns, between words where it can.
func wrapped(text string, width int) []string {
	var lines []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		paragraph = strings.ReplaceAll(strings.TrimRight(paragraph, " \r"), "\t", "    ")
		line, state := "", -1
		for rest := paragraph; rest != ""; {
			var segment string
			segment, rest, _, state = uniseg.FirstLineSegmentInString(rest, state)
			if line != "" && uniseg.StringWidth(line+strings.TrimRight(segment, " ")) > width {
				lines, line = append(lines, strings.TrimRight(line, " ")), ""
			}
			for line += segment; uniseg.StringWidth(strings.TrimRight(line, " ")) > width; {
				head := fitting(line, width)
				lines, line = append(lines, head), line[len(head):]
			}
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// fitting is the beginning of a text that is not wider than width, at least one character.
func fitting(text string, width int) string {
	used, at := 0, 0
	for g := uniseg.NewGraphemes(text); g.Next(); {
		if used += g.Width(); used > width && at > 0 {
			break
		}
		_, at = g.Positions()
	}
	return text[:at]
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}
