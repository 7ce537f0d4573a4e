package experiment

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// Result is what a plan came to.
type Result struct {
	Splits []SplitResult `json:"splits"`
}

// SplitResult is one split's: its first seed has the rivals' scores, too.
type SplitResult struct {
	Split
	Train []string     `json:"train"`
	Seeds []SeedResult `json:"seeds"`
}

// SeedResult is one generator's.
type SeedResult struct {
	Seed   int64        `json:"seed"`
	Result *eval.Result `json:"result"`
}

// write writes result.json and result.md.
func (r *Result) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, "result.json"), func(w io.Writer) error { _, err := w.Write(append(raw, '\n')); return err }); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "result.md"), r.Markdown)
}

// Markdown writes each split's tables, and exact match and likelihood by seed.
func (r *Result) Markdown(w io.Writer) error {
	for _, s := range r.Splits {
		if _, err := fmt.Fprintf(w, "## %s\n\nHeld out: %s. For choices: %s. Trained: %d tasks.\n\n", s.Name, strings.Join(s.HeldOut, ", "), strings.Join(s.Validation, ", "), len(s.Train)); err != nil {
			return err
		}
		if err := s.Seeds[0].Result.Markdown(w); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n| seed | generated, exact match | nats an answer | foreign prompts, exact match | nats |\n|---|---|---|---|---|\n")
		var exact []float64
		for _, x := range s.Seeds {
			g, f := x.Result.Average[eval.Generated], x.Result.Average[eval.Foreign]
			exact = append(exact, g.Exact.Value)
			fmt.Fprintf(w, "| %d | %.3f | %.2f | %.3f | %.2f |\n", x.Seed, g.Exact.Value, g.NLL.Value, f.Exact.Value, f.NLL.Value)
		}
		if _, err := fmt.Fprintf(w, "\nDeviation of exact match over seeds: %.3f.\n\n", stats.Deviation(exact)); err != nil {
			return err
		}
	}
	return nil
}
