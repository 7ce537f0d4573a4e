package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Archives hold a folder named stem with files, each under its name. Order, times, owners
// and modes are the same on every machine.

func writeTar(w io.Writer, stem string, files map[string]string, when time.Time) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := withFile(files[name], func(f *os.File, size int64) error {
			h := &tar.Header{Name: path.Join(stem, name), Mode: mode(name), Size: size, ModTime: when, Format: tar.FormatPAX}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			_, err := io.Copy(tw, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return zw.Close()
}

func writeZip(w io.Writer, stem string, files map[string]string, when time.Time) error {
	zw := zip.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := withFile(files[name], func(f *os.File, _ int64) error {
			h := &zip.FileHeader{Name: path.Join(stem, name), Method: zip.Deflate, Modified: when}
			h.SetMode(os.FileMode(mode(name)))
			to, err := zw.CreateHeader(h)
			if err != nil {
				return err
			}
			_, err = io.Copy(to, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	return zw.Close()
}

func withFile(path string, use func(f *os.File, size int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return use(f, st.Size())
}

// mode is that of a program or of another file.
func mode(name string) int64 {
	if slices.Contains(programs, strings.TrimSuffix(name, ".exe")) {
		return 0o755
	}
	return 0o644
}
