package doctor_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/doctor"
)

// What other packages left on the machine: the manifest of a driver, memory, devices.
func FuzzLook(f *testing.F) {
	f.Add(`{"ICD":{"library_path":"../libvulkan_radeon.so"}}`, plenty, "0x030000\n", "0x1002\n", "DRIVER=amdgpu\n")
	f.Add(`{"ICD":{"library_path":"/"}}`, "MemTotal: x kB", "0x", "", "DRIVER=")
	f.Fuzz(func(t *testing.T, manifest, memory, class, vendor, uevent string) {
		checks := doctor.Look(machine(nil, "usr/share/vulkan/icd.d/a.json", manifest, "proc/meminfo", memory, "usr/lib64/libvulkan.so.1", "",
			"sys/bus/pci/devices/0/class", class, "sys/bus/pci/devices/0/vendor", vendor, "sys/bus/pci/devices/0/uevent", uevent))
		for _, c := range checks {
			if c.Name == "" || c.State == "" {
				t.Fatalf("%+v", c)
			}
		}
	})
}
