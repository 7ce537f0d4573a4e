package generator

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// OpenEncoder opens a text encoder by itself, in Hugging Face layout, as a package that
// makes conditions of texts of length tokens. It has no decoder, and no checksums.
func OpenEncoder(dir string, texts, length int) (p *Package, err error) {
	if texts < 1 || texts > maxTexts {
		return nil, fmt.Errorf("%d texts, expected 1 to %d", texts, maxTexts)
	}
	if err := text.CheckLength(length); err != nil {
		return nil, err
	}
	set, e, err := describeEncoder(dir, nil)
	if set != nil {
		defer func() {
			if err != nil {
				set.Close()
			}
		}()
	}
	if err != nil {
		return nil, err
	}
	if err := e.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if n := min(length, text.ChunkLength); e.Config.MaxPositionEmbeddings < n {
		return nil, fmt.Errorf("%s: an encoder of %d positions, but texts of %d tokens need %d", dir, e.Config.MaxPositionEmbeddings, length, n)
	}
	if err := checkTensors(set.all(), encoderSpecs(e.Config)); err != nil {
		return nil, fmt.Errorf("%s: %w", set.files[0].Path, err)
	}
	e.Dir = "."
	m := Manifest{Name: e.ID, Encoder: e, Condition: Condition{Texts: texts, Length: length, Width: e.Config.HiddenSize, Pads: PadsEncoded}}
	return &Package{Dir: dir, Manifest: m, encoder: set}, nil
}

// maxTexts bounds the texts of a condition: far more than any generator takes.
const maxTexts = 1 << 16
