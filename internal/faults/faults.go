// Package faults makes a machine fail in tests: disks that are full, files that cannot be
// read to their end. Only tests import it.
package faults

import (
	"errors"
	"io"
)

// ErrRead is what a broken reader returns.
var ErrRead = errors.New("input/output error")

// Reader is a file that cannot be read from byte After on.
type Reader struct {
	io.ReaderAt
	After int64
}

// ReadAt implements io.ReaderAt.
func (r Reader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= r.After {
		return r.ReaderAt.ReadAt(p, off)
	}
	n := 0
	if off < r.After {
		n, _ = r.ReaderAt.ReadAt(p[:r.After-off], off)
	}
	return n, ErrRead
}
