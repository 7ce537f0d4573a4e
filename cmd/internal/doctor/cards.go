package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// card is a graphics card on the PCI bus.
type card struct {
	vendor string // "NVIDIA", or its PCI id
	driver string // the kernel's, "" if none has taken it
}

// makers are PCI vendor ids of graphics cards, and what their Vulkan driver comes in.
var makers = map[string]struct {
	name   string
	driver string   // words that the names of its Vulkan manifests begin with
	advice string   // how to get it
	kernel []string // drivers of the kernel's that its Vulkan driver works with; nil: any
}{
	"0x10de": {"NVIDIA", "nvidia", "NVIDIA's own driver (Debian: nvidia-driver; Ubuntu: ubuntu-drivers install; in a container: the NVIDIA container toolkit with NVIDIA_DRIVER_CAPABILITIES=all)", []string{"nvidia"}},
	"0x1002": {"AMD", "radeon", "Mesa's Vulkan drivers (Debian, Ubuntu: mesa-vulkan-drivers; Fedora: mesa-vulkan-drivers; Arch: vulkan-radeon)", nil},
	"0x8086": {"Intel", "intel", "Mesa's Vulkan drivers (Debian, Ubuntu: mesa-vulkan-drivers; Fedora: mesa-vulkan-drivers; Arch: vulkan-intel)", nil},
}

// cards lists the graphics cards that the kernel knows of (sysfs, PCI class 03).
func (m Machine) cards() []card {
	const devices = "sys/bus/pci/devices"
	entries, err := fs.ReadDir(m.Root, devices)
	if err != nil {
		return nil
	}
	line := func(dir, name string) string {
		raw, err := fs.ReadFile(m.Root, path.Join(devices, dir, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(raw))
	}
	var cards []card
	for _, e := range entries {
		if !strings.HasPrefix(line(e.Name(), "class"), "0x03") {
			continue
		}
		c := card{vendor: line(e.Name(), "vendor")}
		for l := range strings.Lines(line(e.Name(), "uevent")) {
			if name, ok := strings.CutPrefix(l, "DRIVER="); ok {
				c.driver = strings.TrimSpace(name)
			}
		}
		cards = append(cards, c)
	}
	return cards
}

func (c card) name() string {
	if m, ok := makers[c.vendor]; ok {
		return m.name
	}
	return "PCI vendor " + c.vendor
}

// cardChecks says of each card whether the kernel drives it, and of the device files
// whether the user may open them.
func (m Machine) cardChecks(cards []card) []Check {
	if len(cards) == 0 {
		return []Check{{Name: "graphics card", State: Warning, Found: "none on the PCI bus", Advice: "without a GPU dnd computes on the processor, through XLA's plugin or in Go"}}
	}
	var checks []Check
	driven := false
	for _, c := range cards {
		check := Check{Name: "graphics card", State: OK, Found: fmt.Sprintf("%s, kernel driver %s", c.name(), c.driver)}
		maker := makers[c.vendor]
		switch {
		case c.driver == "":
			check.State, check.Found = Missing, c.name()+", no kernel driver"
			check.Advice = "install " + maker.advice
			if maker.advice == "" {
				check.Advice = "install the maker's driver"
			}
		case maker.kernel != nil && !slices.Contains(maker.kernel, c.driver):
			check.State, check.Advice = Warning, fmt.Sprintf("for Vulkan and CUDA at full speed install %s", maker.advice)
			driven = true
		default:
			driven = true
		}
		checks = append(checks, check)
	}
	if driven {
		checks = append(checks, m.deviceFiles())
	}
	return checks
}

// deviceFiles checks what Vulkan drivers open.
func (m Machine) deviceFiles() Check {
	c := Check{Name: "device files", State: OK}
	var found, closed []string
	for _, pattern := range []string{"dev/dri/renderD*", "dev/nvidiactl", "dev/nvidia[0-9]*"} {
		names, err := fs.Glob(m.Root, pattern)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, name := range names {
			found = append(found, "/"+name)
			if !m.Usable(name) {
				closed = append(closed, "/"+name)
			}
		}
	}
	c.Found = strings.Join(found, ", ")
	switch {
	case len(found) == 0:
		c.State, c.Found = Missing, "no /dev/dri/renderD* and no /dev/nvidia*"
		c.Advice = "the card is not handed to this machine: in a container, start it with --device /dev/dri or --gpus all"
	case len(closed) > 0:
		c.State, c.Found = Missing, strings.Join(closed, ", ")+" may not be opened by this user"
		c.Advice = "join the file's group and log in again: sudo usermod -aG render,video $USER"
	}
	return c
}
