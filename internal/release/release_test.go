package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	for name, text := range map[string]string{"dndgen": "program", "dndtrain.exe": "other", "models/default/generator.json": "{}"} {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files[name] = path
	}
	when := time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	want := "x/dndgen -rwxr-xr-x program, x/dndtrain.exe -rwxr-xr-x other, x/models/default/generator.json -rw-r--r-- {}"

	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := writeTar(w, "x", files, when); err != nil {
			t.Fatal(err)
		}
		// Neither the time nor the rights of the files on disk count.
		os.Chtimes(files["dndgen"], time.Now(), time.Now().Add(time.Hour))
		os.Chmod(files["dndgen"], 0o644)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the second archive differs")
	}
	zr, err := gzip.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(zr); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		if !h.ModTime.Equal(when) || h.Uname != "" {
			t.Errorf("%+v", h)
		}
		got = append(got, h.Name+" "+os.FileMode(h.Mode).String()+" "+string(text))
	}
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s, want %s", s, want)
	}

	var z bytes.Buffer
	if err := writeZip(&z, "x", files, when); err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(z.Bytes()), int64(z.Len()))
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, f := range r.File {
		c, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(c)
		got = append(got, f.Name+" "+f.Mode().String()+" "+string(text))
	}
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s, want %s", s, want)
	}
	if err := writeTar(io.Discard, "x", map[string]string{"a": filepath.Join(dir, "missing")}, when); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.zip"), []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := sums(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if want := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b.zip\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestCompiler(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"cc", "aarch64-linux-gnu-gcc", "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	t.Setenv("CC_windows_arm64", "mine")
	for system, want := range map[string]string{"linux/amd64": "cc", "linux/arm64": "aarch64-linux-gnu-gcc", "windows/arm64": "mine", "darwin/arm64": ""} {
		list, err := chosen(system)
		if err != nil {
			t.Fatal(err)
		}
		if cc, why := list[0].compiler("linux", "amd64"); cc != want || why == "" {
			t.Errorf("%s: %q (%s), want %q", system, cc, why, want)
		}
	}
	if _, err := chosen("linux/amd64,plan9/386"); err == nil || !strings.Contains(err.Error(), "plan9/386") {
		t.Errorf("%v", err)
	}
}

// Every module that is linked into the programs brings its licence, on every system.
func TestLicences(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	here := target{runtime.GOOS, runtime.GOARCH}
	cc, _ := here.compiler(here.os, here.arch)
	for system, cc := range map[target]string{here: cc, {"windows", "arm64"}: ""} {
		files := map[string]string{}
		if err := addLicences(files, system, cc); err != nil {
			t.Fatal(err)
		}
		for _, module := range []string{"licenses/go/LICENSE", "licenses/github.com/gomlx/gomlx@", "licenses/gonum.org/v1/gonum@"} {
			found := false
			for name := range files {
				found = found || strings.HasPrefix(name, module)
			}
			if !found {
				t.Errorf("%s: no %s", system, module)
			}
		}
	}
}
