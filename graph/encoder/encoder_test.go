package encoder_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
)

var update = flag.Bool("update", false, "rewrite the expected texts")

const configText = `{
	"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
	"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
	"max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": 100, "layer_norm_eps": 1e-12,
	"position_embedding_type": "absolute", "pad_token_id": 0
}`

func TestParseConfig(t *testing.T) {
	c, err := encoder.ParseConfig([]byte(configText))
	if err != nil {
		t.Fatal(err)
	}
	want := encoder.Config{HiddenSize: 12, NumHiddenLayers: 2, NumAttentionHeads: 3, IntermediateSize: 40,
		MaxPositionEmbeddings: 512, TypeVocabSize: 2, VocabSize: 100, LayerNormEps: 1e-12, HiddenAct: "gelu", ModelType: "bert"}
	if c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"bert"`, `"roberta"`, `model_type "roberta" is not supported`},
		{`"gelu"`, `"gelu_new"`, `hidden_act "gelu_new" is not supported`},
		{`"absolute"`, `"relative_key"`, "position_embedding_type"},
		{`"pad_token_id": 0`, `"is_decoder": true`, "describes a decoder"},
		{`"hidden_size": 12`, `"hidden_size": 13`, "3 heads for hidden_size 13"},
		{`"hidden_size": 12`, `"hidden_size": 387`, "heads of at most 128 values"},
		{`"hidden_size": 12`, `"hidden_size": -12`, "hidden_size -12"},
		{`"num_hidden_layers": 2`, `"num_hidden_layers": 0`, "num_hidden_layers 0"},
		{`"vocab_size": 100`, `"vocab_size": 1000000000`, "vocab_size 1000000000"},
		{`1e-12`, `0`, "layer_norm_eps 0"},
		{`1e-12`, `"small"`, "layer_norm_eps"},
		{`}`, ``, "unexpected end"},
	} {
		if _, err := encoder.ParseConfig([]byte(strings.Replace(configText, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v, want %q", c.new, c.old, err, c.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(configText))
	f.Add([]byte(`{"hidden_size": 1e9, "model_type": "bert", "hidden_act": "gelu"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := encoder.ParseConfig(text)
		if err != nil {
			return
		}
		for _, tensor := range c.Tensors() {
			for _, d := range tensor.Shape {
				if d < 1 {
					t.Fatalf("tensor %s has shape %v", tensor.Name, tensor.Shape)
				}
			}
		}
	})
}

func TestStripPrefix(t *testing.T) {
	for _, name := range []string{"bert.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias"} {
		if got := encoder.StripPrefix(name); got != "embeddings.LayerNorm.bias" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestProgramText(t *testing.T) {
	c, err := encoder.ParseConfig([]byte(configText))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name                 string
		batch, texts, length int
		options              encoder.Options
	}{
		{"short.txt", 2, 3, 13, encoder.Options{ZeroPads: true, DType: "F16"}},
		{"chunks.txt", 1, 2, 1536, encoder.Options{}},
	} {
		b := graph.NewBuilder(graph.DefaultLimits())
		b.Read("condition", encoder.Build(b, c, s.batch, s.texts, s.length, s.options))
		p, err := b.Program()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", s.name)
		if *update {
			if err := os.WriteFile(path, []byte(p.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: run with -update to write it", err)
		}
		if p.String() != string(want) {
			t.Errorf("the text differs from %s: look at the difference after a run with -update\n%s", path, p)
		}
	}
}

// The largest condition of the reference, 654 MB, is encoded in groups of chunks, within
// the default limits and with bounded temporary memory, repacked weights included.
func TestLongTexts(t *testing.T) {
	c := encoder.Config{HiddenSize: 384, NumHiddenLayers: 12, NumAttentionHeads: 12, IntermediateSize: 1536,
		MaxPositionEmbeddings: 512, TypeVocabSize: 2, VocabSize: 30522, LayerNormEps: 1e-12, HiddenAct: "gelu", ModelType: "bert"}
	b := graph.NewBuilder(graph.DefaultLimits())
	b.Read("condition", encoder.Build(b, c, 1, 16, 26624, encoder.Options{}))
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	var condition int64
	for _, buffer := range p.Buffers {
		if buffer.Label == "condition" {
			condition += buffer.Bytes
		}
	}
	if condition != 16*26624*384*4 {
		t.Errorf("condition of %d bytes", condition)
	}
	if beside := p.Memory().Peak - condition; beside > 400<<20 {
		t.Errorf("%d bytes of temporary memory and weights at a time", beside)
	}
}

func TestBuildRefuses(t *testing.T) {
	c, err := encoder.ParseConfig([]byte(configText))
	if err != nil {
		t.Fatal(err)
	}
	few := c
	few.MaxPositionEmbeddings = 64
	wrong := c
	wrong.HiddenAct = "relu"
	for _, s := range []struct {
		config encoder.Config
		length int
		want   string
	}{
		{c, 513, "texts of 513 tokens, expected at most 512 or a multiple"},
		{few, 65, "chunks of 65 tokens, the encoder has 64 positions"},
		{wrong, 8, "hidden_act"},
		{c, 0, "impossible shape"},
	} {
		b := graph.NewBuilder(graph.DefaultLimits())
		encoder.Build(b, s.config, 1, 2, s.length, encoder.Options{})
		if _, err := b.Program(); err == nil || !strings.Contains(err.Error(), s.want) {
			t.Errorf("%v, want %q", err, s.want)
		}
	}
}

func Example() {
	config := encoder.Config{HiddenSize: 384, NumHiddenLayers: 6, NumAttentionHeads: 12, IntermediateSize: 1536,
		MaxPositionEmbeddings: 512, TypeVocabSize: 2, VocabSize: 30522, LayerNormEps: 1e-12, HiddenAct: "gelu", ModelType: "bert"}
	b := graph.NewBuilder(graph.DefaultLimits())
	b.Read("condition", encoder.Build(b, config, 1, 16, 384, encoder.Options{}))
	p, err := b.Program()
	if err != nil {
		fmt.Println(err)
		return
	}
	read := p.Reads[0]
	fmt.Println(read.Name, read.Bytes, "bytes from stage", p.Dispatches[0].Stage)
	// Output: condition 9437184 bytes from stage encode
}
