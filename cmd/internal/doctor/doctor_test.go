package doctor_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/doctor"
)

const (
	plenty = "MemTotal:       16 kB\nMemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n"
	mesa   = `{"ICD": {"library_path": "/usr/lib/x86_64-linux-gnu/libvulkan_%s.so"}}`
)

// machine is a file system of path and contents, and an environment.
func machine(env map[string]string, files ...string) doctor.Machine {
	root := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		root[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return doctor.Machine{OS: "linux", Root: root, Env: func(name string) string { return env[name] }, Usable: func(path string) bool { return !strings.Contains(path, "129") }}
}

func pci(slot, vendor, driver string) []string {
	dir := "sys/bus/pci/devices/" + slot + "/"
	uevent := "PCI_CLASS=30000\n"
	if driver != "" {
		uevent = "DRIVER=" + driver + "\n" + uevent
	}
	return []string{dir + "class", "0x030000\n", dir + "vendor", vendor + "\n", dir + "uevent", uevent}
}

func TestLook(t *testing.T) {
	loader := []string{"usr/lib/x86_64-linux-gnu/libvulkan.so.1", ""}
	radeon := []string{"usr/share/vulkan/icd.d/radeon_icd.x86_64.json", fmt.Sprintf(mesa, "radeon"), "usr/lib/x86_64-linux-gnu/libvulkan_radeon.so", ""}
	for _, c := range []struct {
		name string
		m    doctor.Machine
		want []string // name, state and a word of what was found or advised
	}{
		{"bare", machine(nil), []string{"memory ok unknown", "graphics card warning processor", "Vulkan loader missing libvulkan1", "Vulkan driver missing mesa-vulkan-drivers"}},
		{"AMD, all there", machine(nil, slices.Concat(pci("0", "0x1002", "amdgpu"), loader, radeon, []string{"dev/dri/renderD128", "", "proc/meminfo", plenty})...),
			[]string{"memory ok 8.0 GiB", "graphics card ok AMD", "device files ok /dev/dri/renderD128", "Vulkan loader ok libvulkan.so.1", "Vulkan driver ok radeon_icd"}},
		{"AMD, not for this user", machine(nil, slices.Concat(pci("0", "0x1002", "amdgpu"), loader, radeon, []string{"dev/dri/renderD129", ""})...),
			[]string{"device files missing usermod"}},
		{"AMD in a container", machine(nil, slices.Concat(pci("0", "0x1002", "amdgpu"), loader, radeon)...), []string{"device files missing --device"}},
		{"NVIDIA without a driver", machine(nil, slices.Concat(pci("0", "0x10de", ""), loader, radeon)...),
			[]string{"graphics card missing nvidia-driver", "Vulkan driver missing nvidia-driver"}},
		{"NVIDIA with nouveau", machine(nil, slices.Concat(pci("0", "0x10de", "nouveau"), loader, radeon, []string{"dev/dri/renderD128", ""})...),
			[]string{"graphics card warning nouveau", "Vulkan driver missing NVIDIA"}},
		{"NVIDIA for CUDA alone", machine(nil, slices.Concat(pci("0", "0x10de", "nvidia"), loader, radeon, []string{"dev/nvidia0", "", "dev/nvidiactl", ""})...),
			[]string{"graphics card ok nvidia", "device files ok /dev/nvidia0", "Vulkan driver missing container toolkit"}},
		{"NVIDIA, library by name", machine(nil, slices.Concat(pci("0", "0x10de", "nvidia"), loader,
			[]string{"etc/vulkan/icd.d/nvidia_icd.json", `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`, "usr/lib64/libGLX_nvidia.so.0", "", "dev/nvidia0", ""})...),
			[]string{"Vulkan driver ok nvidia_icd"}},
		{"library gone", machine(nil, slices.Concat(pci("0", "0x1002", "amdgpu"), loader, radeon[:2], []string{"dev/dri/renderD128", ""})...),
			[]string{"Vulkan driver warning libvulkan_radeon.so", "Vulkan driver missing vulkan-radeon"}},
		{"damaged manifest", machine(nil, "usr/share/vulkan/icd.d/a.json", "{", "usr/share/vulkan/icd.d/b.json", "{}"), []string{"Vulkan driver warning damaged", "Vulkan driver warning no library"}},
		{"other card", machine(nil, slices.Concat(pci("0", "0x1a03", "ast"), loader, radeon, []string{"dev/dri/renderD128", ""})...), []string{"graphics card ok 0x1a03"}},
		{"named by variable", machine(map[string]string{"VK_DRIVER_FILES": "/opt/sw.json:/nowhere.json"},
			slices.Concat(pci("0", "0x1002", "amdgpu"), loader, radeon, []string{"opt/sw.json", `{"ICD": {"library_path": "./libsw.so"}}`, "opt/libsw.so", "", "dev/dri/renderD128", ""})...),
			[]string{"Vulkan driver ok /opt/sw.json", "Vulkan driver missing $VK_DRIVER_FILES"}},
		{"named, not there", machine(map[string]string{"VK_ICD_FILENAMES": "/nowhere.json"}, loader...), []string{"Vulkan driver missing unset $VK_ICD_FILENAMES"}},
		{"little memory", machine(nil, "proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 100000 kB\n"), []string{"memory warning 1 GiB"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checks := doctor.Look(c.m)
			for _, want := range c.want {
				if !slices.ContainsFunc(checks, func(k doctor.Check) bool {
					head := k.Name + " " + string(k.State) + " "
					return strings.HasPrefix(want, head) && strings.Contains(k.Found+" "+k.Advice, strings.TrimPrefix(want, head))
				}) {
					t.Errorf("no %q in %+v", want, checks)
				}
			}
			for _, k := range checks {
				if k.State != doctor.OK && k.Advice == "" || k.Found == "" {
					t.Errorf("%+v: without advice", k)
				}
			}
		})
	}
	m := machine(nil)
	m.OS = "darwin"
	if checks := doctor.Look(m); len(checks) != 2 {
		t.Errorf("on another system: %+v", checks)
	}
	if checks := doctor.Look(doctor.This()); len(checks) < 2 {
		t.Errorf("here: %+v", checks)
	}
}
