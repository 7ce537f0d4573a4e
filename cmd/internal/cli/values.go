package cli

import (
	"strings"

	"github.com/spf13/pflag"
)

// valuesKey is the annotation of a flag whose values are known.
const valuesKey = "values"

// Values declares all that a flag takes: it is refused with anything else, and completion
// offers them.
func Values(flags *pflag.FlagSet, name string, values ...string) {
	if err := flags.SetAnnotation(name, valuesKey, values); err != nil {
		panic("cli: " + err.Error()) // of the table of commands, which tests go through
	}
}

// checkValues refuses a flag with a value that was not declared.
func checkValues(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if values := f.Annotations[valuesKey]; err == nil && values != nil {
			err = OneOf(f.Name, f.Value.String(), values...)
		}
	})
	return err
}

// nearest is the name that was meant by a mistyped one, "" if none is near.
func nearest(typed string, names []string) string {
	best, least := "", (len(typed)+1)/3
	for _, name := range names {
		if d := distance(strings.ToLower(typed), name); d <= least && (best == "" || d < least) {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with the next that make a
// of b (optimal string alignment).
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// didYouMean is the end of an error about a mistyped name.
func didYouMean(prefix, typed string, names []string) string {
	if name := nearest(typed, names); name != "" {
		return ": did you mean " + prefix + name + "?"
	}
	return ""
}

func flagNames(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
