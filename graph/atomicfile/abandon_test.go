package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// Abandon is for processes that end, so it is tested in one of its own.
func TestAbandon(t *testing.T) {
	const env = "ATOMICFILE_TEST_DIR"
	if dir := os.Getenv(env); dir != "" {
		err := atomicfile.Dir(filepath.Join(dir, "out"), true, func(tmp string) error {
			return atomicfile.Write(filepath.Join(tmp, "file"), func(w io.Writer) error {
				w.Write([]byte("half"))
				atomicfile.Abandon()
				return nil
			})
		})
		if err == nil {
			t.Error("a call that was abandoned gave no error")
		}
		if err := atomicfile.Write(filepath.Join(dir, "later"), func(io.Writer) error { return nil }); err == nil {
			t.Error("a call after Abandon gave no error")
		}
		return
	}
	dir := t.TempDir()
	kept := filepath.Join(dir, "out", "kept")
	if err := errors.Join(os.Mkdir(filepath.Dir(kept), 0o755), os.WriteFile(kept, []byte("before"), 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAbandon$")
	cmd.Env = append(os.Environ(), env+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(kept); len(entries) != 1 || err != nil || string(text) != "before" {
		t.Errorf("%d entries left, out/kept holds %q, %v; want only out, unchanged", len(entries), text, err)
	}
}
