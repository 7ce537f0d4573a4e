package grid_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/grid"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grid.json")
	for text, want := range map[string]string{
		`{"contents":["a","b"],"formats":["x","y"],"train":["a-x","b-y"],"held_out":["a-y"],"systems":{"y":"in y"}}`: "",
		`{"train":["any"]}`: "",
		`{"train":[]}`:      "no data sets",
		`{`:                 "unexpected end",
		`{"contents":["a"],"formats":["x"],"train":["a-x","c-x"],"held_out":["a-x"]}`: "task c-x of train is not CONTENT-FORMAT",
		`{"train":["a","b"],"validation":["b"]}`:                                      "task b is in train and in validation",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		g, err := grid.Read(path)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, want %q and the path in it", text, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if len(g.Contents) > 0 && (!slices.Equal(g.Attributes("a-y"), []string{"a", "y"}) || g.System("a-y") != "in y" || g.Attributes("z-y") != nil) {
			t.Errorf("%+v", g)
		}
	}
}
