package fit_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/internal/faults"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// A run on a disk that fills up, at whatever point, says so; with space again it goes on,
// and ends as if nothing had been.
func TestFullDisk(t *testing.T) {
	faults.Disks(t, func(t *testing.T) {
		data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
		res, c, whole := fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, config(true), t.TempDir()
		c.SaveEvery = 1
		if _, err := fit.Run(t.Context(), c, data, res, whole, nil); err != nil {
			t.Fatal(err)
		}
		one := int64(len(checkpoint(t, whole)))
		for _, size := range []int64{4096, one / 2, one + one/2, 2*one + one/4} {
			disk := faults.NewDisk(t, size)
			dir := filepath.Join(disk.Dir, "run")
			if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err == nil || !strings.Contains(err.Error(), "no space left") {
				t.Fatalf("on %d bytes, a checkpoint has %d: %v", size, one, err)
			}
			// What is there is whole.
			if _, err := os.Stat(filepath.Join(dir, "checkpoint.safetensors")); err == nil {
				if _, _, _, err := fit.Fitted(1, dir); err != nil {
					t.Errorf("on %d bytes: %v", size, err)
				}
			}
			disk.Resize(t, 8*one+1<<20)
			if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err != nil {
				t.Fatalf("with space again: %v", err)
			}
			if !bytes.Equal(checkpoint(t, dir), checkpoint(t, whole)) {
				t.Errorf("on %d bytes, then with space: another checkpoint", size)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	})
}

// Two runs in one folder at a time would lose each other's steps: the second is refused.
func TestOneRunAtATime(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	res, c, dir := fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, config(false), t.TempDir()
	c.Steps = 2
	tried := false
	if _, err := fit.Run(t.Context(), c, data, res, dir, func(p fit.Progress) {
		if p.Stage == "fit" && p.Done == 1 {
			tried = true
			if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err == nil || !strings.Contains(err.Error(), "another process") {
				t.Errorf("a second run: %v", err)
			}
		}
	}); err != nil || !tried {
		t.Fatal(err, tried)
	}
	if _, err := fit.Run(t.Context(), c, data, res, dir, nil); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}
