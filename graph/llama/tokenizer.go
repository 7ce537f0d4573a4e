package llama

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/unicode/norm"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

// Tokenizer is a byte-level BPE tokenizer, as Llama-3-like, SmolLM2 and Qwen2 models
// have. It is safe for concurrent use.
type Tokenizer struct {
	ids     map[string]int32
	pieces  []string
	ranks   map[[2]string]int
	split   *regexp2.Regexp
	digits  bool // each number character is a piece of its own
	compose bool // NFC first
	whole   bool // a word of the vocabulary is one token, whatever the merges
}

// GPT-2's, Qwen2's and Llama 3's patterns. All look ahead, which Go's own regexp cannot.
const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// newTokenizer makes a tokenizer of a vocabulary and its merges, best first. kind is
// GGUF's name of the pre-tokenizer: "smollm", "gpt-2", "qwen2" or "llama-bpe".
func newTokenizer(pieces []string, merges [][2]string, kind string) (*Tokenizer, error) {
	t := &Tokenizer{ids: make(map[string]int32, len(pieces)), pieces: pieces, ranks: make(map[[2]string]int, len(merges))}
	for i, p := range pieces {
		t.ids[p] = int32(i)
	}
	for i, m := range merges {
		if _, ok := t.ids[m[0]+m[1]]; !ok {
			return nil, fmt.Errorf("merge %d makes %q, which the vocabulary lacks", i, m[0]+m[1])
		}
		t.ranks[m] = i
	}
	pattern := gpt2Pattern
	switch kind {
	case "smollm":
		t.digits = true
	case "gpt-2":
	case "qwen2":
		pattern, t.compose = qwen2Pattern, true
	case "llama-bpe":
		pattern, t.whole = llama3Pattern, true
	default:
		return nil, fmt.Errorf("pre-tokenizer %q, expected smollm, gpt-2, qwen2 or llama-bpe", kind)
	}
	var err error
	t.split, err = regexp2.Compile(pattern, regexp2.Unicode)
	return t, err
}

// Special is the id of a token such as <|im_start|>.
func (t *Tokenizer) Special(token string) (int32, error) {
	id, ok := t.ids[token]
	if !ok {
		return 0, fmt.Errorf("llama: the vocabulary has no token %s", token)
	}
	return id, nil
}

// Encode is a text's tokens, without any special ones.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	if t.compose {
		text = norm.NFC.String(text)
	}
	var ids []int32
	for text != "" {
		part := text
		if t.digits {
			r, size := utf8.DecodeRuneInString(text)
			switch i := strings.IndexFunc(text, unicode.IsNumber); {
			case unicode.IsNumber(r):
				part = text[:size]
			case i > 0:
				part = text[:i]
			}
		}
		text = text[len(part):]
		m, err := t.split.FindStringMatch(part)
		for ; m != nil && err == nil; m, err = t.split.FindNextMatch(m) {
			ids = t.merge(ids, m.String())
		}
		if err != nil {
			return nil, fmt.Errorf("llama: tokenize: %w", err)
		}
	}
	return ids, nil
}

