package backends

import (
	"runtime/debug"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/tune"
)

// Tuned is what a device's choices are kept under.
func (i Info) Tuned() tune.Device {
	d := tune.Device{Name: i.Name, Vendor: i.Vendor, Backend: i.Backend, Type: i.Type, Driver: i.Driver, Program: "(devel)"}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		d.Program = build.Main.Version
	}
	return d
}

// tuning is what was measured on a device, nil for nothing. note is told of a damaged file.
func tuning(d tune.Device, note func(string)) *graph.Tuning {
	folder, err := tune.Folder()
	if err != nil {
		return nil // no home, nothing kept
	}
	choices, err := tune.Load(folder, d)
	if err != nil && note != nil {
		note(err.Error())
	}
	if len(choices) == 0 {
		return nil
	}
	return &graph.Tuning{Convs: choices}
}
