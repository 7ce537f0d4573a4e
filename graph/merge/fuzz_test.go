package merge_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/merge"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// The index and the configuration of a base in shards: refused, or merged whole; in either
// case nothing is written outside of the folder for the result.
func FuzzFolder(f *testing.F) {
	dir, _, _ := folder(f, safetensors.F16)
	index, err := os.ReadFile(filepath.Join(dir, "model.safetensors.index.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(index), config)
	f.Add(`{"weight_map":{"a":"../x.safetensors"}}`, config)
	f.Add(`{"weight_map":null}`, `{"model_type":"llama"}`)
	parent := f.TempDir()
	out := filepath.Join(parent, "out")
	f.Fuzz(func(t *testing.T, index, config string) {
		write(t, filepath.Join(dir, "model.safetensors.index.json"), index)
		write(t, filepath.Join(dir, "config.json"), config)
		_, err := merge.Folder(t.Context(), dir, adapter(1), out, nil)
		entries, _ := os.ReadDir(parent)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(entries) > 0 {
				t.Fatalf("%v, left %v", err, entries)
			}
			return
		}
		shards, _ := filepath.Glob(filepath.Join(out, "*.safetensors"))
		for _, path := range shards {
			s, err := safetensors.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		if len(shards) == 0 || len(entries) != 1 || os.RemoveAll(out) != nil {
			t.Fatalf("shards %v, beside %v", shards, entries)
		}
	})
}
