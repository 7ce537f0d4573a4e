package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// stateAfter is how much of a data set's first phase is lost at most when it is killed. The
// late phase is as short as its checkpoints are few, and is made again.
var stateAfter = time.Minute

// statePath is the file of a data set's tuning that was stopped in the first phase.
func statePath(out, name string) string { return filepath.Join(out, "."+name+".state.safetensors") }

// stateKey is the metadata that holds the run's record up to there.
const stateKey = "run"

// readState reads the record of a tuning that was stopped; nil if there is none. One of
// another configuration, base or data is an error.
func readState(path string, c *Config, base string, s *DataSet) (*run, error) {
	f, err := safetensors.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &run{}
	if err := json.Unmarshal([]byte(f.Metadata[stateKey]), r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := r.same(path, c, base, s); err != nil {
		return nil, err
	}
	if n := len(r.Loss); n == 0 || n > c.Steps {
		return nil, fmt.Errorf("%s is after %d steps, expected 1 to %d: remove it", path, n, c.Steps)
	}
	return r, nil
}

// restore takes a tuner to where a record of readState is.
func restore(path string, t *lm.Tuner, r *run) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.Restore(f, len(r.Loss)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeState is what readState and restore read.
func writeState(path string, t *lm.Tuner, r *run) error {
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tensors, err := t.State()
	if err != nil {
		return err
	}
	return safetensors.WriteFile(path, tensors, map[string]string{stateKey: string(record)})
}

// removeState removes what a finished data set no longer needs, if it is there.
func removeState(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
