//go:build !cgo

package backends

import "errors"

// ErrNoDevice says why there is no WebGPU device: wgpu-native is linked with cgo.
var ErrNoDevice = errors.New("this program was built without cgo and has no WebGPU: use --backend cpu, or a build with cgo")

// List finds no device.
func List() ([]Info, error) { return nil, ErrNoDevice }

// OpenDevice opens none.
func OpenDevice(Options) (Device, string, error) { return nil, "", ErrNoDevice }
