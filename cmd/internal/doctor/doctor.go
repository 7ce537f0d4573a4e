// Package doctor looks at a machine for what dnd runs on: processor, memory, graphics cards
// and their device files, the Vulkan loader and its drivers. It says what is missing and how
// to install it. It reads files and changes nothing; what WebGPU, PJRT and the cache say of
// themselves is for the command, which prints all together.
package doctor

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"golang.org/x/sys/cpu"
)

// State says how good a part is.
type State string

// The states. Nothing is an error: dnd always has the processor.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, but worse than it could
	Missing State = "missing"
)

// Check is one part of a machine.
type Check struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // what to do
}

// Machine is where to look.
type Machine struct {
	OS   string // runtime.GOOS
	Root fs.FS  // the file system from / on
	Env  func(name string) string
	// Usable reports whether the user may open a device file, named from Root.
	Usable func(path string) bool
}

// Look examines a machine's hardware and drivers.
func Look(m Machine) []Check {
	checks := []Check{processor(), m.memory()}
	if m.OS != "linux" {
		// Metal and Direct3D 12 come with the system and need no driver of their own here.
		return checks
	}
	cards := m.cards()
	checks = append(checks, m.cardChecks(cards)...)
	return append(checks, m.vulkan(cards)...)
}

func processor() Check {
	c := Check{Name: "processor", State: OK, Found: fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), runtime.GOARCH)}
	switch {
	case runtime.GOARCH != "amd64":
	case cpu.X86.HasAVX512F:
		c.Found += ", AVX-512"
	case cpu.X86.HasAVX2 && cpu.X86.HasFMA:
		c.Found += ", AVX2"
	default:
		c.State, c.Advice = Warning, "large convolutions on the CPU are several times slower without AVX2 and FMA"
	}
	return c
}

// memory is the machine's, where /proc tells.
func (m Machine) memory() Check {
	c := Check{Name: "memory", State: OK, Found: "unknown here"}
	raw, err := fs.ReadFile(m.Root, "proc/meminfo")
	if err != nil {
		return c
	}
	kib := map[string]int64{}
	for line := range strings.Lines(string(raw)) {
		var n int64
		if key, value, ok := strings.Cut(line, ":"); ok {
			if _, err := fmt.Sscan(value, &n); err == nil {
				kib[key] = n
			}
		}
	}
	if kib["MemTotal"] == 0 {
		return c
	}
	const gib = 1 << 20 // in KiB
	c.Found = fmt.Sprintf("%.1f GiB, %.1f GiB of it available", float64(kib["MemTotal"])/gib, float64(kib["MemAvailable"])/gib)
	if kib["MemAvailable"] < gib {
		c.State, c.Advice = Warning, "less than 1 GiB is available: large generators will not fit, end other programs"
	}
	return c
}
