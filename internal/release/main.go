// Command release makes the archives of a release from a clean checkout: for every system
// the two commands, the shipped generator, the guest, the page, man pages and completion; a
// software bill of materials for each, the licences of all that is linked into them, and the
// SHA-256 of all. make release runs it.
//
// WebGPU and PJRT need cgo, so a system whose C compiler is not on this machine gets
// commands without them, in an archive that says so: -cpu. The same commit makes the same
// archives, byte for byte, with the same compilers.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// sbomTool makes the bills of materials.
const sbomTool = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"

// made is an archive, for the table that is printed.
type made struct {
	Archive string `json:"archive"`
	System  string `json:"system"`
	CGO     bool   `json:"cgo"` // with WebGPU and PJRT
	Why     string `json:"why"` // the compiler, or why there is none
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
}

func main() {
	out := flag.String("out", filepath.Join("build", "release"), "folder for the archives")
	only := flag.String("only", "", "systems to build for, as linux/amd64,darwin/arm64 (default: all)")
	flag.Parse()
	if err := run(*out, *only); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func run(out, only string) error {
	version, when, err := commit()
	if err != nil {
		return err
	}
	systems := targets
	if only != "" {
		if systems, err = chosen(only); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp("", "dnd-release-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	common, err := commonFiles(work)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var list []made
	for _, t := range systems {
		fmt.Fprintf(os.Stderr, "release: %s\n", t)
		m, err := release(t, version, when, work, out, common)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		list = append(list, m)
	}
	if err := sums(out); err != nil {
		return err
	}
	fmt.Printf("%-44s %9s  %-14s %s\n", "archive", "MiB", "GPU", "built with")
	for _, m := range list {
		gpu := "WebGPU, PJRT"
		if !m.CGO {
			gpu = "none"
		}
		fmt.Printf("%-44s %9.1f  %-14s %s\n", m.Archive, float64(m.Bytes)/(1<<20), gpu, m.Why)
	}
	return nil
}

// commit is what is released: its name and its time, which all files in archives get.
func commit() (version string, when time.Time, err error) {
	version, err = output(nil, "git", "describe", "--tags", "--always", "--dirty=-changed")
	if err != nil {
		return "", when, err
	}
	text, err := output(nil, "git", "log", "-1", "--format=%cI")
	if err != nil {
		return "", when, err
	}
	when, err = time.Parse(time.RFC3339, text)
	return version, when.UTC(), err
}

// commonFiles are those of every archive, by their place in it.
func commonFiles(work string) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		files[name] = name
	}
	for _, tree := range []struct{ from, to string }{
		{"models/default", "models/default"}, {"models/inputs", "models/inputs"}, {"docs", "docs"}, {"build/web", "web"},
	} {
		if err := addTree(files, tree.from, tree.to); err != nil {
			return nil, err
		}
	}
	files["wasm/dnd.wasm"] = filepath.Join("build", "wasm", "dnd.wasm")
	host := target{runtime.GOOS, runtime.GOARCH}
	cc, _ := host.compiler(host.os, host.arch)
	if err := host.build(cc, filepath.Join(work, "host")); err != nil {
		return nil, err
	}
	for _, program := range programs {
		built := filepath.Join(work, "host", program+host.exe())
		if _, err := output(nil, built, "man", "--quiet", filepath.Join(work, "man")); err != nil {
			return nil, err
		}
		for _, shell := range []string{"bash", "zsh", "fish"} {
			script, err := output(nil, built, "completion", shell)
			if err != nil {
				return nil, err
			}
			path := filepath.Join(work, program+"."+shell)
			if err := os.WriteFile(path, []byte(script+"\n"), 0o644); err != nil {
				return nil, err
			}
			files["completion/"+program+"."+shell] = path
		}
	}
	return files, addTree(files, filepath.Join(work, "man"), "man")
}

// addTree adds all files of a folder.
func addTree(files map[string]string, from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		files[to+"/"+filepath.ToSlash(rel)] = path
		return err
	})
}

// release makes the archive of one system.
func release(t target, version string, when time.Time, work, out string, common map[string]string) (made, error) {
	cc, why := t.compiler(runtime.GOOS, runtime.GOARCH)
	m := made{System: t.String(), CGO: cc != "", Why: why}
	dir := filepath.Join(work, strings.ReplaceAll(t.String(), "/", "-"))
	if err := t.build(cc, dir); err != nil {
		return m, err
	}
	defer os.RemoveAll(dir)
	stem := "dnd-" + version + "-" + t.os + "-" + t.arch
	if !m.CGO {
		stem += "-cpu"
	}
	files := map[string]string{}
	for name, path := range common {
		files[name] = path
	}
	for _, program := range programs {
		name := program + t.exe()
		files[name] = filepath.Join(dir, name)
		bill := program + ".cdx.json"
		files["sbom/"+bill] = filepath.Join(dir, bill)
		if err := billOf(files[name], files["sbom/"+bill], when); err != nil {
			return m, err
		}
	}
	if err := addLicences(files, t, cc); err != nil {
		return m, err
	}
	m.Archive = stem + t.archive()
	path := filepath.Join(out, m.Archive)
	err := atomicfile.Write(path, func(w io.Writer) error {
		if t.archive() == ".zip" {
			return writeZip(w, stem, files, when)
		}
		return writeTar(w, stem, files, when)
	})
	if err != nil {
		return m, err
	}
	m.SHA256, m.Bytes, err = sumFile(path)
	return m, err
}

// billOf makes a program's bill of materials (CycloneDX) of what the linker wrote into it.
func billOf(program, path string, when time.Time) error {
	text, err := output([]string{"GOEXPERIMENT="}, "go", "run", sbomTool, "bin", "-json", "-noserial", program)
	if err != nil {
		return err
	}
	var bill map[string]any
	if err := json.Unmarshal([]byte(text), &bill); err != nil {
		return fmt.Errorf("%s: %w", sbomTool, err)
	}
	if meta, ok := bill["metadata"].(map[string]any); ok {
		meta["timestamp"] = when.Format(time.RFC3339)
	}
	raw, err := json.MarshalIndent(bill, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// sums writes SHA256SUMS, as sha256sum -c reads it.
func sums(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "SHA256SUMS"), func(w io.Writer) error {
		for _, f := range list {
			sum, _, err := sumFile(filepath.Join(dir, f.Name()))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s  %s\n", sum, f.Name()); err != nil {
				return err
			}
		}
		return nil
	})
}

func sumFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), n, err
}
