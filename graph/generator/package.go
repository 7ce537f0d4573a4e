package generator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// Package is an open generator package: its manifest, and its weights as ranges of
// files. It is safe for concurrent use.
type Package struct {
	Dir      string
	Manifest Manifest
	// SHA256 of generator.json, lower-case hex. It covers the whole package, since the
	// manifest holds the checksums of all other files.
	SHA256 string

	decoder *tensorSet
	encoder *tensorSet // nil without encoder
	made    hashed     // in their place, in a package without files

	tokenizer struct {
		sync.Once
		t   *text.Tokenizer
		err error
	}
}

// Open opens a package and checks all but its contents: the manifest, the files' sizes,
// and name, shape and type of every tensor. Checksums are Verify's; values are checked
// as they are read (Weights). Errors name the file, and the tensor if it is one's.
func Open(dir string) (p *Package, err error) {
	path := filepath.Join(dir, ManifestName)
	raw, err := readSmall(path, maxManifest)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: no generator package: %w", dir, err)
		}
		return nil, err
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	sum := sha256.Sum256(raw)
	p = &Package{Dir: dir, Manifest: *m, SHA256: hex.EncodeToString(sum[:])}
	defer func() {
		if err != nil {
			p.Close()
			p = nil
		}
	}()
	for _, f := range m.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		st, err := os.Stat(path)
		if err != nil {
			return p, fmt.Errorf("%s lists it: %w", ManifestName, err)
		}
		if !st.Mode().IsRegular() || st.Size() != f.Bytes {
			return p, fmt.Errorf("%s: %d bytes, but %s says %d: damaged or changed", path, st.Size(), ManifestName, f.Bytes)
		}
	}
	if p.decoder, err = p.open("", decoderStem, decoderSpecs(m.Decoder)); err != nil {
		return p, err
	}
	if m.Encoder == nil {
		return p, nil
	}
	if p.encoder, err = p.open(m.Encoder.Dir, encoderStem, encoderSpecs(m.Encoder.Config)); err != nil {
		return p, err
	}
	config, err := readEncoderConfig(filepath.Join(dir, filepath.FromSlash(m.Encoder.Dir)))
	if err != nil {
		return p, err
	}
	if config != m.Encoder.Config {
		return p, fmt.Errorf("%s: encoder.config differs from %s/%s", path, m.Encoder.Dir, configName)
	}
	if p.VocabPath() == "" && p.TokenizerPath() == "" {
		return p, fmt.Errorf("%s: has neither %s nor %s", filepath.Join(dir, m.Encoder.Dir), vocabName, tokenizerName)
	}
	return p, nil
}

// open opens the weights in a folder of the package, and checks them.
func (p *Package) open(sub, stem string, want []spec) (*tensorSet, error) {
	dir := filepath.Join(p.Dir, filepath.FromSlash(sub))
	s, err := openTensors(dir, stem)
	if err != nil {
		return nil, err
	}
	names := s.names
	if s.index != "" {
		names = append([]string{s.index}, names...)
	}
	for _, name := range names {
		if !p.lists(sub, name) {
			s.Close()
			return nil, fmt.Errorf("%s: %s does not list it", filepath.Join(dir, name), ManifestName)
		}
	}
	if err := checkTensors(s.all(), want); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, names[0]), err)
	}
	s.findBlocks(want)
	return s, nil
}

// lists reports whether the manifest lists a file.
func (p *Package) lists(sub, name string) bool {
	if sub != "" {
		name = sub + "/" + name
	}
	_, ok := slices.BinarySearchFunc(p.Manifest.Files, name, func(f File, path string) int { return strings.Compare(f.Path, path) })
	return ok
}

