package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var programs = []string{"dndgen", "dndtrain"}

// target is a system to build for.
type target struct{ os, arch string }

var targets = []target{
	{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
}

// crossCompilers are C compilers for other systems, by the names that distributions give
// them. Those for macOS need Apple's frameworks, which no distribution has: osxcross.
var crossCompilers = map[target][]string{
	{"linux", "amd64"}:   {"x86_64-linux-gnu-gcc"},
	{"linux", "arm64"}:   {"aarch64-linux-gnu-gcc"},
	{"darwin", "amd64"}:  {"o64-clang"},
	{"darwin", "arm64"}:  {"oa64-clang"},
	{"windows", "amd64"}: {"x86_64-w64-mingw32-gcc"},
	{"windows", "arm64"}: {"aarch64-w64-mingw32-clang", "aarch64-w64-mingw32-gcc"},
}

func (t target) String() string { return t.os + "/" + t.arch }

func (t target) exe() string {
	if t.os == "windows" {
		return ".exe"
	}
	return ""
}

func (t target) archive() string {
	if t.os == "windows" {
		return ".zip"
	}
	return ".tar.gz"
}

// chosen are the targets of a list with commas.
func chosen(list string) ([]target, error) {
	var some []target
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(targets, func(t target) bool { return t.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: expected some of %v", name, targets)
		}
		some = append(some, targets[i])
	}
	return some, nil
}

// compiler finds the C compiler for t on a machine, "" if there is none. CC_OS_ARCH in the
// environment goes before all.
func (t target) compiler(hostOS, hostArch string) (cc, why string) {
	variable := "CC_" + t.os + "_" + t.arch
	candidates := crossCompilers[t]
	if t == (target{hostOS, hostArch}) {
		candidates = []string{"cc", "gcc", "clang"}
	}
	if named := os.Getenv(variable); named != "" {
		candidates = []string{named}
	}
	for _, name := range candidates {
		if _, err := exec.LookPath(name); err == nil {
			return name, name
		}
	}
	return "", fmt.Sprintf("no C compiler for it here (%s or $%s)", strings.Join(candidates, ", "), variable)
}

// build makes the programs in dir.
func (t target) build(cc, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=true", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	_, err := output(t.environment(cc), "go", args...)
	return err
}

// environment makes the go command build for t.
func (t target) environment(cc string) []string {
	env := []string{"GOOS=" + t.os, "GOARCH=" + t.arch, "CGO_ENABLED=0", "GOEXPERIMENT="}
	if t.arch == "amd64" {
		// GoMLX's own backend has vector instructions with it.
		env[3] = "GOEXPERIMENT=simd"
	}
	if cc != "" {
		env[2] = "CGO_ENABLED=1"
		env = append(env, "CC="+cc)
	}
	return env
}

// output runs a command and returns what it printed, without the last line break.
func output(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}
