//go:build !(cgo && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64)))

package backend

import (
	"fmt"
	"runtime"
)

func openPJRT() (Backend, error) {
	return Backend{}, fmt.Errorf("backend: PJRT plugins need a build with cgo for linux, darwin/arm64 or windows/amd64, this is %s/%s: use %s",
		runtime.GOOS, runtime.GOARCH, CPU)
}
