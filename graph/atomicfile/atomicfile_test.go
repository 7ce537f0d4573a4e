package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// What another process left is removed; what is being written is not.
func TestSweep(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("folders cannot be locked on Windows: nothing is swept there")
	}
	parent := t.TempDir()
	leave := func(names ...string) {
		for _, name := range names {
			if err := os.MkdirAll(filepath.Join(parent, name, "inside"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave(".out.tmp-1", ".out.tmp-2", ".other.tmp-1", ".out", ".git")
	path := filepath.Join(parent, "out")
	err := atomicfile.Dir(path, false, func(tmp string) error {
		if got := names(t, parent); !slices.Equal(got, []string{".git", ".other.tmp-1", ".out", filepath.Base(tmp)}) {
			t.Errorf("while it is written: %v", got)
		}
		return atomicfile.Write(filepath.Join(tmp, "file"), func(w io.Writer) error {
			atomicfile.Sweep(parent)
			atomicfile.Sweep(tmp)
			_, err := io.WriteString(w, "x")
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, parent); !slices.Equal(got, []string{".git", ".out", "out"}) || !slices.Equal(names(t, path), []string{"file"}) {
		t.Errorf("then: %v, %v", got, names(t, path))
	}
}

// What was put aside by a process that was killed between two renames comes back, whether
// the next one succeeds or not.
func TestPutAside(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "out")
	for _, name := range []string{".out.tmp-1.old", ".out.tmp-1"} {
		if err := errors.Join(os.Mkdir(filepath.Join(parent, name), 0o755), os.WriteFile(filepath.Join(parent, name, "of "+name), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := atomicfile.Dir(path, true, func(string) error { return errFill })
	if !errors.Is(err, errFill) || !slices.Equal(names(t, path), []string{"of .out.tmp-1.old"}) {
		t.Errorf("%v, %v", err, names(t, path))
	}
}

// Files come in the order of their names; one that fails is not there, nor are those after it.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, s)
			return err
		}
	}
	if err := atomicfile.Files(dir, map[string]func(io.Writer) error{"b.md": text("b"), "a.json": atomicfile.JSON(1)}); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a.json", "b.md"}) {
		t.Errorf("files %q", got)
	}
	err := atomicfile.Files(dir, map[string]func(io.Writer) error{"c": text("c"), "d": func(io.Writer) error { return errFill }, "e": text("e")})
	if got := names(t, dir); !errors.Is(err, errFill) || !slices.Equal(got, []string{"a.json", "b.md", "c"}) {
		t.Errorf("files %q after %v", got, err)
	}
}
