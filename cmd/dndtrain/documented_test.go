package main

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
)

// The documentation's examples name commands and flags that there are.
func TestDocumented(t *testing.T) {
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := clitest.Documented(t, "dndtrain", append(docs, "../../README.md", "../../RATIONALE.md", "../../models/README.md")...); n < 20 {
		t.Errorf("%d examples were read, expected those of README.md, docs and models", n)
	}
}
