package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

var errFill = errors.New("disk is full")

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteKeepsTheOldFileOnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write := func(text string, fail error) error {
		return atomicfile.Write(path, func(w io.Writer) error {
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
			return fail
		})
	}
	if err := write("one", nil); err != nil {
		t.Fatal(err)
	}
	if err := write("two", errFill); !errors.Is(err, errFill) {
		t.Fatalf("got %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "one" || len(names(t, dir)) != 1 {
		t.Fatalf("%q, %v, files %v", got, err, names(t, dir))
	}
}

func TestDir(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "out")
	make := func(replace bool, text string, fail error) error {
		return atomicfile.Dir(path, replace, func(tmp string) error {
			if err := os.WriteFile(filepath.Join(tmp, text), nil, 0o644); err != nil {
				return err
			}
			return fail
		})
	}
	if err := make(false, "one", errFill); !errors.Is(err, errFill) || len(names(t, parent)) != 0 {
		t.Fatalf("%v, left %v", err, names(t, parent))
	}
	if err := make(false, "one", nil); err != nil {
		t.Fatal(err)
	}
	if err := make(false, "two", nil); err == nil {
		t.Fatal("a folder was replaced without leave")
	}
	if err := make(true, "two", errFill); !errors.Is(err, errFill) || names(t, path)[0] != "one" {
		t.Fatalf("%v, holds %v", err, names(t, path))
	}
	if err := make(true, "two", nil); err != nil || names(t, path)[0] != "two" || len(names(t, parent)) != 1 {
		t.Fatalf("%v, holds %v, beside %v", err, names(t, path), names(t, parent))
	}
}
