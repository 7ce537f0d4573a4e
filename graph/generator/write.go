package generator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// WriteOptions say how a package is written. The zero value keeps all types.
type WriteOptions struct {
	// DType and EncoderDType are the types to store weights as: F32, F16, BF16, Q8 or Q4. In
	// the last two only matrices and kernels are in blocks, and the rest is F16. Empty keeps
	// the type that each tensor has.
	DType, EncoderDType safetensors.DType
	// ShardBytes is the size above which the decoder's file is cut into shards, 2 GiB if
	// 0. A single tensor is never cut.
	ShardBytes int64
	// Replace allows a package that stands there already, and nothing else, to be
	// replaced.
	Replace bool
	// Progress is called now and then with the bytes written; it may be nil.
	Progress func(done, total int64)
}

const defaultShard = 2 << 30

// Write makes a package of decoder tensors (whose Data stream the values) and of an
// encoder's folder in Hugging Face layout ("" for none). It fills in the manifest's
// format version, file list and encoder; all else is checked before anything is written.
// NaN and infinite values are refused. The folder appears whole or not at all.
func Write(ctx context.Context, dir string, m Manifest, tensors []safetensors.Tensor, encoderFrom string, o WriteOptions) (err error) {
	w := &writer{ctx: ctx, progress: o.Progress}
	m.FormatVersion, m.Files = FormatVersion, nil
	for _, d := range []safetensors.DType{o.DType, o.EncoderDType} {
		if d != "" && !inBlocks(d) && !isFloat(d) {
			return fmt.Errorf("weights cannot be stored as %q, expected F32, F16, BF16, Q8 or Q4_1", d)
		}
	}
	if err := checkTarget(dir, o.Replace); err != nil {
		return err
	}
	var encoderWeights []safetensors.Tensor
	if encoderFrom == "" {
		m.Encoder = nil
	} else {
		set, e, err := describeEncoder(encoderFrom, m.Encoder)
		if err != nil {
			return err
		}
		defer set.Close()
		m.Encoder = e
		if encoderWeights, err = encoderTensors(set, encoderSpecs(e.Config)); err != nil {
			return err
		}
	}
	if err := m.Validate(); err != nil {
		return fmt.Errorf("package %s: %w", dir, err)
	}
	if err := checkTensors(infos(tensors), decoderSpecs(m.Decoder)); err != nil {
		return fmt.Errorf("package %s: decoder weights: %w", dir, err)
	}
	tensors, encoderWeights = w.stored(tensors, o.DType, "decoder"), w.stored(encoderWeights, o.EncoderDType, "encoder")
	return atomicfile.Dir(dir, o.Replace, func(tmp string) error {
		w.dir = tmp
		if err := w.decoder(tensors, cmp.Or(o.ShardBytes, defaultShard)); err != nil {
			return err
		}
		if encoderFrom != "" {
			if err := w.encoder(encoderFrom, encoderWeights); err != nil {
				return err
			}
		}
		slices.SortFunc(w.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
		m.Files = w.files
		if err := writeManifest(tmp, &m); err != nil {
			return err
		}
		p, err := Open(tmp)
		if err != nil {
			return fmt.Errorf("package %s: %w", dir, err)
		}
		return p.Close()
	})
}

// checkTarget refuses to replace a folder that is neither empty nor a package.
func checkTarget(dir string, replace bool) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !replace:
		return fmt.Errorf("%s exists already: choose another folder or remove it", dir)
	case len(entries) > 0 && !isFile(filepath.Join(dir, ManifestName)):
		return fmt.Errorf("%s is not a generator package: it is not replaced", dir)
	}
	return nil
}

// writeManifest writes generator.json.
func writeManifest(dir string, m *Manifest) error {
	return atomicfile.Write(filepath.Join(dir, ManifestName), atomicfile.JSON(m))
}

// describeEncoder opens the weights of an encoder and makes its part of the manifest. e
// may bring its id; otherwise that is the folder's name.
func describeEncoder(from string, e *Encoder) (*tensorSet, *Encoder, error) {
	config, err := readEncoderConfig(from)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%s: expected a text encoder in Hugging Face layout: %w", from, err)
		}
		return nil, nil, err
	}
	t, err := ReadTokenizer(from)
	if err != nil {
		return nil, nil, err
	}
	if err := checkVocabulary(from, t, config); err != nil {
		return nil, nil, err
	}
	set, err := openTensors(from, encoderStem)
	if err != nil {
		return nil, nil, err
	}
	out := &Encoder{Dir: encoderDir, Config: config}
	if e != nil {
		out.ID = e.ID
	}
	if out.ID == "" {
		abs, err := filepath.Abs(from)
		if err != nil {
			return set, nil, err
		}
		out.ID = filepath.Base(abs)
	}
	return set, out, nil
}

