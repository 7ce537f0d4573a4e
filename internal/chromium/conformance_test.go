package chromium_test

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/internal/chromium"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

// The browser is held to the table that native devices are held to.
func TestConformance(t *testing.T) {
	e, err := chromium.Open(t.Context(), chromium.Script(filepath.Join("..", "..")))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	t.Logf("device: %s", e.Device())
	backend := "Chromium, " + e.Device()
	conformance.RunAll(t, e, backend)
	t.Run("held", func(t *testing.T) { conformance.RunHeld(t, e, backend) })
	t.Run("generation", func(t *testing.T) { conformance.RunGeneration(t, e, backend) })
}
