package science

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// store keeps the result of every stage as a file, so that a run that was stopped goes on
// where it was.
type store struct {
	dir string
	// keyed says that files are named by their key too: those of many configurations lie
	// side by side.
	keyed bool
}

const (
	keyName     = "science_stage"
	secondsName = "science_seconds"
)

// stage opens the file of a stage, which fill computes if it is not there. key is all
// that the result depends on: a file of another key is refused. seconds is how long it took,
// in whichever run.
func (s store) stage(name string, key any, fill func() ([]safetensors.Tensor, error)) (f *safetensors.File, seconds float64, err error) {
	raw, err := json.Marshal(key)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.Sum256(raw)
	want := hex.EncodeToString(sum[:])
	if s.keyed {
		name += "-" + want[:12]
	}
	path := filepath.Join(s.dir, name+".safetensors")
	f, err = safetensors.Open(path)
	if err == nil {
		if f.Metadata[keyName] != want {
			f.Close()
			return nil, 0, fmt.Errorf("science: %s is from another configuration: remove it, or choose another --out", path)
		}
		seconds, err := strconv.ParseFloat(f.Metadata[secondsName], 64)
		return f, seconds, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	begin := time.Now()
	tensors, err := fill()
	if err != nil {
		return nil, 0, fmt.Errorf("science: %s: %w", name, err)
	}
	seconds = time.Since(begin).Seconds()
	if err := safetensors.WriteFile(path, tensors, map[string]string{keyName: want, secondsName: strconv.FormatFloat(seconds, 'f', 1, 64)}); err != nil {
		return nil, 0, err
	}
	f, err = safetensors.Open(path)
	return f, seconds, err
}
