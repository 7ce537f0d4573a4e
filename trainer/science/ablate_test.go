package science

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// An ablation is scored on the held out tasks of its splits, and written as a table, a plot
// and JSON.
func TestAblate(t *testing.T) {
	out, c := t.TempDir(), few()
	names := []string{"mixing-rank-4", "basis-8", "encoder-dropout"}
	list, err := Ablate(t.Context(), c, names, minilm(t), out, openBackend(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(names) {
		t.Fatalf("%+v", list)
	}
	for i, a := range list {
		if a.Name != names[i] || a.Weights == 0 || a.FLOP == 0 || a.NLL.Value <= 0 || a.Seconds <= 0 {
			t.Errorf("%+v", a)
		}
	}
	if low, recipe := list[0], list[2]; low.Weights >= recipe.Weights || low.FLOP >= recipe.FLOP {
		t.Errorf("low-rank mixing has %d weights and %g FLOP, without %d and %g", low.Weights, low.FLOP, recipe.Weights, recipe.FLOP)
	}
	raw, err := os.ReadFile(filepath.Join(out, "ablations.json"))
	if err != nil {
		t.Fatal(err)
	}
	var written struct{ Ablations []Ablation }
	if err := json.Unmarshal(raw, &written); err != nil || !slices.Equal(written.Ablations, list) {
		t.Errorf("%v: %+v, want %+v", err, written.Ablations, list)
	}
	for _, name := range []string{"ablations.md", "ablations.png"} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
