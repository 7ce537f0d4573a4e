package generator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Report is what Verify has looked at.
type Report struct {
	Summary Summary `json:"summary"`
	SHA256  string  `json:"sha256"` // of generator.json
	Tensors int     `json:"tensors"`
	Values  int64   `json:"values"`
	// Unlisted are files without a checksum that do no harm: a model card, a licence.
	Unlisted []string `json:"unlisted,omitempty"`
}

// Verify reads a whole package: all that Open checks, the checksum of every file, that
// every weight is a finite number, and that no other files lie about. It reads every
// file once, in pieces. progress may be nil.
func Verify(ctx context.Context, dir string, progress func(done, total int64)) (*Report, error) {
	p, err := Open(dir)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	r := &Report{Summary: p.Summary(), SHA256: p.SHA256}
	if r.Unlisted, err = p.strays(); err != nil {
		return nil, err
	}
	v := &verifier{ctx: ctx, report: r, total: r.Summary.Bytes, progress: progress, buf: make([]byte, quant.BytesQ8*quant.BytesQ41<<10)} // whole blocks of all types
	for _, f := range p.Manifest.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		sum, err := v.file(path)
		if err != nil {
			return nil, err
		}
		if sum != f.SHA256 {
			return nil, fmt.Errorf("%s: SHA-256 is %s, but %s says %s: damaged or changed", path, sum, ManifestName, f.SHA256)
		}
	}
	return r, nil
}

// strays finds files that the manifest does not list. Those that come with a folder from
// the Hugging Face hub or git are returned, another is an error.
func (p *Package) strays() ([]string, error) {
	var harmless []string
	err := filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.Dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			if name == ".git" || name == ".cache" {
				return fs.SkipDir
			}
			return nil
		}
		if name == ManifestName || name == SignatureName || p.lists("", name) {
			return nil
		}
		for _, ok := range []string{"README", "LICENSE", "NOTICE", ".gitattributes", ".gitignore"} {
			if strings.HasPrefix(name, ok) {
				harmless = append(harmless, name)
				return nil
			}
		}
		return fmt.Errorf("%s: %s does not list it: remove it", path, ManifestName)
	})
	slices.Sort(harmless)
	return harmless, err
}

type verifier struct {
	ctx         context.Context
	report      *Report
	done, total int64
	progress    func(done, total int64)
	buf         []byte
}

// file hashes a file, and checks the values if it holds tensors.
func (v *verifier) file(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if !strings.HasSuffix(path, ".safetensors") {
		err := v.part(f, path, "", 0, st.Size(), sum, nil)
		return hexSum(sum), err
	}
	h, err := safetensors.ReadHeader(f, st.Size())
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	// The tensors follow each other without holes, to the end of the file.
	data := st.Size()
	if len(h.Tensors) > 0 {
		data = h.Tensors[0].Offset
	}
	if err := v.part(f, path, "", 0, data, sum, nil); err != nil {
		return "", err
	}
	for i := range h.Tensors {
		t := &h.Tensors[i]
		if err := v.part(f, path, t.Name, t.Offset, t.Bytes, sum, t); err != nil {
			return "", err
		}
		v.report.Tensors++
		if blocks(t) != "" {
			v.report.Values += int64(t.Shape[0]) * quant.Values
		} else {
			v.report.Values += t.Elements()
		}
	}
	return hexSum(sum), nil
}

func hexSum(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }

// part hashes n bytes from off on; they are t's values if it is not nil.
func (v *verifier) part(f *os.File, path, name string, off, n int64, sum hash.Hash, t *safetensors.Info) error {
	for at := int64(0); at < n; {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		buf := v.buf[:min(int64(len(v.buf)), n-at)]
		if _, err := io.ReadFull(io.NewSectionReader(f, off+at, int64(len(buf))), buf); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		sum.Write(buf)
		if t != nil {
			d := t.DType
			if b := blocks(t); b != "" {
				d = b
			}
			values, bytes := unit(d)
			first := at / bytes * values
			if err := checkFinite(path, name, d, buf, first); err != nil {
				return err
			}
		}
		at += int64(len(buf))
		v.done += int64(len(buf))
		if v.progress != nil {
			v.progress(v.done, v.total)
		}
	}
	return nil
}

// blocks is the type of whose whole blocks a tensor's bytes are, "" if of none.
func blocks(t *safetensors.Info) safetensors.DType {
	if len(t.Shape) != 2 {
		return ""
	}
	return blocksOf(*t, int64(t.Shape[0])*quant.Values)
}
