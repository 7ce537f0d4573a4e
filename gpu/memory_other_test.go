//go:build !linux

package gpu_test

import "testing"

func residentBytes(t *testing.T) int64 {
	t.Log("resident memory is measured on Linux only")
	return 0
}
