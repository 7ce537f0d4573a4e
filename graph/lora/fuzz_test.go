package lora_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// dnd.json, which says what may be replaced and which files to hold to their checksums.
func FuzzInfo(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "adapter")
	if err := lora.Write(dir, tinyAdapter(), lora.Options{Format: lora.PEFT, Provenance: provenance}); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, lora.InfoName)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format_version":1,"kind":"dnd adapter","files":[{"name":"../adapter_config.json"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		lora.CheckTarget(dir)
		info, err := lora.Verify(dir)
		if err != nil {
			return
		}
		for _, file := range info.Files {
			st, err := os.Stat(filepath.Join(dir, file.Name))
			if err != nil || st.Size() != file.Bytes || filepath.Base(file.Name) != file.Name {
				t.Fatalf("%+v passed, %v", file, err)
			}
		}
	})
}
