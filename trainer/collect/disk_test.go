package collect_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/internal/faults"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
)

// On a disk that fills up, the data sets that are there are whole; with space again, the
// others are added.
func TestFullDisk(t *testing.T) {
	faults.Disks(t, func(t *testing.T) {
		m, c, list := tiny(t, backend.CPU, 1), config(), sets()
		whole := t.TempDir()
		if err := collect.Run(t.Context(), c, m, list, whole, nil); err != nil {
			t.Fatal(err)
		}
		read := func(dir, name string) string {
			raw, err := os.ReadFile(filepath.Join(dir, name, "checkpoints", "000002.safetensors"))
			if err != nil {
				t.Error(err)
			}
			return string(raw)
		}
		// A file takes whole pages: adapter_config.json, two checkpoints, prompts, collect.json.
		const set = 5 * 4096
		for _, size := range []int64{4096, set / 2, set + set/2} {
			disk := faults.NewDisk(t, size)
			out := filepath.Join(disk.Dir, "out")
			if err := collect.Run(t.Context(), c, m, list, out, nil); err == nil || !strings.Contains(err.Error(), "no space left") {
				t.Fatalf("on %d bytes: %v", size, err)
			}
			entries, _ := os.ReadDir(out)
			for _, e := range entries {
				if read(out, e.Name()) != read(whole, e.Name()) {
					t.Errorf("on %d bytes: %s differs", size, e.Name())
				}
			}
			disk.Resize(t, 1<<20)
			if err := collect.Run(t.Context(), c, m, list, out, nil); err != nil {
				t.Fatal(err)
			}
			for _, s := range list {
				if read(out, s.Name) != read(whole, s.Name) {
					t.Errorf("with space again: %s differs", s.Name)
				}
			}
		}
	})
}
