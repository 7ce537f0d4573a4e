package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// Nothing that generate writes or prints has a prompt in it.
func TestPromptsStayPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "generator")
	if err := madeup.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	const secret = "zanzibar"
	prompts := write(t, "prompts.txt", "the word is "+secret+"\n")
	for _, format := range []string{lora.PEFT, lora.GGUF, lora.MLX} {
		out := filepath.Join(t.TempDir(), "adapter")
		r := clitest.OK(t, "generate", "--json", "--backend", "cpu", "--generator", dir, "--prompts", prompts, "--format", format, "--out", out)
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			t.Errorf("%s: the prompt is printed: %s%s", format, r.Stdout, r.Stderr)
		}
		files := 0
		err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			raw, err := os.ReadFile(path)
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s: the prompt is in %s", format, d.Name())
			}
			return err
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files, %v", format, files, err)
		}
	}
}
