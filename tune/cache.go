package tune

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// Device is what choices were measured on: another device, driver or program measures
// anew.
type Device struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor"`
	Backend string `json:"backend"`
	Type    string `json:"type"`
	Driver  string `json:"driver,omitempty"`
	// Program is the version of this program. Its kernels' hash counts too.
	Program string `json:"program"`
}

const (
	fileVersion = 1
	maxFile     = 1 << 20
)

// file is the contents of a device's file.
type file struct {
	Version int                `json:"version"`
	Device  Device             `json:"device"`
	Kernels string             `json:"kernels"`
	Convs   []graph.ConvChoice `json:"convs"`
}

// Folder is where choices are kept: dnd/tuning in the user's cache folder
// ($XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches, %LocalAppData%).
func Folder() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("tune: no cache folder: %w", err)
	}
	return filepath.Join(dir, "dnd", "tuning"), nil
}

// Path is a device's file in a folder.
func Path(folder string, d Device) string {
	key, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings
	}
	sum := sha256.Sum256(append(key, wgsl.Hash()...))
	return filepath.Join(folder, hex.EncodeToString(sum[:8])+".json")
}

// Load reads a device's choices: none, and no error, where nothing was measured. An error
// says that the file is damaged; it may be deleted.
func Load(folder string, d Device) ([]graph.ConvChoice, error) {
	path := Path(folder, d)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	var c file
	if len(raw) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	} else {
		err = json.Unmarshal(raw, &c)
	}
	if err == nil && (c.Version != fileVersion || c.Device != d || c.Kernels != wgsl.Hash()) {
		err = errors.New("it is of another device or version")
	}
	if err == nil {
		err = (&graph.Tuning{Convs: c.Convs}).Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("tune: %s is damaged, measure again: %w", path, err)
	}
	return c.Convs, nil
}

// Save keeps choices, in place of earlier ones for the same shapes, whole or not at all.
func Save(folder string, d Device, choices []graph.ConvChoice) error {
	kept, err := Load(folder, d)
	if err != nil {
		kept = nil // damaged: written anew
	}
	kept = slices.DeleteFunc(kept, func(k graph.ConvChoice) bool {
		return slices.ContainsFunc(choices, func(c graph.ConvChoice) bool { return c.Shape == k.Shape })
	})
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	// The newest last: those of long ago fall out.
	all := append(kept, choices...)
	all = all[max(0, len(all)-graph.MaxChoices):]
	return atomicfile.Write(Path(folder, d), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(file{fileVersion, d, wgsl.Hash(), all})
	})
}

// Forget deletes a device's choices.
func Forget(folder string, d Device) error {
	if err := os.Remove(Path(folder, d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tune: %w", err)
	}
	return nil
}
