package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// printNorms draws the norm of every layer as a bar.
func printNorms(w io.Writer, layers []layerNorm) {
	const width = 40
	most := 0.0
	for _, l := range layers {
		most = max(most, l.Norm)
	}
	for i, l := range layers {
		head := ""
		if i == 0 {
			head = "norm"
		}
		bar := ""
		if most > 0 {
			bar = strings.Repeat("█", int(width*l.Norm/most+0.5))
		}
		fmt.Fprintf(w, "%-10s  layer %2d %9.4f  %s\n", head, l.Layer, l.Norm, bar)
	}
}

// size is a number of bytes for people.
func size(bytes int64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefix := float64(bytes)/unit, 0
	for value >= unit && prefix < 3 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[prefix])
}

// oneLine is the beginning of a text without line breaks.
func oneLine(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
