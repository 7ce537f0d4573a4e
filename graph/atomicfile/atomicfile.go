// Package atomicfile writes files and folders that appear whole or not at all: into a
// temporary name in the same folder, synced, then renamed. It is the one place where
// the project's outputs come into being. What a killed process leaves has a name that begins
// with a dot; Dir and Sweep remove it.
package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Write makes path from what fill writes. On any error, nothing is left behind and a
// file that stood there before is unchanged.
func Write(path string, fill func(w io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	var f *os.File
	_, lock, err := claim(func() (string, error) {
		if f != nil {
			f.Close()
		}
		var err error
		if f, err = os.CreateTemp(filepath.Clean(dir+"."), "."+base+mark+"*"); err != nil {
			return "", err
		}
		return f.Name(), nil
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer lock.Close()
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
		pending.remove(f.Name())
	}()
	if err := pending.add(f.Name()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := fill(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return pending.rename(f.Name(), path)
}

// Files makes files of the folder dir by Write, by their names, in the order of these. Each appears
// whole or not at all; an error stops at its file.
func Files(dir string, fills map[string]func(w io.Writer) error) error {
	for _, name := range slices.Sorted(maps.Keys(fills)) {
		if err := Write(filepath.Join(dir, name), fills[name]); err != nil {
			return err
		}
	}
	return nil
}

// JSON is a fill of Write: v as indented JSON that ends with a line.
func JSON(v any) func(w io.Writer) error {
	return func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
}

// Dir makes the folder path from what fill puts into a temporary folder beside it. A
// folder that stood there before is replaced only if replace is true and only after
// fill has succeeded. What killed processes have left of the same folder is removed first.
func Dir(path string, replace bool, fill func(tmp string) error) (err error) {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); err == nil && !replace {
		return fmt.Errorf("%s exists already: choose another folder or remove it", path)
	}
	parent, base := filepath.Split(path)
	parent = filepath.Clean(parent + ".")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	sweep(parent, base)
	tmp, lock, err := claim(func() (string, error) { return os.MkdirTemp(parent, "."+base+mark+"*") })
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer lock.Close()
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
		pending.remove(tmp)
	}()
	if err := pending.add(tmp); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	old, err := pending.swap(tmp, path)
	if err != nil {
		return err
	}
	if old != "" {
		defer pending.remove(old)
		return os.RemoveAll(old)
	}
	return nil
}
