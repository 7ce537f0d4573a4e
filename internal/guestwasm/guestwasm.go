// Package guestwasm builds the guest, package wasm, for tests: with the go tool, whose
// cache makes that cheap. What ships is built by make wasm.
package guestwasm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// Build is the guest's bytes.
var Build = sync.OnceValues(build)

func build() ([]byte, error) {
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..")
	// Read here too, since go test asks which files a test read before it trusts its cache.
	if _, err := os.ReadFile(filepath.Join(root, "wasm", "main.go")); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "guestwasm-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "dnd.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./wasm")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOEXPERIMENT=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guest: %w: %s", err, text)
	}
	return os.ReadFile(out)
}
