// Package disk tells before a long run whether its files will fit: better a refusal at the
// start than a full disk after hours.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrFull is what Check's error wraps where there is too little room.
var ErrFull = errors.New("too little room")

// Check is an error where the file system of path, which need not exist yet, has less room
// than a number of bytes. Systems that do not tell are taken to have enough.
func Check(path string, bytes int64) error {
	dir, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(dir); err == nil {
			break
		} else if up := filepath.Dir(dir); !errors.Is(err, fs.ErrNotExist) || up == dir {
			return err
		} else {
			dir = up
		}
	}
	have, ok := free(dir)
	if ok && have < bytes {
		return fmt.Errorf("%s: %w: %.2f GB are needed, %.2f GB are free", path, ErrFull, float64(bytes)/1e9, float64(have)/1e9)
	}
	return nil
}
