// Package text turns prompts into what the text encoder reads: token ids and mask,
// (N, L), as BERT's WordPiece makes them (reference a.2), and reads prompts from files
// and draws the N that a condition wants. It knows no model and no Program; its ids go
// next to package encoder's dispatches.
package text

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// ChunkLength is the longest sequence a BERT encoder sees. A longer text is several
	// chunks, so L beyond it must be a multiple of it.
	ChunkLength = 512
	maxVocab    = 1 << 21
	// maxWord is the longest word, in characters, that is cut into pieces at all.
	maxWord = 100
)

// Tokenizer is a BERT WordPiece tokenizer. It is safe for concurrent use.
type Tokenizer struct {
	pieces  map[string]uint32 // words by their text
	suffix  map[string]uint32 // continuations, without their "##"
	special []special
	lower   bool
	size    int
	cls     uint32
	sep     uint32
	unk     uint32
	pad     uint32
}

type special struct {
	text string
	id   uint32
}

// specialTokens are found literally in a text, before anything else.
var specialTokens = [...]string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}

// FromVocab reads a vocab.txt: one piece a line, its id the line's number from 0.
// lower says whether the model is an uncased one.
func FromVocab(r io.Reader, lower bool) (*Tokenizer, error) {
	vocab := map[string]uint32{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<16)
	n := uint32(0)
	for ; lines.Scan(); n++ {
		if n >= maxVocab {
			return nil, fmt.Errorf("text: vocab.txt has more than %d lines", maxVocab)
		}
		piece := strings.TrimSuffix(lines.Text(), "\r")
		if _, twice := vocab[piece]; twice && piece != "" {
			return nil, fmt.Errorf("text: vocab.txt line %d: %q occurs twice", n+1, piece)
		}
		vocab[piece] = n
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("text: vocab.txt line %d: %w", n+1, err)
	}
	return newTokenizer(vocab, lower)
}

// FromJSON reads a tokenizer.json of the Hugging Face tokenizers library. It must
// describe BERT's WordPiece; padding and truncation in it are ignored.
func FromJSON(raw []byte) (*Tokenizer, error) {
	var file struct {
		Model struct {
			Type    string            `json:"type"`
			Vocab   map[string]uint32 `json:"vocab"`
			Prefix  string            `json:"continuing_subword_prefix"`
			MaxWord int               `json:"max_input_chars_per_word"`
			Unk     string            `json:"unk_token"`
		} `json:"model"`
		Normalizer struct {
			Type    string `json:"type"`
			Lower   *bool  `json:"lowercase"`
			Accents *bool  `json:"strip_accents"`
			CJK     *bool  `json:"handle_chinese_chars"`
			Clean   *bool  `json:"clean_text"`
		} `json:"normalizer"`
		PreTokenizer struct {
			Type string `json:"type"`
		} `json:"pre_tokenizer"`
		Added []addedToken `json:"added_tokens"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("text: tokenizer.json: %w", err)
	}
	is := func(b *bool, want bool) bool { return b == nil || *b == want }
	m, n := &file.Model, &file.Normalizer
	switch {
	case m.Type != "" && m.Type != "WordPiece":
		return nil, fmt.Errorf("text: tokenizer.json: model is %q, expected WordPiece", m.Type)
	case m.Prefix != "##" || m.MaxWord != maxWord || m.Unk != "[UNK]":
		return nil, fmt.Errorf("text: tokenizer.json: prefix %q, word limit %d, unknown token %q, expected BERT's ##, %d and [UNK]", m.Prefix, m.MaxWord, m.Unk, maxWord)
	case n.Type != "BertNormalizer" || file.PreTokenizer.Type != "BertPreTokenizer":
		return nil, fmt.Errorf("text: tokenizer.json: normalizer %q and pre_tokenizer %q, expected BertNormalizer and BertPreTokenizer", n.Type, file.PreTokenizer.Type)
	case !is(n.CJK, true) || !is(n.Clean, true) || n.Accents != nil && (n.Lower == nil || *n.Accents != *n.Lower):
		return nil, errors.New("text: tokenizer.json: normalizer options differ from BERT's")
	}
	for _, a := range file.Added {
		if err := a.check(m.Vocab); err != nil {
			return nil, fmt.Errorf("text: tokenizer.json: %w", err)
		}
	}
	if len(m.Vocab) > maxVocab {
		return nil, fmt.Errorf("text: tokenizer.json: vocabulary of %d pieces, at most %d", len(m.Vocab), maxVocab)
	}
	return newTokenizer(m.Vocab, n.Lower == nil || *n.Lower)
}

// addedToken is a token that is looked for in the text before normalisation.
type addedToken struct {
	ID         uint32 `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	Left       bool   `json:"lstrip"`
	Right      bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
}

func (a addedToken) check(vocab map[string]uint32) error {
	id, ok := vocab[a.Content]
	switch {
	case !slices.Contains(specialTokens[:], a.Content):
		return fmt.Errorf("added token %q, expected only BERT's %s", a.Content, strings.Join(specialTokens[:], " "))
	case a.SingleWord || a.Left || a.Right || a.Normalized:
		return fmt.Errorf("added token %s has options (single_word, lstrip, rstrip or normalized), expected none", a.Content)
	case !ok || id != a.ID:
		return fmt.Errorf("added token %s has id %d, expected the vocabulary's", a.Content, a.ID)
	}
	return nil
}

func newTokenizer(vocab map[string]uint32, lower bool) (*Tokenizer, error) {
	t := &Tokenizer{pieces: map[string]uint32{}, suffix: map[string]uint32{}, lower: lower}
	for piece, id := range vocab {
		if id >= maxVocab {
			return nil, fmt.Errorf("text: piece %q has id %d, at most %d", piece, id, maxVocab-1)
		}
		if rest, ok := strings.CutPrefix(piece, "##"); ok {
			t.suffix[rest] = id
		}
		t.pieces[piece] = id
		t.size = max(t.size, int(id)+1)
	}
	for _, name := range specialTokens {
		id, ok := vocab[name]
		if !ok {
			return nil, fmt.Errorf("text: the vocabulary has no %s: not a BERT vocabulary", name)
		}
		t.special = append(t.special, special{name, id})
	}
	t.pad, t.unk, t.cls, t.sep = t.special[0].id, t.special[1].id, t.special[2].id, t.special[3].id
	return t, nil
}

// Size is one more than the largest id: what the encoder's vocabulary must have at least.
func (t *Tokenizer) Size() int { return t.size }

// Batch is the encoder's input: ids and mask, row-major (Texts, Length). The mask is 1
// for real tokens, [CLS] and [SEP] among them, and 0 for padding.
type Batch struct {
	Texts, Length int
	IDs, Mask     []uint32
}

// Words returns v as little-endian bytes, for a Program's input.
func Words(v []uint32) []byte {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], x)
	}
	return raw
}

