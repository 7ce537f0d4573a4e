//go:build cgo && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64))

package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/go-xla/compute/xla"
)

func openPJRT() (Backend, error) {
	plugins, searched := Plugins()
	if len(plugins) == 0 {
		return Backend{}, noPlugin(searched)
	}
	var failed []error
	for _, plugin := range plugins {
		b, err := openPlugin(plugin)
		if err == nil {
			b.Skipped = errors.Join(failed...)
			return b, nil
		}
		failed = append(failed, err)
	}
	return Backend{}, errors.Join(failed...)
}

func openPlugin(plugin string) (b Backend, err error) {
	if _, err := os.Stat(plugin); err != nil {
		return Backend{}, fmt.Errorf("backend: PJRT plugin: %w", err)
	}
	if strings.ContainsRune(plugin, ',') {
		return Backend{}, fmt.Errorf("backend: PJRT plugin %s: its path must not hold a comma", plugin)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("backend: PJRT plugin %s: %v", plugin, r)
		}
	}()
	// An absolute path also keeps go-xla from installing plugins by itself; this is for
	// what else of it may be called.
	xla.EnableAutoInstall(false)
	option := ",shared_buffers=true"
	if isCUDA(plugin) {
		option = ",shared_buffers=false"
	}
	open, err := xla.New(plugin + option)
	if err != nil {
		return Backend{}, fmt.Errorf("backend: PJRT plugin %s: %w", plugin, err)
	}
	device, _, _ := strings.Cut(open.DeviceDescription(0), " [")
	return Backend{
		Backend: open,
		Name:    PJRT,
		Device:  fmt.Sprintf("XLA on %s (%s)", device, filepath.Base(plugin)),
		GPU:     isCUDA(plugin),
	}, nil
}
