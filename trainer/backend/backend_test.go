package backend_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
)

// Both backends are part of the product: one that does not open is a failure.
func TestOpen(t *testing.T) {
	for _, name := range []string{backend.PJRT, backend.CPU, backend.Auto} {
		t.Run(name, func(t *testing.T) {
			b, err := backend.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Finalize()
			if b.Device == "" || name != backend.Auto && b.Name != name {
				t.Errorf("backend %+v", b)
			}
			exec, err := graph.NewExec(b.Backend, func(x, y *graph.Node) *graph.Node { return graph.Dot(x, y).MatMul() })
			if err != nil {
				t.Fatal(err)
			}
			defer exec.Finalize()
			out, err := exec.Call([][]float32{{1, 2}, {3, 4}}, [][]float32{{5, 6}, {7, 8}})
			if err != nil {
				t.Fatal(err)
			}
			got := tensors.MustCopyFlatData[float32](out[0])
			for i, want := range []float32{19, 22, 43, 50} {
				if got[i] != want {
					t.Errorf("product %v", got)
				}
			}
			t.Log(b.Device)
		})
	}
}

func TestOpenUnknown(t *testing.T) {
	if _, err := backend.Open("tpu"); err == nil || !strings.Contains(err.Error(), "tpu") {
		t.Errorf("error %v", err)
	}
}

func TestPlugins(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	home := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	t.Setenv("HOME", home)
	t.Chdir(t.TempDir())
	touch := func(path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cpu := touch(filepath.Join(dir, "pjrt_c_api_cpu_plugin.so"))
	touch(filepath.Join(dir, "notes.so"))
	cuda := touch(filepath.Join(data, "dnd", "pjrt", "xla_cuda_plugin.so"))
	t.Setenv(backend.EnvSearch, dir)
	t.Setenv(backend.EnvPlugin, "")

	plugins, searched := backend.Plugins()
	if len(plugins) != 2 || plugins[0] != cuda || plugins[1] != cpu {
		t.Errorf("plugins %q, want the CUDA one, then the CPU one", plugins)
	}
	if len(searched) < 3 || searched[0] != dir {
		t.Errorf("searched %q", searched)
	}

	// What go-xla's installer has put into the user's folder, where that is known.
	if runtime.GOOS == "linux" {
		installed := touch(filepath.Join(home, ".local", "lib", "go-xla", "nvidia", "pjrt_c_api_cuda_plugin.so"))
		if plugins, _ := backend.Plugins(); len(plugins) != 3 || plugins[0] != cuda || plugins[1] != installed {
			t.Errorf("plugins %q, want two for CUDA first", plugins)
		}
	}

	t.Setenv(backend.EnvPlugin, filepath.Join(dir, "mine.so"))
	if plugins, _ := backend.Plugins(); len(plugins) != 1 || plugins[0] != filepath.Join(dir, "mine.so") {
		t.Errorf("plugins %q, want the named one alone", plugins)
	}
	if _, err := backend.Open(backend.PJRT); err == nil || !strings.Contains(err.Error(), "mine.so") {
		t.Errorf("error %v, want one that names the file", err)
	}
	b, err := backend.Open(backend.Auto)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	if b.Name != backend.CPU || b.Skipped == nil {
		t.Errorf("auto gave %s, skipped %v", b.Name, b.Skipped)
	}
}

// A plugin is native code: only tests take one from the working directory.
func TestPlacesOfOthers(t *testing.T) {
	t.Setenv(backend.EnvSearch, "")
	t.Setenv("XDG_DATA_HOME", "/data")
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, inTest := range []bool{false, true} {
		here := slices.ContainsFunc(backend.Places(inTest), func(dir string) bool { return strings.HasPrefix(dir, wd) || !filepath.IsAbs(dir) })
		if here != inTest {
			t.Errorf("in a test: %v, looks in the working directory: %v", inTest, here)
		}
	}
}
