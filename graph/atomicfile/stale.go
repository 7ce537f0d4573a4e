package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
)

// mark is in the name of everything that is not whole yet.
const mark = ".tmp-"

// aside is the ending of what stood where something new shall be.
const aside = ".old"

// claim makes a temporary file or folder and keeps a lock on it, which ends with the
// process: so Sweep tells what somebody is working on from what a killed process has left.
func claim(make func() (path string, err error)) (path string, lock *os.File, err error) {
	for {
		if path, err = make(); err != nil {
			return "", nil, err
		}
		if lock = hold(path); lock == nil {
			return path, nil, nil // no locks here: nothing is swept either
		}
		// Sweep may have had the lock first, and removed it.
		if a, err := lock.Stat(); err == nil {
			if b, err := os.Stat(path); err == nil && os.SameFile(a, b) {
				return path, lock, nil
			}
		}
		lock.Close()
	}
}

// Sweep removes what killed processes have left of files and folders that they were writing
// in dir. Write and Dir do not see each other's leftovers: whoever owns dir calls it.
func Sweep(dir string) { sweep(dir, "") }

// sweep is Sweep for what was to become dir/base, "" for everything.
func sweep(dir, base string) {
	if base != "" {
		bringBack(dir, base)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // nothing that hinders the work
	}
	prefix := "."
	if base != "" {
		prefix += base + mark
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.Contains(e.Name(), mark) || base == "" && strings.HasSuffix(e.Name(), aside) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if lock := hold(path); lock != nil {
			os.RemoveAll(path)
			lock.Close()
		}
	}
}

// bringBack gives dir/base what a process that was killed between two renames had put aside.
func bringBack(dir, base string) {
	path := filepath.Join(dir, base)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+base+mark) && strings.HasSuffix(e.Name(), aside) {
			os.Rename(filepath.Join(dir, e.Name()), path)
			return
		}
	}
}
