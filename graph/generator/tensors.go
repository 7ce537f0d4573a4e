package generator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const (
	maxShards = 256
	maxIndex  = 16 << 20
	// maxListed bounds how many tensors one error names of a kind.
	maxListed = 20
)

// The stems of the weights' file names: STEM.safetensors, or shards of it with
// STEM.safetensors.index.json.
const (
	decoderStem = "decoder"
	encoderStem = "model"
)

// spec is a tensor as a config wants it.
type spec struct {
	name     string
	shape    []int // nil for any
	optional bool
}

// criterionKey is the importance of each weight token (reference d.2): a buffer in the
// state dict that only training reads.
const criterionKey = "criterion_weight"

func decoderSpecs(c decoder.Config) []spec {
	specs := []spec{{criterionKey, []int{1, c.Output()[0], 1, 1}, true}}
	for _, t := range c.Tensors() {
		specs = append(specs, spec{t.Name, t.Shape, false})
	}
	return specs
}

// positionIDs is the one tensor of older BERT files that holds no weights: 0, 1, 2, …
const positionIDs = "embeddings.position_ids"

func encoderSpecs(c encoder.Config) []spec {
	specs := []spec{{positionIDs, nil, true}, {"pooler.dense.weight", nil, true}, {"pooler.dense.bias", nil, true}}
	for _, t := range c.Tensors() {
		specs = append(specs, spec{t.Name, t.Shape, false})
	}
	return specs
}

// checkTensors compares tensors with what a config wants. One error lists all that is
// wrong.
func checkTensors(have []safetensors.Info, want []spec) error {
	byName := make(map[string]safetensors.Info, len(have))
	for _, t := range have {
		byName[t.Name] = t
	}
	var missing, wrong, unexpected []string
	for _, w := range want {
		t, ok := byName[w.name]
		switch {
		case !ok && w.optional:
		case !ok:
			missing = append(missing, fmt.Sprintf("%s %v", w.name, w.shape))
		case w.shape != nil && blocksOf(t, elements(w.shape)) != "":
		case w.shape != nil && !slices.Equal(t.Shape, w.shape):
			wrong = append(wrong, fmt.Sprintf("%s has shape %v, expected %v", w.name, t.Shape, w.shape))
		case !isFloat(t.DType) && w.shape != nil:
			wrong = append(wrong, fmt.Sprintf("%s has type %s, expected F32, F16, BF16 or blocks of Q8 or Q4_1", w.name, t.DType))
		}
		delete(byName, w.name)
	}
	for _, t := range have {
		if _, ok := byName[t.Name]; ok {
			unexpected = append(unexpected, fmt.Sprintf("%s %v", clip(t.Name), t.Shape))
		}
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"missing tensors", missing}, {"wrong tensors", wrong}, {"unexpected tensors", unexpected}} {
		if n := len(p.names); n > maxListed {
			p.names = append(p.names[:maxListed:maxListed], fmt.Sprintf("and %d more", n-maxListed))
		}
		if len(p.names) > 0 {
			parts = append(parts, p.what+": "+strings.Join(p.names, ", "))
		}
	}
	if parts != nil {
		return errors.New(strings.Join(parts, "; "))
	}
	return nil
}

func isFloat(d safetensors.DType) bool {
	return d == safetensors.F32 || d == safetensors.F16 || d == safetensors.BF16
}

// blocksOf is the type in whose blocks a tensor holds n values, "" if it does not: U8 of
// shape (blocks, bytes of one), since safetensors has no such types.
func blocksOf(t safetensors.Info, n int64) safetensors.DType {
	for _, d := range quant.Types {
		if block := quant.BlockBytes(d); t.DType == safetensors.U8 && len(t.Shape) == 2 && int64(t.Shape[1]) == block && int64(t.Shape[0])*block == quant.Size(d, n) {
			return safetensors.DType(d)
		}
	}
	return ""
}

func elements(shape []int) int64 { return safetensors.Info{Shape: shape}.Elements() }

// tensorSet is the tensors of one file or of several shards.
type tensorSet struct {
	files  []*safetensors.File
	names  []string // of the files, without the folder
	index  string   // name of the index file, "" without shards
	where  map[string]int
	blocks map[string]packed // those that are stored in blocks
}

