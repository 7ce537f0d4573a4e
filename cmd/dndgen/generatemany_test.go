package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A folder of prompts makes what its files make one by one; a bad file costs the others
// nothing, and a second call only makes what is missing.
func TestGenerateFolder(t *testing.T) {
	const tensor = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
	dir := small(t)
	prompts := files(t, map[string]string{
		"a.txt": "one prompt\nanother prompt\n", "b.jsonl": `{"prompt": "What is this?"}` + "\n", "c.csv": "prompt\nWho?\nWhy?\n",
		"bad.json": "[", "notes.md": "no prompts", ".hidden.txt": "neither",
	})
	for _, backend := range tested {
		out := filepath.Join(t.TempDir(), "adapters")
		generate := func(code int, more ...string) generatedMany {
			t.Helper()
			r := clitest.Run(t, append([]string{"generate", "--json", "--generator", dir, "--prompts", prompts, "--out", out, "--backend", backend}, more...)...)
			var g generatedMany
			if err := json.Unmarshal([]byte(r.Stdout), &g); r.Code != code || err != nil {
				t.Fatalf("%s: exit code %d, want %d: %s%s", backend, r.Code, code, r.Stdout, r.Stderr)
			}
			return g
		}
		g := generate(1, "--batch", "2")
		if g.Made != 3 || g.Failed != 1 || g.Kept != 0 || g.Batch != 2 || g.Resident != (backend == "webgpu") || g.Prepared != g.Resident || len(g.Tasks) != 4 {
			t.Errorf("%s: %+v", backend, g)
		}
		if bad := g.Tasks[2]; bad.State != taskFailed || !strings.Contains(bad.Error, "bad.json") {
			t.Errorf("%s: %+v", backend, bad)
		}
		names := []string{"a.txt", "b.jsonl", "c.csv"}
		if backend == "webgpu" {
			names = names[2:]
		}
		for _, name := range names {
			alone := filepath.Join(t.TempDir(), "alone")
			clitest.OK(t, "generate", "--quiet", "--generator", dir, "--prompts", filepath.Join(prompts, name), "--out", alone, "--backend", backend)
			want, _ := read(t, filepath.Join(alone, lora.WeightsName), tensor)
			got, _ := read(t, filepath.Join(out, stem(name), lora.WeightsName), tensor)
			if d := apart(t, got, want); d > 1e-5 {
				t.Errorf("%s: %s: differs from one made alone by %v", backend, name, d)
			}
		}
		if backend == "webgpu" {
			continue // whose software takes seconds for each
		}
		// Again: what is there is kept.
		if g := generate(1); g.Made != 0 || g.Kept != 3 || g.Failed != 1 || g.Backend != "" {
			t.Errorf("%s, again: %+v", backend, g)
		}
		if err := os.RemoveAll(filepath.Join(out, "b")); err != nil {
			t.Fatal(err)
		}
		if g := generate(1); g.Made != 1 || g.Kept != 2 || g.Tasks[1].State != taskMade {
			t.Errorf("%s, with one gone: %+v", backend, g)
		}
		// Another seed is another adapter, and another place in the way is an error of one.
		if err := os.RemoveAll(filepath.Join(out, "a")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "a"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if g := generate(1, "--seed", "3"); g.Made != 2 || g.Kept != 0 || g.Failed != 2 || g.Tasks[0].State != taskFailed {
			t.Errorf("%s, with another seed: %+v", backend, g)
		}
	}
}

func TestGenerateFolderBadInput(t *testing.T) {
	dir := small(t)
	two := files(t, map[string]string{"a.txt": "x", "a.json": `["x"]`})
	out := filepath.Join(t.TempDir(), "out")
	clitest.Fails(t, 1, []string{"a.txt", "a.json", "rename"}, "generate", "--generator", dir, "--prompts", two, "--out", out)
	clitest.Fails(t, 1, []string{"no prompt file"}, "generate", "--generator", dir, "--prompts", t.TempDir(), "--out", out)
	clitest.Fails(t, 1, []string{"not a folder"}, "generate", "--generator", dir, "--prompts", files(t, map[string]string{"a.txt": "x"}), "--out", filepath.Join(two, "a.txt"))
	clitest.Fails(t, 2, []string{"--draws"}, "generate", "--generator", dir, "--prompts", two, "--out", out, "--draws", "2")
	clitest.Fails(t, 2, []string{"--batch"}, "generate", "--generator", dir, "--prompts", filepath.Join(two, "a.txt"), "--out", out, "--batch", "2")
}
