package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const (
	weightsName = "model.safetensors"
	indexName   = "model.safetensors.index.json"
)

// maxText bounds the index, and the files that are copied with the weights: vocabularies
// have megabytes.
const maxText = 256 << 20

// textFiles are the endings of a model's files that are copied as they are.
var textFiles = []string{".json", ".txt", ".model", ".jinja", ".md", ".tiktoken", ".py"}

// Folder merges a into the Hugging Face model in the folder base, and makes the folder
// out, which must not exist: the same shards with the same types, and the files of
// configuration and tokenizer. tell may be nil.
func Folder(ctx context.Context, base string, a *lora.Adapter, out string, tell Progress) (*Report, error) {
	spec, err := lora.ReadSpec(base)
	if err != nil {
		return nil, err
	}
	m, err := newMerger(ctx, a, spec, tell)
	if err != nil {
		return nil, err
	}
	shards, err := openShards(base)
	defer func() {
		for _, f := range shards {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	targets, err := m.inShards(base, shards)
	if err != nil {
		return nil, err
	}
	texts, err := textsOf(base)
	if err != nil {
		return nil, err
	}
	for _, f := range shards {
		for _, t := range f.Tensors {
			m.total += t.Bytes
		}
	}
	err = atomicfile.Dir(out, false, func(tmp string) error {
		for _, name := range texts {
			if err := copyText(filepath.Join(base, name), filepath.Join(tmp, name)); err != nil {
				return err
			}
		}
		for _, f := range shards {
			path := filepath.Join(tmp, filepath.Base(f.Path))
			if err := safetensors.WriteFile(path, m.shard(f, targets), f.Metadata); err != nil {
				return err
			}
		}
		return m.finish(tmp)
	})
	return m.report, err
}

// openShards opens the files of weights that the index names, or the only one.
func openShards(base string) ([]*safetensors.File, error) {
	path := filepath.Join(base, indexName)
	if st, err := os.Stat(path); err == nil && st.Size() > maxText {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, st.Size(), maxText)
	}
	text, err := os.ReadFile(path)
	names := []string{weightsName}
	if err == nil {
		var index struct {
			Map map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(text, &index); err != nil {
			return nil, fmt.Errorf("%s: not the index of shards: %w", path, err)
		}
		names = nil
		for _, name := range index.Map {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: names no shards", path)
	}
	var shards []*safetensors.File
	for _, name := range names {
		if name != filepath.Base(name) || !strings.HasSuffix(name, ".safetensors") {
			return shards, fmt.Errorf("%s: names the shard %q, expected a .safetensors file of the same folder", path, name)
		}
		f, err := safetensors.Open(filepath.Join(base, name))
		if errors.Is(err, fs.ErrNotExist) {
			return shards, fmt.Errorf("%w: the base model's weights must be safetensors files", err)
		}
		if err != nil {
			return shards, err
		}
		shards = append(shards, f)
	}
	return shards, nil
}

// inShards finds the weight of every target.
func (m *merger) inShards(base string, shards []*safetensors.File) (map[string]target, error) {
	targets := map[string]target{}
	for i, t := range m.a.Base.Targets {
		name := t.Name + ".weight"
		found := false
		for _, f := range shards {
			info, ok := f.Lookup(name)
			if !ok {
				continue
			}
			if found {
				return nil, fmt.Errorf("%s: tensor %s is in two shards", base, name)
			}
			found = true
			to, ok := floats[info.DType]
			if !ok {
				return nil, fmt.Errorf("%s: tensor %s has type %s, expected F32, F16 or BF16: merge into the model before it is quantised, or into a GGUF file", f.Path, name, info.DType)
			}
			if !slices.Equal(info.Shape, []int{t.Out, t.In}) {
				return nil, fmt.Errorf("%s: tensor %s has shape %v, the adapter is for (%d,%d)", f.Path, name, info.Shape, t.Out, t.In)
			}
			targets[name] = target{index: i, name: name, b: m.a.Pairs[i].B, from: string(info.DType), to: to}
		}
		if !found {
			return nil, fmt.Errorf("%s: no tensor %s, which the adapter changes", base, name)
		}
	}
	return targets, nil
}

var floats = map[safetensors.DType]gguf.TensorType{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16, safetensors.BF16: gguf.BF16}

// shard lists a file's tensors, merged where they are targets.
func (m *merger) shard(f *safetensors.File, targets map[string]target) []safetensors.Tensor {
	var list []safetensors.Tensor
	for _, info := range f.Tensors {
		read := func(off int64, p []byte) error { return f.ReadRange(info.Name, off, p) }
		data := func(w io.Writer) error { return m.copy(w, info.Bytes, read) }
		if t, ok := targets[info.Name]; ok {
			data = func(w io.Writer) error {
				return m.merge(w, t, func(row int, values []float32) error {
					raw := make([]byte, int64(len(values))*info.DType.Size())
					if err := read(int64(row)*int64(info.Shape[1])*info.DType.Size(), raw); err != nil {
						return err
					}
					return safetensors.DecodeFloats(info.DType, raw, values)
				})
			}
		}
		list = append(list, safetensors.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: data})
	}
	return list
}

// textsOf lists the files that belong to the weights.
func textsOf(base string) ([]string, error) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		upper := strings.ToUpper(name)
		wanted := slices.Contains(textFiles, strings.ToLower(filepath.Ext(name))) || strings.HasPrefix(upper, "LICENSE") || strings.HasPrefix(upper, "NOTICE")
		if !wanted || strings.HasPrefix(name, ".") || name == ReportName || strings.HasPrefix(name, "adapter_") {
			continue
		}
		// Caches of the hub hold links.
		st, err := os.Stat(filepath.Join(base, name))
		if err != nil {
			return nil, err
		}
		if st.Mode().IsRegular() && st.Size() <= maxText {
			names = append(names, name)
		}
	}
	return names, nil
}

func copyText(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return atomicfile.Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}
