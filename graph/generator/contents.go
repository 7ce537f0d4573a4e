package generator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Text is generator.json as it stands in the package, for callers that pass it on.
func (p *Package) Text() ([]byte, error) {
	path := filepath.Join(p.Dir, ManifestName)
	raw, err := readSmall(path, maxManifest)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != p.SHA256 {
		return nil, fmt.Errorf("%s: changed since it was opened: open the package again", path)
	}
	return raw, nil
}

// Vocabulary reads the files that say how the encoder tokenises, for callers that pass
// them on: tokenizer.json, or else vocab.txt and, if there is one, tokenizer_config.json.
func (p *Package) Vocabulary() (Vocabulary, error) {
	var v Vocabulary
	var err error
	if p.Manifest.Encoder == nil {
		return v, p.Manifest.Complete()
	}
	dir := filepath.Join(p.Dir, filepath.FromSlash(p.Manifest.Encoder.Dir))
	if v.JSON, err = readSmall(filepath.Join(dir, tokenizerName), maxVocabulary); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	if v.Text, err = readSmall(filepath.Join(dir, vocabName), maxVocabulary); err != nil {
		return v, err
	}
	if v.Config, err = readSmall(filepath.Join(dir, tokenizerConfigName), 1<<20); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return v, err
}
