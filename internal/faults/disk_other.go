//go:build !linux

package faults

import "testing"

// Disks skips the test: only on Linux are small disks easy to come by.
func Disks(t *testing.T, test func(t *testing.T)) { t.Skip("a small disk needs Linux's tmpfs") }

// Disk is a file system of little space.
type Disk struct{ Dir string }

// NewDisk is never called, since Disks skips.
func NewDisk(t testing.TB, bytes int64) Disk { t.Fatal("no disk"); return Disk{} }

// Resize is never called, since Disks skips.
func (d Disk) Resize(t testing.TB, bytes int64) { t.Fatal("no disk") }
