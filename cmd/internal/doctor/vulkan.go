package doctor

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const loader = "libvulkan.so.1"

// vulkan checks the loader, and each driver that it would find.
func (m Machine) vulkan(cards []card) []Check {
	var checks []Check
	if at := m.library(loader); at != "" {
		checks = append(checks, Check{Name: "Vulkan loader", State: OK, Found: "/" + at})
	} else {
		checks = append(checks, Check{
			Name: "Vulkan loader", State: Missing, Found: "no " + loader,
			Advice: "install it (Debian, Ubuntu: libvulkan1; Fedora: vulkan-loader; Arch: vulkan-icd-loader; Alpine: vulkan-loader)",
		})
	}
	manifests, named := m.manifests()
	var good []string
	for _, file := range manifests {
		c := Check{Name: "Vulkan driver", State: OK, Found: "/" + file}
		if err := m.driver(file); err != nil {
			c.State, c.Advice = Warning, err.Error()
			if named != "" {
				c.Advice += ": see $" + named
			}
		} else {
			good = append(good, strings.ToLower(path.Base(file)))
		}
		checks = append(checks, c)
	}
	if len(manifests) == 0 {
		c := Check{
			Name: "Vulkan driver", State: Missing, Found: "no manifest in icd.d",
			Advice: "install the graphics card's driver, or Mesa's, which has a software device too (Debian, Ubuntu: mesa-vulkan-drivers)",
		}
		if named != "" {
			c.Found = "$" + named + " names no manifest that is there"
			c.Advice = "correct or unset $" + named
		}
		return append(checks, c)
	}
	told := map[string]bool{}
	for _, card := range cards {
		maker, known := makers[card.vendor]
		if !known || told[maker.name] || slices.ContainsFunc(good, func(file string) bool { return strings.HasPrefix(file, maker.driver) }) {
			continue
		}
		told[maker.name] = true
		c := Check{Name: "Vulkan driver", State: Missing, Found: "none for the " + maker.name + " card", Advice: "install " + maker.advice}
		if named != "" {
			c.Advice = "$" + named + " leaves it out: unset it, or " + c.Advice
		}
		checks = append(checks, c)
	}
	return checks
}

// manifests lists the drivers that the loader finds, in its order (Vulkan-Loader,
// LoaderDriverInterface.md). named is the variable that replaced the usual places.
func (m Machine) manifests() (files []string, named string) {
	for _, name := range []string{"VK_DRIVER_FILES", "VK_ICD_FILENAMES"} {
		list := m.Env(name)
		if list == "" {
			continue
		}
		for _, file := range strings.Split(list, ":") {
			files = append(files, m.manifestsAt(file)...)
		}
		return files, name
	}
	split := func(list string) []string {
		return slices.DeleteFunc(strings.Split(list, ":"), func(s string) bool { return s == "" })
	}
	or := func(value, usual string) string {
		if value == "" {
			return usual
		}
		return value
	}
	home := m.Env("HOME")
	dirs := []string{or(m.Env("XDG_CONFIG_HOME"), home+"/.config")}
	dirs = append(dirs, split(or(m.Env("XDG_CONFIG_DIRS"), "/etc/xdg"))...)
	dirs = append(dirs, "/etc", or(m.Env("XDG_DATA_HOME"), home+"/.local/share"))
	dirs = append(dirs, split(or(m.Env("XDG_DATA_DIRS"), "/usr/local/share:/usr/share"))...)
	seen := map[string]bool{}
	for _, dir := range dirs {
		dir = path.Join(dir, "vulkan", "icd.d")
		if !seen[dir] {
			seen[dir] = true
			files = append(files, m.manifestsAt(dir)...)
		}
	}
	return files, ""
}

// manifestsAt is a manifest, or those of a folder.
func (m Machine) manifestsAt(file string) []string {
	name := fromRoot(file)
	st, err := fs.Stat(m.Root, name)
	if err != nil {
		return nil
	}
	if !st.IsDir() {
		return []string{name}
	}
	entries, err := fs.ReadDir(m.Root, name)
	if err != nil {
		return nil
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			files = append(files, path.Join(name, e.Name()))
		}
	}
	return files
}

// driver checks that the library of a manifest is there.
func (m Machine) driver(file string) error {
	raw, err := fs.ReadFile(m.Root, file)
	if err != nil {
		return err
	}
	var manifest struct {
		ICD struct {
			Library string `json:"library_path"`
		}
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return fmt.Errorf("damaged: %w: install its package again", err)
	}
	library := manifest.ICD.Library
	switch {
	case library == "":
		return fmt.Errorf("names no library: install its package again")
	case !strings.Contains(library, "/"):
		if m.library(library) != "" {
			return nil
		}
	default:
		if !strings.HasPrefix(library, "/") {
			library = path.Join("/", path.Dir(file), library)
		}
		if _, err := fs.Stat(m.Root, fromRoot(library)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("its library %s is not there: install its package again, or take the manifest away", library)
}

// library finds a shared library where the dynamic linker usually looks, "" if it is not
// there.
func (m Machine) library(name string) string {
	dirs := strings.Split(m.Env("LD_LIBRARY_PATH"), ":")
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib64", "lib64", "usr/lib", "lib", "usr/local/lib", "run/opengl-driver/lib"} {
		if found, err := fs.Glob(m.Root, pattern); err == nil {
			dirs = append(dirs, found...)
		}
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		at := path.Join(fromRoot(dir), name)
		if _, err := fs.Stat(m.Root, at); err == nil {
			return at
		}
	}
	return ""
}

// fromRoot is an absolute path as a name in Machine.Root.
func fromRoot(file string) string {
	if file = strings.TrimPrefix(path.Clean("/"+file), "/"); file == "" {
		return "."
	}
	return file
}
