package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/internal/faults"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// treeBytes is the size of a folder's files.
func treeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var n int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// On a disk that is full, at whatever point it fills up, a command says so and leaves
// nothing, and what was there before stays.
func TestFullDisk(t *testing.T) {
	faults.Disks(t, func(t *testing.T) {
		dir, prompts := madeup.Open(t).Dir, write(t, "p.txt", "name a colour\n")
		adapter := filepath.Join(t.TempDir(), "adapter")
		generate := []string{"generate", "--quiet", "--backend", "cpu", "--generator", dir, "--prompts", prompts}
		clitest.OK(t, append(slices.Clone(generate), "--out", adapter)...)
		for name, args := range map[string][]string{
			"generate":          generate,
			"generate, GGUF":    append(slices.Clone(generate), "--format", "gguf"),
			"generate, replace": generate,
			"convert":           {"convert", "--quiet", "--format", "mlx", "--adapter", adapter},
			"madeup":            {"madeup", "--quiet", "--shape", "mini"},
		} {
			t.Run(name, func(t *testing.T) {
				whole := filepath.Join(t.TempDir(), "whole")
				clitest.OK(t, append(slices.Clone(args), "--out", whole)...)
				need := treeBytes(t, whole)
				for part := range 4 {
					disk := faults.NewDisk(t, max(need*int64(part)/4, 4096))
					out := filepath.Join(disk.Dir, "out")
					if name == "generate, replace" {
						disk.Resize(t, 2*need)
						clitest.OK(t, append(slices.Clone(args), "--seed", "5", "--out", out)...)
						disk.Resize(t, need+need*int64(part)/4+8192)
					}
					clitest.Fails(t, 1, []string{"no space left"}, append(slices.Clone(args), "--out", out)...)
					left, err := os.ReadDir(disk.Dir)
					if err != nil {
						t.Fatal(err)
					}
					if name == "generate, replace" {
						if _, err := lora.Verify(out); err != nil || len(left) != 1 {
							t.Errorf("%v, %v", left, err)
						}
					} else if len(left) > 0 {
						t.Errorf("left behind: %v", left)
					}
				}
			})
		}
		t.Run("pull", func(t *testing.T) { fullCache(t, dir) })
	})
}

// fullCache pulls into a cache that is too small, and goes on when it is not.
func fullCache(t *testing.T, dir string) {
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer s.Close()
	need := treeBytes(t, dir)
	for part := range 4 {
		disk := faults.NewDisk(t, max(need*int64(part)/4, 4096))
		t.Setenv("DND_CACHE", filepath.Join(disk.Dir, "cache"))
		clitest.Fails(t, 1, []string{"no space left"}, "pull", "--quiet", s.URL)
		var l cached
		clitest.JSON(t, &l, "list", "--json")
		for _, e := range l.Packages {
			if !e.Unfinished {
				t.Errorf("%+v is said to be there", e)
			}
		}
		disk.Resize(t, 2*need+1<<20)
		var e hub.Entry
		clitest.JSON(t, &e, "pull", "--json", "--quiet", s.URL)
		if _, err := generator.Verify(t.Context(), e.Dir, nil); err != nil {
			t.Error(err)
		}
	}
}
