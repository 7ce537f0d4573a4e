package main

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
)

// The documentation's examples name commands and flags that there are.
func TestDocumented(t *testing.T) { clitest.Documented(t, "dndtrain", 20) }
