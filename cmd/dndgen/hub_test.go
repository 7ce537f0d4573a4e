package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// A generator on the hub is as good as one in a folder; from the second time on it comes
// from the cache.
func TestHub(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	dir := filepath.Join(t.TempDir(), "generator")
	if err := madeup.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	files := http.StripPrefix("/org/gen/resolve/"+commit, http.FileServer(http.Dir(dir)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/models/org/gen/revision/main" {
			json.NewEncoder(w).Encode(map[string]string{"sha": commit})
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer s.Close()
	t.Setenv("HF_ENDPOINT", s.URL)
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("DND_CACHE", t.TempDir())

	prompts := write(t, "p.txt", "name a colour\n")
	direct, fetched := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	clitest.OK(t, "generate", "--quiet", "--backend", "cpu", "--generator", dir, "--prompts", prompts, "--out", direct)
	clitest.OK(t, "generate", "--quiet", "--backend", "cpu", "--generator", "org/gen", "--prompts", prompts, "--out", fetched)
	for _, name := range []string{"adapter_model.safetensors", "adapter_config.json", "dnd.json"} {
		if string(mustRead(t, filepath.Join(direct, name))) != string(mustRead(t, filepath.Join(fetched, name))) {
			t.Errorf("%s differs", name)
		}
	}
	var pulled hub.Entry
	clitest.JSON(t, &pulled, "pull", "--json", "--quiet", "hf://org/gen")
	if pulled.Commit != commit || pulled.Source != "org/gen" {
		t.Errorf("pull: %+v", pulled)
	}
	s.Close()
	var l cached
	clitest.JSON(t, &l, "list", "--json")
	if len(l.Packages) != 1 || l.Packages[0].SHA256 != pulled.SHA256 || l.Packages[0].Name == "" {
		t.Errorf("list: %+v", l)
	}
	if r := clitest.OK(t, "list"); !strings.Contains(r.Stdout, "org/gen") {
		t.Errorf("list prints %q", r.Stdout)
	}
	condition := filepath.Join(t.TempDir(), "condition.safetensors")
	clitest.OK(t, "encode", "--quiet", "--backend", "cpu", "--encoder", filepath.Join(dir, "encoder"), "--count", "4", "--length", "16", "--prompts", prompts, "--out", condition)
	clitest.OK(t, "decode", "--quiet", "--backend", "cpu", "--generator", "org/gen", "--condition", condition, "--out", filepath.Join(t.TempDir(), "o.safetensors"))
	clitest.OK(t, "remove", "--quiet", "org/gen")
	bad(t, 1, []string{"org/gen", "refused"}, "generate", "--generator", "org/gen", "--prompts", prompts)
	clitest.Fails(t, 1, []string{"org/gen", "dndgen list"}, "remove", "org/gen")
	clitest.Fails(t, 1, []string{dir, "needs no pull"}, "pull", dir)
	clitest.Fails(t, 1, []string{"nowhere/at/all", generator.ManifestName}, "decode", "--quiet", "--generator", "nowhere/at/all", "--condition", condition, "--out", "x")
}