// merge joins a word's bytes, best pair first, until no pair is in the list.
func (t *Tokenizer) merge(ids []int32, word string) []int32 {
	parts := make([]string, len(word))
	for i := range len(word) {
		parts[i] = byteRunes[word[i]]
	}
	if t.whole {
		if id, ok := t.ids[strings.Join(parts, "")]; ok {
			return append(ids, id)
		}
	}
	for len(parts) > 1 {
		best, at := len(t.ranks), -1
		for i := range len(parts) - 1 {
			if rank, ok := t.ranks[[2]string{parts[i], parts[i+1]}]; ok && rank < best {
				best, at = rank, i
			}
		}
		if at < 0 {
			break
		}
		parts[at] += parts[at+1]
		parts = append(parts[:at+1], parts[at+2:]...)
	}
	for _, p := range parts {
		if id, ok := t.ids[p]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// Decode is the text of tokens. Bytes that are not UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32) string {
	var raw []byte
	for _, id := range ids {
		raw = append(raw, t.Bytes(id)...)
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD")
}

// byteRunes is GPT-2's table of bytes as printable characters; runeBytes its inverse.
var byteRunes, runeBytes = func() (to [256]string, from map[rune]byte) {
	from = map[rune]byte{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r, next = next, next+1
		}
		to[b], from[r] = string(r), byte(b)
	}
	return to, from
}()

// TokenizerFromJSON reads a Hugging Face tokenizer.json.
func TokenizerFromJSON(raw []byte) (*Tokenizer, error) {
	var f struct {
		Model struct {
			Type   string            `json:"type"`
			Vocab  map[string]int32  `json:"vocab"`
			Merges []json.RawMessage `json:"merges"`
			Whole  bool              `json:"ignore_merges"`
		} `json:"model"`
		Added []struct {
			ID      int32  `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
		Pre        json.RawMessage `json:"pre_tokenizer"`
		Normalizer struct {
			Type string `json:"type"`
		} `json:"normalizer"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	if f.Model.Type != "BPE" {
		return nil, fmt.Errorf("model is %q, expected BPE", f.Model.Type)
	}
	if len(f.Model.Vocab) == 0 {
		return nil, errors.New("model.vocab is missing or empty")
	}
	for _, a := range f.Added {
		f.Model.Vocab[a.Content] = a.ID
	}
	const maxVocab = 1 << 21
	size := int32(0)
	for p, id := range f.Model.Vocab {
		if id < 0 || id >= maxVocab {
			return nil, fmt.Errorf("piece %q has id %d", p, id)
		}
		size = max(size, id+1)
	}
	pieces := make([]string, size)
	for p, id := range f.Model.Vocab {
		pieces[id] = p
	}
	merges := make([][2]string, len(f.Model.Merges))
	for i, m := range f.Model.Merges {
		var line string
		if json.Unmarshal(m, &merges[i]) == nil {
			continue
		}
		if err := json.Unmarshal(m, &line); err != nil {
			return nil, fmt.Errorf("merge %d: %w", i, err)
		}
		var err error
		if merges[i], err = parseMerge(line); err != nil {
			return nil, err
		}
	}
	kind := "gpt-2"
	switch pre := string(f.Pre); {
	case f.Normalizer.Type == "NFC" && strings.Contains(pre, `(?i:'s|'t`):
		kind = "qwen2"
	case f.Normalizer.Type == "" && strings.Contains(pre, `(?i:'s|'t`) && strings.Contains(pre, "p{N}{1,3}"):
		kind = "llama-bpe"
	case strings.Contains(pre, `"Split"`):
		return nil, errors.New("pre_tokenizer splits by a pattern that is neither Qwen2's nor Llama 3's")
	case strings.Contains(pre, `"Digits"`):
		kind = "smollm"
	case !strings.Contains(pre, `"ByteLevel"`):
		return nil, errors.New("pre_tokenizer is not byte-level")
	}
	t, err := newTokenizer(pieces, merges, kind)
	if err == nil {
		t.whole = f.Model.Whole
	}
	return t, err
}

func parseMerge(line string) ([2]string, error) {
	a, b, ok := strings.Cut(line, " ")
	if !ok {
		return [2]string{}, fmt.Errorf("merge %q, expected two pieces", line)
	}
	return [2]string{a, b}, nil
}

// TokenizerFromGGUF reads the tokenizer in a GGUF file's metadata.
func TokenizerFromGGUF(f *gguf.File) (*Tokenizer, error) {
	model, _ := f.Lookup("tokenizer.ggml.model")
	if model.Value != "gpt2" {
		return nil, fmt.Errorf("llama: tokenizer.ggml.model is %v, expected gpt2 (byte-level BPE)", model.Value)
	}
	pre, _ := f.Lookup("tokenizer.ggml.pre")
	kind, _ := pre.Value.(string)
	lines, err := strs(f, "tokenizer.ggml.merges")
	if err != nil {
		return nil, err
	}
	merges := make([][2]string, len(lines))
	for i, line := range lines {
		if merges[i], err = parseMerge(line); err != nil {
			return nil, err
		}
	}
	pieces, err := strs(f, "tokenizer.ggml.tokens")
	if err != nil {
		return nil, err
	}
	if len(pieces) == 0 || len(merges) == 0 {
		return nil, errors.New("llama: no tokens or merges in the metadata")
	}
	return newTokenizer(pieces, merges, kind)
}

// strs is an array of strings in a file's metadata.
func strs(f *gguf.File, key string) ([]string, error) {
	a, err := f.Array(key)
	if err != nil {
		return nil, err
	}
	if a.Type != gguf.String {
		return nil, fmt.Errorf("llama: %s is no list of strings", key)
	}
	list := make([]string, 0, a.Count)
	raw := a.Data
	for range a.Count {
		if len(raw) < 8 {
			return nil, fmt.Errorf("llama: %s ends early", key)
		}
		n := binary.LittleEndian.Uint64(raw)
		if raw = raw[8:]; n > uint64(len(raw)) {
			return nil, fmt.Errorf("llama: %s ends early", key)
		}
		list, raw = append(list, string(raw[:n])), raw[n:]
	}
	return list, nil
}

// Bytes are the bytes of one token, as they stand in a text.
func (t *Tokenizer) Bytes(id int32) []byte {
	if int(id) >= len(t.pieces) || id < 0 {
		return nil
	}
	var raw []byte
	for _, r := range t.pieces[id] {
		if b, ok := runeBytes[r]; ok {
			raw = append(raw, b)
		} else {
			raw = utf8.AppendRune(raw, r)
		}
	}
	return raw
}

// Size is the number of tokens.
func (t *Tokenizer) Size() int { return len(t.pieces) }
