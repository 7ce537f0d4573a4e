package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The environment variables that name plugins.
const (
	EnvPlugin = "DND_PJRT_PLUGIN"          // one file; nothing else is then looked for
	EnvSearch = "PJRT_PLUGIN_LIBRARY_PATH" // folders, as for other users of PJRT
)

// Plugins lists the PJRT plugins that Open(PJRT) tries, as absolute paths, best first,
// and the places that were searched. The file in DND_PJRT_PLUGIN stands alone. Otherwise
// the places are, in this order: the folders in PJRT_PLUGIN_LIBRARY_PATH; pjrt beside the
// executable, deps/pjrt and build/deps/pjrt above it; dnd/pjrt in the user's data folder
// (XDG_DATA_HOME); where go-xla's pjrt_installer puts them. CUDA plugins come before others, whatever their place.
//
// The working directory is none of them: a plugin is a program, and whoever has written a
// folder must not be able to run one when somebody uses dnd in it. Tests alone look there.
func Plugins() (plugins, searched []string) {
	if file := os.Getenv(EnvPlugin); file != "" {
		return []string{absolute(file)}, []string{"$" + EnvPlugin}
	}
	seen := map[string]bool{}
	for _, dir := range places(testing.Testing()) {
		dir = absolute(dir)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		searched = append(searched, dir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if isPlugin(e.Name()) {
				plugins = append(plugins, filepath.Join(dir, e.Name()))
			}
		}
	}
	slices.SortStableFunc(plugins, func(a, b string) int { return rank(a) - rank(b) })
	return plugins, searched
}

func places(inTest bool) []string {
	dirs := filepath.SplitList(os.Getenv(EnvSearch))
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return d == "" })
	inTree := filepath.Join("build", "deps", "pjrt")
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		// The last two are those of build/bin, and of bin, in a source tree.
		dirs = append(dirs, filepath.Join(dir, "pjrt"), filepath.Join(dir, "..", "deps", "pjrt"), filepath.Join(dir, "..", inTree))
	}
	if wd, err := os.Getwd(); inTest && err == nil {
		for {
			dirs = append(dirs, filepath.Join(wd, inTree))
			up := filepath.Dir(wd)
			if up == wd {
				break
			}
			wd = up
		}
	}
	home, err := os.UserHomeDir()
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" && err == nil {
		data = filepath.Join(home, ".local", "share")
	}
	if data != "" {
		dirs = append(dirs, filepath.Join(data, "dnd", "pjrt"))
	}
	var installed []string
	if err == nil {
		installed = append(installed, filepath.Join(home, ".local", "lib", "go-xla"))
		if runtime.GOOS == "darwin" {
			installed[0] = filepath.Join(home, "Library", "Application Support", "go-xla")
		}
	}
	if runtime.GOOS != "windows" {
		installed = append(installed, "/usr/local/lib/go-xla")
	}
	for _, dir := range installed {
		dirs = append(dirs, dir, filepath.Join(dir, "nvidia"))
	}
	return dirs
}

// isPlugin knows the names that plugins go by: pjrt_c_api_cpu_plugin.so,
// pjrt-plugin-cuda.so, xla_cuda_plugin.so.
func isPlugin(name string) bool {
	if ext := filepath.Ext(name); ext != libraryExt() {
		return false
	}
	return strings.HasPrefix(name, "pjrt_c_api_") || strings.HasPrefix(name, "pjrt-plugin-") ||
		strings.HasPrefix(name, "pjrt_plugin_") || strings.HasPrefix(name, "xla_cuda_plugin")
}

func libraryExt() string {
	switch runtime.GOOS {
	case "darwin":
		return ".dylib"
	case "windows":
		return ".dll"
	}
	return ".so"
}

func rank(plugin string) int {
	if isCUDA(plugin) {
		return 0
	}
	return 1
}

func isCUDA(plugin string) bool {
	return strings.Contains(strings.ToLower(filepath.Base(plugin)), "cuda")
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func noPlugin(searched []string) error {
	return fmt.Errorf("backend: no PJRT plugin (such as pjrt_c_api_cpu_plugin%s) in %s: put one there or name its file in %s",
		libraryExt(), strings.Join(searched, ", "), EnvPlugin)
}