// packed is what a tensor in blocks holds.
type packed struct {
	dtype  safetensors.DType
	values int64
}

// findBlocks notes which tensors are stored in blocks, in a set that fits the specs.
func (s *tensorSet) findBlocks(want []spec) {
	s.blocks = map[string]packed{}
	for _, w := range want {
		_, t, ok := s.lookup(w.name)
		if !ok || w.shape == nil {
			continue
		}
		if d := blocksOf(t, elements(w.shape)); d != "" {
			s.blocks[w.name] = packed{d, elements(w.shape)}
		}
	}
}

func (s *tensorSet) Close() error {
	var err error
	for _, f := range s.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// lookup finds a tensor and its file.
func (s *tensorSet) lookup(name string) (*safetensors.File, safetensors.Info, bool) {
	i, ok := s.where[name]
	if !ok {
		return nil, safetensors.Info{}, false
	}
	t, _ := s.files[i].Lookup(name)
	return s.files[i], t, true
}

// ReadRange is safetensors.File's, over all files.
func (s *tensorSet) ReadRange(name string, off int64, p []byte) error {
	f, _, ok := s.lookup(name)
	if !ok {
		return fmt.Errorf("tensor %q: %w", name, safetensors.ErrNoTensor)
	}
	return f.ReadRange(name, off, p)
}

// all lists the tensors of all files.
func (s *tensorSet) all() []safetensors.Info {
	var list []safetensors.Info
	for _, f := range s.files {
		list = append(list, f.Tensors...)
	}
	return list
}

// openTensors opens STEM.safetensors of a folder, or its shards as Hugging Face cuts
// them. The index and the shards must name the same tensors.
func openTensors(dir, stem string) (s *tensorSet, err error) {
	s = &tensorSet{where: map[string]int{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	single, index := stem+".safetensors", stem+".safetensors.index.json"
	hasSingle, hasIndex := isFile(filepath.Join(dir, single)), isFile(filepath.Join(dir, index))
	if hasSingle && hasIndex {
		return s, fmt.Errorf("%s: holds both %s and %s, expected one", dir, single, index)
	}
	if !hasIndex {
		return s, s.open(dir, single)
	}
	s.index = index
	raw, err := readSmall(filepath.Join(dir, index), maxIndex)
	if err != nil {
		return s, err
	}
	var table struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &table); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(dir, index), jsonError(raw, err))
	}
	shards := map[string]int{}
	for name, shard := range table.WeightMap {
		if !localPath(shard) || strings.Contains(shard, "/") || !strings.HasSuffix(shard, ".safetensors") {
			return s, fmt.Errorf("%s: tensor %q is in %q, expected a .safetensors file beside the index", filepath.Join(dir, index), clip(name), clip(shard))
		}
		shards[shard]++
	}
	if len(shards) == 0 || len(shards) > maxShards {
		return s, fmt.Errorf("%s: %d shards, expected 1 to %d", filepath.Join(dir, index), len(shards), maxShards)
	}
	for _, shard := range sortedKeys(shards) {
		if err := s.open(dir, shard); err != nil {
			return s, err
		}
		f := s.files[len(s.files)-1]
		for _, t := range f.Tensors {
			if table.WeightMap[t.Name] != shard {
				return s, fmt.Errorf("%s: tensor %q is here, but %s places it in %q", f.Path, clip(t.Name), index, clip(table.WeightMap[t.Name]))
			}
		}
		if len(f.Tensors) != shards[shard] {
			return s, fmt.Errorf("%s: has %d tensors, but %s places %d here", f.Path, len(f.Tensors), index, shards[shard])
		}
	}
	return s, nil
}

func (s *tensorSet) open(dir, name string) error {
	f, err := safetensors.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	for _, t := range f.Tensors {
		s.where[t.Name] = len(s.files)
	}
	s.files, s.names = append(s.files, f), append(s.names, name)
	return nil
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("is a folder, expected a file")}
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes, expected a small file", path, limit)
	}
	return raw, nil
}
