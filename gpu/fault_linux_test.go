package gpu_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/gpu"
)

// faultDriver builds testdata/fault.c and returns the environment that puts it between
// the Vulkan loader and the driver under test.
func faultDriver(t *testing.T) []string {
	t.Helper()
	manifest := os.Getenv("VK_DRIVER_FILES")
	if manifest == "" {
		found, _ := filepath.Glob("/usr/share/vulkan/icd.d/lvp_icd*.json")
		if len(found) == 0 {
			t.Skip("needs a software Vulkan driver to fail on demand (Debian: mesa-vulkan-drivers)")
		}
		manifest = found[0]
	}
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var driver struct {
		ICD struct {
			Path    string `json:"library_path"`
			Version string `json:"api_version"`
		}
	}
	if err := json.Unmarshal(raw, &driver); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(driver.ICD.Path, ".") {
		driver.ICD.Path = filepath.Join(filepath.Dir(manifest), driver.ICD.Path)
	}
	dir := t.TempDir()
	library := filepath.Join(dir, "libfault.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", library, "testdata/fault.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ours := filepath.Join(dir, "fault.json")
	text := fmt.Sprintf(`{"file_format_version": "1.0.0", "ICD": {"library_path": %q, "api_version": %q}}`, library, driver.ICD.Version)
	if err := os.WriteFile(ours, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "VK_DRIVER_FILES="+ours, "FAULT_DRIVER="+driver.ICD.Path)
}

// Faults happen in a process of their own: a driver is chosen once in a process.
func TestFaults(t *testing.T) {
	env := faultDriver(t)
	for _, c := range []struct{ fault, want string }{
		{"none", "ok, ok"},
		{"alloc:1:1000", "memory, memory"},
		{"alloc:4:1", "ok, ok"}, // what only waits for the queue is given back, and the call made again
		{"lost", "lost, ok"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run=^TestFaultChild$", "-test.v")
			child.Env = append(env, "FAULT="+c.fault)
			out, err := child.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "outcome: "+c.want+"\n") {
				t.Errorf("%v, want %s\n%s", err, c.want, out)
			}
		})
	}
}

func TestFaultChild(t *testing.T) {
	if os.Getenv("FAULT") == "" {
		t.Skip("runs inside TestFaults")
	}
	d := open(t, gpu.Options{Device: -1})
	const steps, n = 6, 4<<20 - 64 // 16 MiB each, so that they do not share one allocation
	p, w := chain(steps, n, 1)
	var outcome []string
	for range 2 {
		result, err := d.Run(t.Context(), p, w, nil, nil)
		var full *gpu.OutOfMemoryError
		var lost *gpu.DeviceLostError
		switch {
		case err == nil:
			checkChain(t, result, steps, n)
			outcome = append(outcome, "ok")
		case errors.As(err, &full):
			outcome = append(outcome, "memory")
		case errors.As(err, &lost):
			outcome = append(outcome, "lost")
		default:
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	fmt.Println("outcome: " + strings.Join(outcome, ", "))
}