func infos(tensors []safetensors.Tensor) []safetensors.Info {
	list := make([]safetensors.Info, len(tensors))
	for i, t := range tensors {
		list[i] = safetensors.Info{Name: t.Name, DType: t.DType, Shape: t.Shape}
	}
	return list
}

// writer writes the files of a package and notes their checksums.
type writer struct {
	ctx      context.Context
	dir      string
	files    []File
	done     int64
	total    int64
	progress func(done, total int64)
}

// stored gives the tensors the type that they are stored as, and adds their bytes to the
// total.
func (w *writer) stored(tensors []safetensors.Tensor, d safetensors.DType, part string) []safetensors.Tensor {
	list := slices.Clone(tensors)
	for i := range list {
		list[i] = checked(list[i], d, part)
		w.total += bytesOf(list[i])
	}
	return list
}

func bytesOf(t safetensors.Tensor) int64 {
	return safetensors.Info{Shape: t.Shape}.Elements() * t.DType.Size()
}

// file writes one file through its checksum.
func (w *writer) file(name string, fill func(io.Writer) error) error {
	h := &hashing{w: w, sum: sha256.New()}
	var filled error
	err := atomicfile.Write(filepath.Join(w.dir, filepath.FromSlash(name)), func(out io.Writer) error {
		h.out = out
		filled = fill(h)
		return filled
	})
	if filled != nil {
		return fmt.Errorf("%s: %w", name, filled) // without the temporary folder's name
	}
	if err != nil {
		return err
	}
	w.files = append(w.files, File{Path: name, Bytes: h.n, SHA256: hex.EncodeToString(h.sum.Sum(nil))})
	return nil
}

// decoder writes the decoder's file, or shards and their index.
func (w *writer) decoder(tensors []safetensors.Tensor, limit int64) error {
	var shards [][]safetensors.Tensor
	size := int64(0)
	for _, t := range tensors {
		n := bytesOf(t)
		if len(shards) == 0 || size > limit-n {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], t)
		size += n
	}
	if len(shards) == 1 {
		return w.file(decoderStem+".safetensors", func(out io.Writer) error { return safetensors.Write(out, tensors, nil) })
	}
	if len(shards) > maxShards {
		return fmt.Errorf("%d shards of %d bytes, expected at most %d: choose a larger size", len(shards), limit, maxShards)
	}
	var index struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	index.WeightMap = map[string]string{}
	for i, shard := range shards {
		name := fmt.Sprintf("%s-%05d-of-%05d.safetensors", decoderStem, i+1, len(shards))
		if err := w.file(name, func(out io.Writer) error { return safetensors.Write(out, shard, nil) }); err != nil {
			return err
		}
		for _, t := range shard {
			index.WeightMap[t.Name] = name
			index.Metadata.TotalSize += bytesOf(t)
		}
	}
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return w.copy(decoderStem+".safetensors.index.json", append(raw, '\n'))
}

// encoder writes the encoder's folder.
func (w *writer) encoder(from string, weights []safetensors.Tensor) error {
	if err := os.Mkdir(filepath.Join(w.dir, encoderDir), 0o755); err != nil {
		return err
	}
	for _, name := range kept {
		raw, err := readSmall(filepath.Join(from, name), maxVocabulary)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = w.copy(encoderDir+"/"+name, raw)
		}
		if err != nil {
			return err
		}
	}
	return w.file(encoderDir+"/"+encoderStem+".safetensors", func(out io.Writer) error {
		return safetensors.Write(out, weights, map[string]string{"format": "pt"})
	})
}

func (w *writer) copy(name string, raw []byte) error {
	return w.file(name, func(out io.Writer) error {
		_, err := out.Write(raw)
		return err
	})
}

// hashing counts and hashes what goes into a file, and stops when the context is done.
type hashing struct {
	w   *writer
	out io.Writer
	sum hash.Hash
	n   int64
}

func (h *hashing) Write(p []byte) (int, error) {
	if err := h.w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := h.out.Write(p)
	h.sum.Write(p[:n])
	h.n += int64(n)
	h.w.done += int64(n)
	if h.w.progress != nil {
		h.w.progress(min(h.w.done, h.w.total), h.w.total)
	}
	return n, err
}
