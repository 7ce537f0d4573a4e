//go:build cgo

package backends

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/tune"
)

// ErrNoDevice says that the machine offers no WebGPU device.
var ErrNoDevice = gpu.ErrNoDevice

// List describes the machine's WebGPU devices, in the order of their indexes.
func List() ([]Info, error) {
	list, err := gpu.List()
	infos := make([]Info, len(list))
	for i, info := range list {
		infos[i] = Info(info)
	}
	return infos, err
}

// device is a Device.
type device struct{ *gpu.Device }

func (d device) Tuned() tune.Device { return Info(d.Info()).Tuned() }

// OpenDevice opens a WebGPU device. name says which it is.
func OpenDevice(o Options) (d Device, name string, err error) {
	open, err := gpu.Open(gpu.Options{Device: o.Device, MemoryBudget: o.Memory, Profile: o.Profile})
	if err != nil {
		return nil, "", err
	}
	info := open.Info()
	t := o.Tuning
	if t == nil {
		t = tuning(Info(info).Tuned(), o.Note)
	}
	open.Tune(t)
	return device{open}, fmt.Sprintf("%s (%s, %s)", info.Name, info.Backend, info.Type), nil
}
