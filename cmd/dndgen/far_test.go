package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Prompts of an unseen combination are near the shipped generator's tasks; everyday
// questions are not: the warning says what that means, and their adapter is weaker.
func TestFarPromptsAreWarnedOf(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	for _, x := range []struct {
		prompts string
		far     bool
		alpha   float64
	}{
		{filepath.Join(models, "data", "test", "topic-tag.json"), false, 16},
		{write(t, "everyday.txt", "What is the capital of France?\nHow do I bake bread?\nWho wrote Hamlet?\n"), true, 0.35 * 16},
	} {
		out := filepath.Join(t.TempDir(), "adapter")
		r := clitest.OK(t, "generate", "--backend", "pjrt", "--generator", filepath.Join(models, "default"), "--prompts", x.prompts, "--out", out)
		warned := strings.Contains(r.Stderr, "unlike all tasks that the generator was fitted on") && strings.Contains(r.Stderr, "may be no better than none")
		if warned != x.far {
			t.Errorf("%s: warned is %v: %s", x.prompts, warned, r.Stderr)
		}
		if weaker := strings.Contains(r.Stderr, "written at 0.35 of its strength"); weaker != x.far {
			t.Errorf("%s: told of less strength is %v: %s", x.prompts, weaker, r.Stderr)
		}
		a, err := lora.Read(out, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.Base.Alpha != x.alpha {
			t.Errorf("%s: alpha %v, want %v", x.prompts, a.Base.Alpha, x.alpha)
		}
	}
}
