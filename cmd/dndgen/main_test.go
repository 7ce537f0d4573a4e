package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

func TestUsage(t *testing.T) {
	if r := clitest.OK(t, "help"); r.Stdout == "" || r.Stderr != "" {
		t.Errorf("help: stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	if r := clitest.OK(t, "inspect", "--help"); r.Stdout == "" {
		t.Error("inspect --help prints nothing")
	}
	if r := clitest.Run(t); r.Code != 2 || r.Stdout != "" {
		t.Errorf("without arguments: exit code %d, stdout %q", r.Code, r.Stdout)
	}
	for _, args := range [][]string{
		{"nonsense"},
		{"inspect"},
		{"inspect", "a", "b"},
		{"inspect", "--nonsense", "a"},
		{"verify"},
	} {
		clitest.Fails(t, 2, nil, args...)
	}
}

func TestDevices(t *testing.T) {
	var list struct{ Devices []backends.Info }
	clitest.JSON(t, &list, "devices", "--json")
	if len(list.Devices) == 0 || list.Devices[0].Name == "" {
		t.Errorf("devices: %+v, want one at least", list)
	}
	if r := clitest.OK(t, "devices", "--quiet"); r.Stdout == "" {
		t.Error("devices prints nothing")
	}
}

func TestDoctor(t *testing.T) {
	var d diagnosis
	clitest.JSON(t, &d, "doctor", "--json")
	if d.Backend == "" || d.Device == "" {
		t.Errorf("computes on %q: %q", d.Backend, d.Device)
	}
	seen := map[string]bool{}
	for _, c := range d.Checks {
		seen[c.Name] = true
		if c.Found == "" || c.State != "ok" && c.Advice == "" {
			t.Errorf("%+v", c)
		}
	}
	for _, name := range []string{"program", "processor", "memory", "WebGPU device", "PJRT", "generator", "guest", "cache"} {
		if !seen[name] {
			t.Errorf("nothing about %s in %+v", name, d.Checks)
		}
	}
	// Where the cache cannot be, the rest is told all the same.
	file := write(t, "file", "")
	t.Setenv("DND_CACHE", filepath.Join(file, "cache"))
	t.Setenv("DND_PJRT_PLUGIN", file)
	t.Setenv("VK_DRIVER_FILES", file)
	r := clitest.OK(t, "doctor")
	for _, want := range []string{"warning  cache", "missing  WebGPU device", "missing  PJRT", "computes on cpu"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q in\n%s", want, r.Stdout)
		}
	}
}

func TestInspect(t *testing.T) {
	var adapter adapterReport
	dir := golden.Path("tokens", "mini_0.5B")
	clitest.JSON(t, &adapter, "inspect", "--json", dir)
	if adapter.Kind != kindAdapter || adapter.Rank != 8 || adapter.Modules != 14 || len(adapter.Layers) != 2 {
		t.Errorf("inspect %s: %+v", dir, adapter)
	}
	var file tensorFile
	clitest.JSON(t, &file, "inspect", "--json", filepath.Join(dir, "tokens_f32.safetensors"))
	if len(file.Tensors) != 1 || file.Tensors[0].Name != "tokens" || file.Bytes != 358*100*4 {
		t.Errorf("inspect tokens: %+v", file)
	}
	for _, path := range []string{dir, filepath.Join(dir, "tokens_f32.safetensors")} {
		if r := clitest.OK(t, "inspect", path); r.Stdout == "" || r.Stderr != "" {
			t.Errorf("inspect %s: stdout %q, stderr %q", path, r.Stdout, r.Stderr)
		}
		var ok struct{ OK bool }
		if clitest.JSON(t, &ok, "verify", "--json", path); !ok.OK {
			t.Errorf("verify %s: not ok", path)
		}
	}
}

func TestPlot(t *testing.T) {
	dir, out := golden.Path("tokens", "mini_0.5B"), filepath.Join(t.TempDir(), "a.png")
	var r plotted
	clitest.JSON(t, &r, "plot", "--json", "--out", out, dir)
	if len(r.Modules) != 14 || len(r.Layers) != 2 || r.Out != out {
		t.Errorf("plot: %+v", r)
	}
	difference := filepath.Join(t.TempDir(), "b.png")
	clitest.OK(t, "diff", "--png", difference, dir, dir)
	for _, path := range []string{out, difference} {
		if raw := mustRead(t, path); !strings.HasPrefix(string(raw), "\x89PNG") {
			t.Errorf("%s is no PNG", path)
		}
	}
	if r := clitest.OK(t, "plot", dir); !strings.Contains(r.Stdout, "q_proj") || !strings.Contains(r.Stdout, "layer  1") {
		t.Errorf("plot prints %q", r.Stdout)
	}
	clitest.Fails(t, 1, []string{"nowhere"}, "plot", "nowhere")
	clitest.Fails(t, 1, []string{"nowhere"}, "plot", "--out", filepath.Join("nowhere", "a.png"), dir)
}

func TestInspectBadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{
		filepath.Join(dir, "missing.safetensors"),
		write("empty.safetensors", ""),
		write("huge.safetensors", "\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
		write("short.gguf", "GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f"),
		write("readme.txt", "hello"),
		dir,
	} {
		clitest.Fails(t, 1, []string{path}, "inspect", path)
		clitest.Fails(t, 1, []string{path}, "verify", path)
	}
}

// What go install leaves in Go's module cache is found, and only for a release.
func TestSources(t *testing.T) {
	none := func(string) string { return "" }
	own := func(name string) string { return map[string]string{"GOMODCACHE": "/cache"}[name] }
	release := debug.Module{Path: "example.org/dnd", Version: "v1.2.3"}
	for _, c := range []struct {
		m      debug.Module
		env    func(string) string
		gopath string
		want   []string
	}{
		{release, none, "/go" + string(filepath.ListSeparator) + "/other", []string{filepath.FromSlash("/go/pkg/mod/example.org/dnd@v1.2.3")}},
		{release, own, "/go", []string{filepath.FromSlash("/cache/example.org/dnd@v1.2.3")}},
		{release, none, "", nil},
		{debug.Module{Path: "example.org/dnd", Version: "(devel)"}, own, "/go", nil},
		{debug.Module{Path: "example.org/dnd", Version: "v0.0.0-20260101000000-abcdefabcdef+dirty"}, own, "/go", nil},
	} {
		if got := sources(c.m, c.env, c.gopath); !slices.Equal(got, c.want) {
			t.Errorf("%+v, %q: %q, expected %q", c.m, c.gopath, got, c.want)
		}
	}
}
