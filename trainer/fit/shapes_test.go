package fit_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// Every named decoder has a recipe that is valid, with the reference's texts, length,
// pairs a step and steps (b.4, d.4).
func TestForShape(t *testing.T) {
	want := map[string][4]int{
		"0.5b":        {128, 384, 64, 4000},
		"1.5b-coding": {16, 26624, 48, 2500},
		"1.5b-math":   {32, 4608, 128, 5000},
		"7b-coding":   {16, 26624, 48, 5000},
		"7b-math":     {16, 4608, 48, 5000},
		"3b-vl":       {16, 1536, 64, 5000},
		"mini":        {4, 16, 64, 4000},
	}
	for _, name := range generator.Shapes() {
		c, err := fit.ForShape(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := [4]int{c.Texts, c.Length, c.Batch, c.Steps}; got != want[name] {
			t.Errorf("%s: texts, length, batch and steps %v, want %v", name, got, want[name])
		}
	}
	if _, err := fit.ForShape("70b"); err == nil {
		t.Error("an unknown shape was accepted")
	}
}
