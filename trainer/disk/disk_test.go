package disk_test

import (
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/disk"
)

// A folder that is yet to be made counts as the one it will be made in.
func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs", "new")
	if err := disk.Check(path, 1); err != nil {
		t.Error(err)
	}
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("this system is not asked for its room")
	}
	if err := disk.Check(path, math.MaxInt64); !errors.Is(err, disk.ErrFull) {
		t.Errorf("all the bytes there can be: %v", err)
	}
}
