package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	doctors "github.com/drag-and-drop-lora/dnd/cmd/internal/doctor"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// diagnosis is what doctor prints.
type diagnosis struct {
	// Backend and Device are what a command would compute on.
	Backend string          `json:"backend"`
	Device  string          `json:"device"`
	Checks  []doctors.Check `json:"checks"`
}

func doctor(*pflag.FlagSet) cli.Run {
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		d := diagnosis{Checks: []doctors.Check{program()}}
		d.Checks = append(d.Checks, doctors.Look(doctors.This())...)
		d.Checks = append(d.Checks, webgpu()...)
		d.Checks = append(d.Checks, plugins()...)
		d.Checks = append(d.Checks, shipped()...)
		d.Checks = append(d.Checks, fetched())
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := backends.Open(backends.Options{Backend: backends.Auto, Device: -1, Weights: "f32"}, func(string) {})
		if err != nil {
			return err
		}
		d.Backend, d.Device = r.Name(), r.Device()
		if err := r.Close(); err != nil {
			return err
		}
		return e.Result(d, func(w io.Writer) {
			for _, c := range d.Checks {
				cli.Styled(w, stateStyles[c.State], "%-8s", c.State)
				fmt.Fprintf(w, " %-15s %s\n", c.Name, c.Found)
				if c.Advice != "" {
					fmt.Fprintf(w, "%-8s %-15s %s\n", "", "", c.Advice)
				}
			}
			fmt.Fprintf(w, "\ndndgen computes on %s: %s\n", d.Backend, d.Device)
		})
	}
}

// stateStyles are the colours of states, on a terminal.
var stateStyles = map[doctors.State]cli.Style{doctors.OK: cli.Green, doctors.Warning: cli.Yellow, doctors.Missing: cli.Red}

func program() doctors.Check {
	b := cli.Build()
	c := doctors.Check{Name: "program", State: doctors.OK, Found: fmt.Sprintf("dndgen %s, %s, %s", b.Version, b.Go, b.System)}
	if !b.CGO {
		c.State, c.Advice = doctors.Warning, "built without cgo: it has neither WebGPU nor PJRT, a build with a C compiler has both"
	}
	return c
}

// webgpu checks every device that WebGPU offers.
func webgpu() []doctors.Check {
	list, err := backends.List()
	if err != nil {
		return []doctors.Check{{Name: "WebGPU device", State: doctors.Missing, Found: "none", Advice: err.Error()}}
	}
	var checks []doctors.Check
	least := graph.DefaultLimits()
	real := false
	for _, d := range list {
		l := d.Limits
		c := doctors.Check{Name: "WebGPU device", State: doctors.OK, Found: fmt.Sprintf("%d: %s (%s, %s), buffers up to %s, bindings up to %s, %s of workgroup memory",
			d.Index, d.Name, d.Backend, d.Type, size(l.MaxBufferSize), size(l.MaxStorageBufferBindingSize), size(int64(l.MaxComputeWorkgroupStorageSize)))}
		if short := lacks(l, least); short != "" {
			c.State, c.Advice = doctors.Warning, "it has less than WebGPU guarantees ("+short+"), and may refuse generators: update its driver"
		}
		real = real || !d.Software()
		checks = append(checks, c)
	}
	if !real {
		c := &checks[len(checks)-1]
		if c.State == doctors.OK {
			c.State, c.Advice = doctors.Warning, "only software devices: dndgen takes PJRT or its Go backend instead, unless told --backend webgpu"
		}
	}
	return checks
}

// lacks names the limits of a that are below those of least.
func lacks(a, least graph.Limits) string {
	var short []string
	for _, l := range []struct {
		name    string
		has, at int64
	}{
		{"max_buffer_size", a.MaxBufferSize, least.MaxBufferSize},
		{"max_storage_buffer_binding_size", a.MaxStorageBufferBindingSize, least.MaxStorageBufferBindingSize},
		{"max_storage_buffers_per_shader_stage", int64(a.MaxStorageBuffersPerShaderStage), int64(least.MaxStorageBuffersPerShaderStage)},
		{"max_compute_workgroups_per_dimension", int64(a.MaxComputeWorkgroupsPerDimension), int64(least.MaxComputeWorkgroupsPerDimension)},
		{"max_compute_invocations_per_workgroup", int64(a.MaxComputeInvocationsPerWorkgroup), int64(least.MaxComputeInvocationsPerWorkgroup)},
		{"max_compute_workgroup_storage_size", int64(a.MaxComputeWorkgroupStorageSize), int64(least.MaxComputeWorkgroupStorageSize)},
	} {
		if l.has < l.at {
			short = append(short, fmt.Sprintf("%s %d < %d", l.name, l.has, l.at))
		}
	}
	return strings.Join(short, ", ")
}

// plugins checks that XLA can be loaded.
func plugins() []doctors.Check {
	found, _ := backend.Plugins()
	var checks []doctors.Check
	for _, path := range found {
		checks = append(checks, doctors.Check{Name: "PJRT plugin", State: doctors.OK, Found: path})
	}
	b, err := backend.Open(backend.PJRT)
	if err != nil {
		advice := err.Error()
		if len(found) == 0 {
			advice += ": make deps-run fetches one for Linux on x86-64; without it the Go backend computes, several times slower"
		}
		return append(checks, doctors.Check{Name: "PJRT", State: doctors.Missing, Found: "cannot be opened", Advice: advice})
	}
	defer b.Finalize()
	c := doctors.Check{Name: "PJRT", State: doctors.OK, Found: b.Device}
	if b.Skipped != nil {
		c.State, c.Advice = doctors.Warning, b.Skipped.Error()
	}
	return append(checks, c)
}

// shipped checks the files that come with dnd.
func shipped() []doctors.Check {
	var checks []doctors.Check
	c := doctors.Check{Name: "generator", State: doctors.Missing, Found: "no " + defaultGenerator, Advice: "take it from a release's archive or the sources, or name another with --generator"}
	if path, ok := find(defaultGenerator + "/" + generator.ManifestName); ok {
		c = doctors.Check{Name: "generator", State: doctors.OK, Found: filepath.Dir(path)}
		p, err := generator.Open(c.Found)
		if err != nil {
			c.State, c.Advice = doctors.Warning, err.Error()
		} else {
			p.Close()
		}
	}
	checks = append(checks, c)
	c = doctors.Check{Name: "guest", State: doctors.Missing, Found: "no dnd.wasm", Advice: "only for --host wazero and the page: make wasm makes it"}
	if path, ok := find(guestNames...); ok {
		c = doctors.Check{Name: "guest", State: doctors.OK, Found: path}
	}
	return append(checks, c)
}

// fetched checks the cache of generators.
func fetched() doctors.Check {
	c := doctors.Check{Name: "cache", State: doctors.OK}
	dir, err := hub.DefaultDir()
	if err == nil {
		var cache *hub.Cache
		if cache, err = hub.New(dir); err == nil {
			var list []hub.Entry
			list, err = cache.List()
			var bytes int64
			seen := map[string]bool{}
			for _, x := range list {
				if !seen[x.Dir] {
					bytes += x.Bytes
				}
				seen[x.Dir] = true
			}
			c.Found = fmt.Sprintf("%s: %d generators, %s", dir, len(seen), size(bytes))
		}
	}
	if err != nil {
		c.State, c.Advice = doctors.Warning, err.Error()
		if c.Found == "" {
			c.Found = "cannot be read"
		}
	}
	return c
}
