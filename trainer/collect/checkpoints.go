package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Checkpoints are the files of the adapters that Run saved in a data set's folder, in order;
// at least one.
func Checkpoints(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "checkpoints", "*.safetensors"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, errors.New("no checkpoint in checkpoints/: expected *.safetensors; run `dndtrain collect`")
	}
	sort.Strings(paths)
	return paths, nil
}

// ReadConfig reads what all adapters of a data set's folder share, adapter_config.json.
func ReadConfig(dir string) ([]byte, error) {
	return os.ReadFile(filepath.Join(dir, "adapter_config.json"))
}

// ReadCheckpoint reads one of Checkpoints with ReadConfig's configuration. It refuses values
// that are not finite.
func ReadCheckpoint(config []byte, path string) (*lora.Adapter, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := lora.DecodePEFT(config, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// Last reads the last of a data set's Checkpoints, and says which file it is.
func Last(dir string) (*lora.Adapter, string, error) {
	paths, err := Checkpoints(dir)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", dir, err)
	}
	config, err := ReadConfig(dir)
	if err != nil {
		return nil, "", err
	}
	path := paths[len(paths)-1]
	a, err := ReadCheckpoint(config, path)
	return a, path, err
}

// Complete fills in what the adapters in a data set's folder do not say of their base: its
// architecture and attention heads, as they were noted when it was collected. A folder of before
// that was noted, or that Run did not write, adds nothing.
func Complete(dir string, b *lora.Base) error {
	if b.Architecture != "" {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, runName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var r run
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, runName), err)
	}
	b.Architecture, b.Heads, b.KVHeads = r.Architecture, r.Heads, r.KVHeads
	return b.Validate()
}
