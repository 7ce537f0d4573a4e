package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
)

// Prompts of an unseen combination are near the shipped generator's tasks; everyday
// questions are not, and the warning says what that means.
func TestFarPromptsAreWarnedOf(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	for _, x := range []struct {
		prompts string
		far     bool
	}{
		{filepath.Join(models, "data", "test", "topic-tag.json"), false},
		{write(t, "everyday.txt", "What is the capital of France?\nHow do I bake bread?\nWho wrote Hamlet?\n"), true},
	} {
		r := clitest.OK(t, "generate", "--backend", "pjrt", "--generator", filepath.Join(models, "default"), "--prompts", x.prompts, "--out", filepath.Join(t.TempDir(), "adapter"))
		warned := strings.Contains(r.Stderr, "unlike all tasks that the generator was fitted on") && strings.Contains(r.Stderr, "may be no better than none")
		if warned != x.far {
			t.Errorf("%s: warned is %v: %s", x.prompts, warned, r.Stderr)
		}
	}
}