// CheckLength says whether the encoder can take texts of length tokens.
func CheckLength(length int) error {
	if length < 2 || length > 1<<20 || length > ChunkLength && length%ChunkLength != 0 {
		return fmt.Errorf("text: length %d: expected 2 to %d, or a multiple of %d", length, ChunkLength, ChunkLength)
	}
	return nil
}

// Encode tokenises texts to length tokens each: [CLS], the first length-2 pieces,
// [SEP], and padding on the right.
func (t *Tokenizer) Encode(texts []string, length int) (Batch, error) {
	if err := CheckLength(length); err != nil {
		return Batch{}, err
	}
	n := len(texts) * length
	b := Batch{Texts: len(texts), Length: length, IDs: make([]uint32, n), Mask: make([]uint32, n)}
	for i, s := range texts {
		ids, mask := b.IDs[i*length:(i+1)*length], b.Mask[i*length:(i+1)*length]
		for j := range ids {
			ids[j] = t.pad
		}
		body := t.appendText(ids[:1:length-1], s)
		ids[0], ids[len(body)] = t.cls, t.sep
		for j := range len(body) + 1 {
			mask[j] = 1
		}
	}
	return b, nil
}

// appendText appends the pieces of s to ids, up to its capacity.
func (t *Tokenizer) appendText(ids []uint32, s string) []uint32 {
	for s != "" && len(ids) < cap(ids) {
		at, found := t.nextSpecial(s)
		ids = t.appendPlain(ids, s[:at])
		if found == nil {
			return ids
		}
		if len(ids) < cap(ids) {
			ids = append(ids, found.id)
		}
		s = s[at+len(found.text):]
	}
	return ids
}

// nextSpecial finds the first literal special token, or the end of s.
func (t *Tokenizer) nextSpecial(s string) (int, *special) {
	for at := 0; ; at++ {
		i := strings.IndexByte(s[at:], '[')
		if i < 0 {
			return len(s), nil
		}
		at += i
		for k := range t.special {
			if strings.HasPrefix(s[at:], t.special[k].text) {
				return at, &t.special[k]
			}
		}
	}
}

// appendPlain tokenises a text without special tokens, a stretch at a time: a long text
// is not normalised beyond what is needed.
func (t *Tokenizer) appendPlain(ids []uint32, s string) []uint32 {
	const stretch = 1 << 14
	for s != "" && len(ids) < cap(ids) {
		part := s
		if len(s) > stretch {
			part = s[:cut(s, stretch)]
		}
		s = s[len(part):]
		ids = t.appendWords(ids, t.normalize(part))
	}
	return ids
}

// cut finds where s can be cut without changing its words: behind ASCII white space or
// punctuation or a CJK ideograph at or after n, else at its end. n may be inside a
// character.
func cut(s string, n int) int {
	for i, r := range s[n:] {
		if r == ' ' || r == '\n' || r == '\t' || r == '\r' || r < utf8.RuneSelf && isPunctuation(r) || isCJK(r) {
			return n + i + utf8.RuneLen(r)
		}
	}
	return len(s)
}

// appendWords splits a normalised text into words and cuts them into pieces.
func (t *Tokenizer) appendWords(ids []uint32, s string) []uint32 {
	for s != "" && len(ids) < cap(ids) {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case unicode.IsSpace(r):
			s = s[size:]
		case isPunctuation(r):
			ids = t.appendPieces(ids, s[:size])
			s = s[size:]
		default:
			end := strings.IndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || isPunctuation(r) })
			if end < 0 {
				end = len(s)
			}
			ids = t.appendPieces(ids, s[:end])
			s = s[end:]
		}
	}
	return ids
}

// appendPieces cuts a word greedily into the longest pieces of the vocabulary; a word
// that is too long or has a part without a match is unknown as a whole.
func (t *Tokenizer) appendPieces(ids []uint32, word string) []uint32 {
	if len(word) > 4*maxWord || utf8.RuneCountInString(word) > maxWord {
		return append(ids, t.unk)
	}
	var found [maxWord]uint32
	n := 0
	for at := 0; at < len(word); n++ {
		table := t.pieces
		if at > 0 {
			table = t.suffix
		}
		end := len(word)
		for end > at {
			if id, ok := table[word[at:end]]; ok {
				found[n] = id
				break
			}
			_, size := utf8.DecodeLastRuneInString(word[at:end])
			end -= size
		}
		if end == at {
			return append(ids, t.unk)
		}
		at = end
	}
	return append(ids, found[:min(n, cap(ids)-len(ids))]...)
}