// Close closes the package's files.
func (p *Package) Close() error {
	var err error
	for _, s := range []*tensorSet{p.decoder, p.encoder} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// The encoder's files that are read by name.
const (
	configName          = "config.json"
	vocabName           = "vocab.txt"
	tokenizerName       = "tokenizer.json"
	tokenizerConfigName = "tokenizer_config.json"
)

// VocabPath is the place of the encoder's vocab.txt, "" if there is none.
func (p *Package) VocabPath() string { return p.encoderFile(vocabName) }

// TokenizerPath is the place of the encoder's tokenizer.json, "" if there is none.
func (p *Package) TokenizerPath() string { return p.encoderFile(tokenizerName) }

func (p *Package) encoderFile(name string) string {
	if p.Manifest.Encoder == nil || !p.lists(p.Manifest.Encoder.Dir, name) {
		return ""
	}
	return filepath.Join(p.Dir, filepath.FromSlash(p.Manifest.Encoder.Dir), name)
}

// maxVocabulary bounds vocab.txt and tokenizer.json.
const maxVocabulary = 64 << 20

// Tokenizer is the encoder's tokenizer: tokenizer.json, or else vocab.txt, read once.
func (p *Package) Tokenizer() (*text.Tokenizer, error) {
	p.tokenizer.Do(func() { p.tokenizer.t, p.tokenizer.err = p.readTokenizer() })
	return p.tokenizer.t, p.tokenizer.err
}

func (p *Package) readTokenizer() (*text.Tokenizer, error) {
	if p.Manifest.Encoder == nil {
		return nil, p.Manifest.Complete()
	}
	dir := filepath.Join(p.Dir, filepath.FromSlash(p.Manifest.Encoder.Dir))
	t, err := ReadTokenizer(dir)
	if err != nil {
		return nil, err
	}
	return t, checkVocabulary(dir, t, p.Manifest.Encoder.Config)
}

// checkVocabulary checks that the encoder has an embedding for every id.
func checkVocabulary(dir string, t *text.Tokenizer, c encoder.Config) error {
	if t.Size() > c.VocabSize {
		return fmt.Errorf("%s: the tokenizer has ids up to %d, but the encoder's vocab_size is %d", dir, t.Size()-1, c.VocabSize)
	}
	return nil
}

// ReadTokenizer reads the tokenizer of a BERT in Hugging Face layout: tokenizer.json, or
// else vocab.txt with tokenizer_config.json saying whether to lower-case.
func ReadTokenizer(dir string) (*text.Tokenizer, error) {
	path := filepath.Join(dir, tokenizerName)
	raw, err := readSmall(path, maxVocabulary)
	if err == nil {
		t, err := text.FromJSON(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return t, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return readVocab(dir)
}

// readEncoderConfig reads the config.json of a BERT in Hugging Face layout.
func readEncoderConfig(dir string) (encoder.Config, error) {
	path := filepath.Join(dir, configName)
	raw, err := readSmall(path, 1<<20)
	if err != nil {
		return encoder.Config{}, err
	}
	c, err := encoder.ParseConfig(raw)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, checkVariant(path, raw)
}

// Summary is what a package holds, in numbers.
type Summary struct {
	Name       string  `json:"name"`
	Condition  [3]int  `json:"condition"` // texts, length, width
	Tokens     [3]int  `json:"tokens"`    // T, h, w
	Decoder    Network `json:"decoder"`
	Encoder    Network `json:"encoder"`
	Files      int     `json:"files"`
	Bytes      int64   `json:"bytes"` // of all files but generator.json
	BaseModel  string  `json:"base_model,omitempty"`
	BaseValues int64   `json:"base_values,omitempty"` // LoRA values of one adapter
}

// Network is the size of one of the two networks.
type Network struct {
	Layers     int                 `json:"layers"`
	Parameters int64               `json:"parameters"` // criterion_weight and buffers left out
	Bytes      int64               `json:"bytes"`      // of all tensors
	DTypes     []safetensors.DType `json:"dtypes"`
}

// Summary counts what the package holds.
func (p *Package) Summary() Summary {
	m := &p.Manifest
	s := Summary{Name: m.Name, Condition: m.Decoder.Condition(), Tokens: m.Decoder.Output(), Files: len(m.Files)}
	for _, f := range m.Files {
		s.Bytes += f.Bytes
	}
	s.Decoder = p.decoder.network(len(m.Decoder.Features) - 1)
	if p.encoder != nil {
		s.Encoder = p.encoder.network(m.Encoder.Config.NumHiddenLayers)
	}
	if m.Base != nil {
		s.BaseModel = m.Base.Model
		for _, t := range m.Base.Targets {
			s.BaseValues += int64(m.Base.Rank) * int64(t.In+t.Out)
		}
	}
	return s
}

func (s *tensorSet) network(layers int) Network {
	n := Network{Layers: layers}
	for _, t := range s.all() {
		n.Bytes += t.Bytes
		d, count := t.DType, t.Elements()
		if b, ok := s.blocks[t.Name]; ok {
			d, count = b.dtype, b.values
		}
		if t.Name == criterionKey || !inBlocks(d) && !isFloat(d) {
			continue
		}
		n.Parameters += count
		if !slices.Contains(n.DTypes, d) {
			n.DTypes = append(n.DTypes, d)
		}
	}
	slices.Sort(n.DTypes)
	return n
}
