package science

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// An ablation is scored on the held out tasks of its splits, and written as a table, a plot
// and JSON.
func TestAblate(t *testing.T) {
	out, c := t.TempDir(), few()
	list, err := Ablate(t.Context(), c, []string{"pooled"}, minilm(t), out, openBackend(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Name != "pooled" || list[0].Weights == 0 || list[0].FLOP == 0 || list[0].NLL.Value <= 0 || list[0].Seconds <= 0 {
		t.Fatalf("%+v", list)
	}
	raw, err := os.ReadFile(filepath.Join(out, "ablations.json"))
	if err != nil {
		t.Fatal(err)
	}
	var written struct{ Ablations []Ablation }
	if err := json.Unmarshal(raw, &written); err != nil || len(written.Ablations) != 1 || written.Ablations[0] != list[0] {
		t.Errorf("%v: %+v, want %+v", err, written.Ablations, list)
	}
	for _, name := range []string{"ablations.md", "ablations.png"} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
