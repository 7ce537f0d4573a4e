package lora

import (
	"bytes"
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

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// The formats that adapters are written in.
const (
	PEFT = "peft" // a folder for PEFT, vLLM and what else reads its files
	GGUF = "gguf" // one file for llama.cpp
	MLX  = "mlx"  // a folder for mlx-lm
)

// The other files of an adapter that this package writes.
const (
	GGUFName = "adapter.gguf"
	InfoName = "dnd.json"
)

// infoKind is Info.Kind: how a later run knows that a folder is an adapter of ours.
const infoKind = "dnd adapter"

// Options say how an adapter is written.
type Options struct {
	Format string            // PEFT, GGUF or MLX
	DType  safetensors.DType // F32 (also if empty), F16, and but for GGUF BF16
	Layers int               // of the whole base model, 0 if unknown; MLX counts from the last
	// Provenance is written into dnd.json and into the weights' own metadata.
	Provenance Provenance
}

// Provenance says where an adapter comes from. Hashes are SHA-256 in lower-case hex.
type Provenance struct {
	Tool            string `json:"tool,omitempty"`      // "dndgen 1.2.0"
	Generator       string `json:"generator,omitempty"` // the generator's name
	GeneratorSHA256 string `json:"generator_sha256,omitempty"`
	PromptsSHA256   string `json:"prompts_sha256,omitempty"`
	Seed            int64  `json:"seed"`
	Draw            int    `json:"draw"`
	Backend         string `json:"backend,omitempty"` // the device that the adapter was made on
}

// pairs are the non-empty fields, as metadata keys and values.
func (p Provenance) pairs() [][2]string {
	out := [][2]string{
		{"dnd.tool", p.Tool}, {"dnd.generator", p.Generator}, {"dnd.generator_sha256", p.GeneratorSHA256},
		{"dnd.prompts_sha256", p.PromptsSHA256}, {"dnd.seed", fmt.Sprint(p.Seed)}, {"dnd.draw", fmt.Sprint(p.Draw)},
		{"dnd.backend", p.Backend},
	}
	return slices.DeleteFunc(out, func(kv [2]string) bool { return kv[1] == "" })
}

// Info is dnd.json, the file that lies beside an adapter's own.
type Info struct {
	FormatVersion int        `json:"format_version"`
	Kind          string     `json:"kind"`
	Format        string     `json:"format"`
	BaseModel     string     `json:"base_model,omitempty"`
	Rank          int        `json:"rank"`
	Alpha         float64    `json:"alpha"`
	Provenance    Provenance `json:"provenance"`
	Files         []FileSum  `json:"files"`
}

// FileSum is one of an adapter's files with its checksum.
type FileSum struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// File is one file of an adapter. Write gives the same bytes every time.
type File struct {
	Name  string
	Write func(w io.Writer) error
}

// Files are the files of an adapter, dnd.json last: for callers that have no folder to
// write to. The adapter must pass Check.
func Files(a *Adapter, o Options) ([]File, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	if o.DType == "" {
		o.DType = safetensors.F32
	}
	if o.DType == safetensors.F16 {
		if err := a.fitsHalf(); err != nil {
			return nil, err
		}
	}
	var files []File
	var err error
	switch o.Format {
	case PEFT:
		files, err = peftFiles(a, o)
	case GGUF:
		files, err = ggufFiles(a, o)
	case MLX:
		files, err = mlxFiles(a, o)
	default:
		return nil, fmt.Errorf("lora: unknown adapter format %q, expected %s, %s or %s", o.Format, PEFT, GGUF, MLX)
	}
	if err != nil {
		return nil, err
	}
	info := Info{FormatVersion: 1, Kind: infoKind, Format: o.Format, BaseModel: a.Base.Model,
		Rank: a.Base.Rank, Alpha: a.Base.Alpha, Provenance: o.Provenance}
	for _, f := range files {
		sum := sha256.New()
		n := counter{w: sum}
		if err := f.Write(&n); err != nil {
			return nil, err
		}
		info.Files = append(info.Files, FileSum{Name: f.Name, Bytes: n.n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	}
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(files, text2file(InfoName, append(text, '\n'))), nil
}

func text2file(name string, text []byte) File {
	return File{Name: name, Write: func(w io.Writer) error { _, err := w.Write(text); return err }}
}

// fitsHalf checks that no value is beyond float16.
func (a *Adapter) fitsHalf() error {
	const most = 65504
	for i, t := range a.Base.Targets {
		for _, m := range [][]float32{a.Pairs[i].A, a.Pairs[i].B} {
			for _, v := range m {
				if v > most || v < -most {
					return fmt.Errorf("lora: module %s: value %v is too large for F16: write F32 or BF16", t.Name, v)
				}
			}
		}
	}
	return nil
}

// Write writes an adapter as the folder dir, as WriteFiles does.
func Write(dir string, a *Adapter, o Options) error {
	if err := CheckTarget(dir); err != nil {
		return err
	}
	files, err := Files(a, o)
	if err != nil {
		return err
	}
	return WriteFiles(dir, files)
}

// WriteFiles writes an adapter's files as the folder dir, whole or not at all. A folder
// that exists is replaced only if it is empty or holds an earlier adapter by this function
// and nothing else.
func WriteFiles(dir string, files []File) error {
	if err := CheckTarget(dir); err != nil {
		return err
	}
	for _, f := range files {
		if !FileName(f.Name) {
			return fmt.Errorf("%s: %q is no file of an adapter, expected one of %q", dir, f.Name, own)
		}
	}
	return atomicfile.Dir(dir, true, func(tmp string) error {
		for _, f := range files {
			if err := atomicfile.Write(filepath.Join(tmp, f.Name), f.Write); err != nil {
				return err
			}
		}
		// The check again, so that what came meanwhile stays.
		return CheckTarget(dir)
	})
}

// own are the names of all files that an adapter can have.
var own = []string{ConfigName, WeightsName, GGUFName, MLXName, InfoName}

// FileName says whether a file of an adapter can have this name.
func FileName(name string) bool { return slices.Contains(own, name) }

// CheckTarget says whether Write may make the folder dir: a caller asks before it
// begins long work. A missing folder is fine.
func CheckTarget(dir string) error {
	st, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a folder: choose another place for the adapter", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !FileName(e.Name()) {
			return fmt.Errorf("%s holds %s, which is no file of an adapter made here: choose another folder or remove it", dir, e.Name())
		}
	}
	if _, err := ReadInfo(dir); err != nil {
		return fmt.Errorf("%s holds files, but not those of an adapter made here: choose another folder or remove it (%w)", dir, err)
	}
	return nil
}

// ReadInfo reads dnd.json of an adapter's folder.
func ReadInfo(dir string) (*Info, error) {
	path := filepath.Join(dir, InfoName)
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	var info Info
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&info); err != nil {
		return nil, fmt.Errorf("%s: not the JSON of an adapter: %w", path, err)
	}
	if info.Kind != infoKind || info.FormatVersion != 1 {
		return nil, fmt.Errorf("%s: kind %q version %d, expected %q version 1", path, info.Kind, info.FormatVersion, infoKind)
	}
	return &info, nil
}

// Verify checks the sizes and checksums of an adapter's files against its dnd.json.
func Verify(dir string) (*Info, error) {
	info, err := ReadInfo(dir)
	if err != nil {
		return nil, err
	}
	if len(info.Files) == 0 {
		return nil, fmt.Errorf("%s: lists no files", filepath.Join(dir, InfoName))
	}
	for _, f := range info.Files {
		if f.Name != filepath.Base(f.Name) || f.Name == InfoName || !FileName(f.Name) {
			return nil, fmt.Errorf("%s: lists %q, which is no file of an adapter", filepath.Join(dir, InfoName), f.Name)
		}
		if err := f.verify(filepath.Join(dir, f.Name)); err != nil {
			return nil, err
		}
	}
	return info, nil
}

func (s FileSum) verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if n != s.Bytes {
		return fmt.Errorf("%s: has %d bytes, expected %d", path, n, s.Bytes)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != s.SHA256 {
		return fmt.Errorf("%s: SHA-256 is %s, expected %s", path, got, s.SHA256)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
