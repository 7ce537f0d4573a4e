package llama_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

const small = `{"model":{"type":"BPE","vocab":{"h":0,"e":1,"he":2,"Ġ":3},"merges":["h e"]},
"added_tokens":[{"id":4,"content":"<|im_start|>"},{"id":5,"content":"<|im_end|>"}],
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}}`

// try uses a tokenizer: its ids are its own, and their text is that of Bytes.
func try(t *testing.T, tok *llama.Tokenizer) {
	t.Helper()
	for _, text := range []string{"he the \n 123 É <|im_end|>", "\xff"} {
		ids, err := tok.Encode(text)
		if err != nil {
			continue
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Size() {
				t.Fatalf("id %d of %d", id, tok.Size())
			}
		}
		tok.Decode(ids)
	}
	tok.Prompt("", "he")
	tok.Answer("he")
	tok.End()
}

// tokenizer.json of a base model.
func FuzzTokenizerFromJSON(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(strings.ReplaceAll(small, `"h e"`, `["h","e"]`)))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":2097151},"merges":["a"]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if tok, err := llama.TokenizerFromJSON(raw); err == nil {
			try(t, tok)
		}
	})
}

// The configuration and the tokenizer in a base model's GGUF file.
func FuzzFromGGUF(f *testing.F) {
	for _, architecture := range []string{"llama", "qwen2"} {
		path := filepath.Join(f.TempDir(), architecture)
		if err := madeup.WriteBase(path, madeup.BaseOptions{Base: madeup.SmallBase(architecture), Types: []gguf.TensorType{gguf.Q4_0}}); err != nil {
			f.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		file, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[:file.Tensors[0].Offset])
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		// The data itself does not matter here, and is most of a file.
		raw := append(head, make([]byte, 1<<17)...)
		file, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		if c, err := llama.FromGGUF(file); err == nil {
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			c.Base(8, 16)
		}
		if tok, err := llama.TokenizerFromGGUF(file); err == nil {
			try(t, tok)
		}
	})
}
