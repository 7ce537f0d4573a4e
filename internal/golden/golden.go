// Package golden finds the outputs of the official PyTorch implementation that tests
// compare with: testdata holds decoders, weight tokens, importance weights, losses,
// checkpoints and encoder states made by the official modules (commit
// 60e21923fc5351a7373f5343b85b7e3e60e5d240, Apache-2.0). Only tests import it.
package golden

import (
	"path/filepath"
	"runtime"
)

// Path is the file or folder under testdata, wherever the test runs.
func Path(elem ...string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(append([]string{filepath.Dir(file), "testdata"}, elem...)...)
}
