package generator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// encoderDir is the encoder's folder in packages that Write makes.
const encoderDir = "encoder"

// kept are the files of an encoder that go into a package as they are, if they are
// there: what a tokenizer needs, and what says whose work it is.
var kept = []string{
	configName, vocabName, tokenizerName, tokenizerConfigName, "special_tokens_map.json",
	"README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
}

// checkVariant refuses a config.json that describes a BERT with other mathematics.
func checkVariant(path string, raw []byte) error {
	var c struct {
		Positions *string `json:"position_embedding_type"`
		Decoder   bool    `json:"is_decoder"`
		Cross     bool    `json:"add_cross_attention"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if c.Positions != nil && *c.Positions != "absolute" {
		return fmt.Errorf("%s: position_embedding_type is %q, expected \"absolute\"", path, clip(*c.Positions))
	}
	if c.Decoder || c.Cross {
		return fmt.Errorf("%s: is_decoder or add_cross_attention is set, expected an encoder", path)
	}
	return nil
}

// readVocab reads vocab.txt; tokenizer_config.json says whether to lower-case, else yes.
func readVocab(dir string) (*text.Tokenizer, error) {
	path := filepath.Join(dir, tokenizerConfigName)
	config, err := readSmall(path, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	lower, err := lowerCase(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	path = filepath.Join(dir, vocabName)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := text.FromVocab(io.LimitReader(f, maxVocabulary), lower)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// lowerCase reads a tokenizer_config.json; nil is one that is not there.
func lowerCase(config []byte) (bool, error) {
	options := struct {
		Lower bool `json:"do_lower_case"`
	}{true}
	if config == nil {
		return true, nil
	}
	err := json.Unmarshal(config, &options)
	return options.Lower, err
}

// Vocabulary is the contents of the files that say how the encoder tokenises, nil for a
// file that is not there: JSON is tokenizer.json; without it, Text is vocab.txt and
// Config tokenizer_config.json.
type Vocabulary struct{ JSON, Text, Config []byte }

// Tokenizer is Package.Tokenizer for callers that have the files' contents and no folder.
func (m *Manifest) Tokenizer(v Vocabulary) (*text.Tokenizer, error) {
	if m.Encoder == nil {
		return nil, m.Complete()
	}
	if max(len(v.JSON), len(v.Text), len(v.Config)) > maxVocabulary {
		return nil, fmt.Errorf("the encoder's vocabulary has more than %d MiB", maxVocabulary>>20)
	}
	var t *text.Tokenizer
	var err error
	if v.JSON != nil {
		t, err = text.FromJSON(v.JSON)
	} else {
		var lower bool
		if lower, err = lowerCase(v.Config); err != nil {
			return nil, fmt.Errorf("%s: %w", tokenizerConfigName, err)
		}
		t, err = text.FromVocab(bytes.NewReader(v.Text), lower)
	}
	if err != nil {
		return nil, err
	}
	return t, checkVocabulary(m.Encoder.Dir, t, m.Encoder.Config)
}

// encoderTensors lists an encoder's weights for a package: without the prefix that
// models with a head have, without the head, and without position_ids.
func encoderTensors(s *tensorSet, want []spec) ([]safetensors.Tensor, error) {
	var list []safetensors.Tensor
	var infos []safetensors.Info
	for _, t := range s.all() {
		name, stored := strings.TrimPrefix(t.Name, "bert."), t.Name
		if name == positionIDs || strings.HasPrefix(name, "cls.") {
			continue
		}
		if slices.ContainsFunc(infos, func(i safetensors.Info) bool { return i.Name == name }) {
			return nil, fmt.Errorf("%s: tensor %q: occurs twice, with and without the prefix \"bert.\"", s.files[0].Path, clip(name))
		}
		t.Name = name
		infos = append(infos, t)
		list = append(list, stream(t, stored, s))
	}
	if err := checkTensors(infos, want); err != nil {
		return nil, fmt.Errorf("%s: %w", s.files[0].Path, err)
	}
	return list, nil
}

// ranges is a file of tensors: safetensors, or a checkpoint.
type ranges interface {
	ReadRange(name string, off int64, p []byte) error
}

// stream makes a tensor whose Data copies the range of a stored one, in pieces.
func stream(t safetensors.Info, stored string, from ranges) safetensors.Tensor {
	return safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: func(w io.Writer) error {
		buf := make([]byte, min(t.Bytes, 1<<20))
		for off := int64(0); off < t.Bytes; off += int64(len(buf)) {
			buf = buf[:min(int64(len(buf)), t.Bytes-off)]
			if err := from.ReadRange(stored, off, buf); err != nil {
				return err
			}
			if _, err := w.Write(buf); err != nil {
				return err
			}
		}
		return nil
	}}
}
