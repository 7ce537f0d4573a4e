package generator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// The index of a package's shards: what is accepted places every tensor in a file that is
// there and has it.
func FuzzIndex(f *testing.F) {
	dir := madeUp(f, generator.MadeUpOptions{Seed: 5, WriteOptions: generator.WriteOptions{ShardBytes: 400_000}})
	path := filepath.Join(dir, "decoder.safetensors.index.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"weight_map":{"a":"../decoder-00001-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{}}`))
	f.Fuzz(func(t *testing.T, index []byte) {
		write(t, path, index)
		edit(t, dir, func(m map[string]any) { resize(m, filepath.Base(path), len(index)) })
		p, err := generator.Open(dir)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("error of several lines: %v", err)
			}
			return
		}
		defer p.Close()
		for _, x := range p.Manifest.Decoder.Tensors() {
			if err := p.Weights().ReadWeights("decoder/"+x.Name, "F32", 0, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The files of a text encoder that is not in a package yet.
func FuzzEncoderFolder(f *testing.F) {
	dir := tinyEncoder(f, nil)
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		f.Fatal(err)
	}
	vocabulary, err := os.ReadFile(filepath.Join(dir, "vocab.txt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(config, vocabulary, []byte(`{"do_lower_case":false}`))
	f.Add([]byte(`{"position_embedding_type":"relative_key"}`), []byte("[PAD]\n"), []byte(`null`))
	f.Fuzz(func(t *testing.T, config, vocabulary, options []byte) {
		write(t, filepath.Join(dir, "config.json"), config)
		write(t, filepath.Join(dir, "vocab.txt"), vocabulary)
		write(t, filepath.Join(dir, "tokenizer_config.json"), options)
		p, err := generator.OpenEncoder(dir, 2, 8)
		if err != nil {
			return
		}
		defer p.Close()
		tok, err := p.Tokenizer()
		if err != nil {
			return
		}
		b, err := tok.Encode([]string{"word", "[MASK] other"}, 8)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range b.IDs {
			if int(id) >= p.Manifest.Encoder.Config.VocabSize {
				t.Fatalf("id %d, the encoder has %d embeddings", id, p.Manifest.Encoder.Config.VocabSize)
			}
		}
	})
}
