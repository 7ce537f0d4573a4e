//go:build !linux

package memory

func available() (bytes int64, ok bool) { return 0, false }
