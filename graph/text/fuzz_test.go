package text_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// vocab.txt.
func FuzzFromVocab(f *testing.F) {
	f.Add("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhat\n##s\n", true)
	f.Add("[CLS]\r\n[SEP]\r\n[UNK]\r\n[PAD]\r\na", false)
	f.Add("[PAD]\n\n[PAD]\n", true)
	f.Fuzz(func(t *testing.T, vocabulary string, lower bool) {
		tok, err := text.FromVocab(strings.NewReader(vocabulary), lower)
		if err != nil {
			return
		}
		b, err := tok.Encode([]string{"What's [MASK] a É 日本?", ""}, 12)
		if err != nil {
			t.Fatal(err)
		}
		if most := slices.Max(b.IDs); int(most) > strings.Count(vocabulary, "\n") {
			t.Fatalf("id %d of a vocabulary of %d lines", most, strings.Count(vocabulary, "\n")+1)
		}
	})
}
