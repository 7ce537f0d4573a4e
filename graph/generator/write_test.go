package generator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func TestShards(t *testing.T) {
	whole := madeUp(t, generator.MadeUpOptions{Seed: 5})
	dir := madeUp(t, generator.MadeUpOptions{Seed: 5, WriteOptions: generator.WriteOptions{ShardBytes: 300_000}})
	shards, err := filepath.Glob(filepath.Join(dir, "decoder-0000?-of-0000?.safetensors"))
	if err != nil || len(shards) < 3 {
		t.Fatalf("shards %v, %v", shards, err)
	}
	if _, err := generator.Verify(context.Background(), dir, nil); err != nil {
		t.Fatal(err)
	}
	p, q := openPackage(t, whole), openPackage(t, dir)
	for _, x := range p.Manifest.Decoder.Tensors() {
		n := int64(4)
		for _, d := range x.Shape {
			n *= int64(d)
		}
		a, b := make([]byte, n), make([]byte, n)
		if err := errors.Join(p.Weights().ReadWeights("decoder/"+x.Name, "F32", 0, a), q.Weights().ReadWeights("decoder/"+x.Name, "F32", 0, b)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", x.Name)
		}
	}
	index := filepath.Join(dir, "decoder.safetensors.index.json")
	raw, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	first, last := filepath.Base(shards[0]), filepath.Base(shards[len(shards)-1])
	for _, c := range []struct{ name, old, new, want string }{
		{"moved", first, last, "places it in"},
		{"outside", first, "../" + first, "expected a .safetensors file beside the index"},
		{"no map", "weight_map", "weights", "0 shards"},
		{"no JSON", "{", "", "line 2"},
		{"missing", first, "decoder-x.safetensors", "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := duplicate(t, dir)
			text := strings.Replace(string(raw), c.old, c.new, 1)
			if c.name == "no map" || c.name == "missing" || c.name == "outside" {
				text = strings.ReplaceAll(string(raw), c.old, c.new)
			}
			write(t, filepath.Join(bad, filepath.Base(index)), []byte(text))
			edit(t, bad, func(m map[string]any) { resize(m, filepath.Base(index), len(text)) })
			_, err := generator.Open(bad)
			wantError(t, err, c.want)
		})
	}
	both := duplicate(t, dir)
	write(t, filepath.Join(both, "decoder.safetensors"), nil)
	_, err = generator.Open(both)
	wantError(t, err, "holds both")
}

func TestEncoders(t *testing.T) {
	type tensors = []safetensors.Tensor
	ids := safetensors.Tensor{Name: "embeddings.position_ids", DType: safetensors.I64, Shape: []int{1, 2}, Data: func(w io.Writer) error {
		_, err := w.Write(make([]byte, 16))
		return err
	}}
	head := safetensors.FromFloat32s("cls.x", safetensors.F32, []float32{1}, 1)
	pooler := safetensors.FromFloat32s("pooler.dense.bias", safetensors.F32, []float32{1}, 1)
	prefixed := func(_ map[string]any, list tensors) tensors {
		for i := range list {
			list[i].Name = "bert." + list[i].Name
		}
		return append(list, ids, head)
	}
	for _, c := range []struct {
		name   string
		change func(config map[string]any, list tensors) tensors
		want   string // "" for none
	}{
		{"with pooler", func(_ map[string]any, l tensors) tensors { return append(l, pooler, ids) }, ""},
		{"with a head", prefixed, ""},
		{"other model", func(c map[string]any, l tensors) tensors { c["model_type"] = "roberta"; return l }, `model_type "roberta"`},
		{"other positions", func(c map[string]any, l tensors) tensors { c["position_embedding_type"] = "relative_key"; return l }, "relative_key"},
		{"decoder", func(c map[string]any, l tensors) tensors { c["is_decoder"] = true; return l }, "expected an encoder"},
		{"missing", func(_ map[string]any, l tensors) tensors { return l[1:] }, "missing tensors: embeddings.word_embeddings.weight [6 384]"},
		{"small vocabulary", func(c map[string]any, _ tensors) tensors { c["vocab_size"] = 5; return bertTensors(t, c) }, "ids up to 5, but the encoder's vocab_size is 5"},
		{"unexpected", func(_ map[string]any, l tensors) tensors {
			return append(l, safetensors.FromFloat32s("x", safetensors.F32, nil, 0))
		}, "unexpected tensors: x [0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := generator.MadeUpOptions{Shape: "mini", Encoder: tinyEncoder(t, c.change), WriteOptions: generator.WriteOptions{EncoderDType: safetensors.F16}}
			err := generator.MadeUp(context.Background(), out, o)
			if c.want != "" {
				wantError(t, err, c.want)
				empty(t, out)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s := openPackage(t, out).Summary()
			if !slices.Equal(s.Encoder.DTypes, []safetensors.DType{safetensors.F16}) || s.Encoder.Bytes != 2*s.Encoder.Parameters {
				t.Errorf("encoder %+v", s.Encoder)
			}
		})
	}
}

// The encoder of the reference's family, stored in half the bytes.
func TestMiniLM(t *testing.T) {
	from := golden.Path("..", "..", "..", "build", "deps", "minilm")
	if _, err := os.Stat(from); err != nil {
		t.Skipf("the encoder is not fetched: %v", err)
	}
	dir := madeUp(t, generator.MadeUpOptions{Encoder: from, WriteOptions: generator.WriteOptions{EncoderDType: safetensors.F16}})
	r, err := generator.Verify(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Summary.Encoder; n.Layers != 6 || n.Parameters != 22_713_216 {
		t.Errorf("encoder %+v, expected 6 layers with 22713216 parameters", n)
	}
	p := openPackage(t, dir)
	tok, err := p.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tok.Encode([]string{"Hello"}, 4); err != nil || !slices.Equal(b.IDs, []uint32{101, 7592, 102, 0}) {
		t.Errorf("ids %v, %v", b.IDs, err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	out := filepath.Join(t.TempDir(), "out")
	o := generator.MadeUpOptions{Shape: "0.5b", WriteOptions: generator.WriteOptions{Progress: func(done, total int64) {
		if done > 0 {
			cancel()
		}
	}}}
	if err := generator.MadeUp(ctx, out, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	empty(t, out)
}

func TestExistingFolder(t *testing.T) {
	ctx := context.Background()
	o := generator.MadeUpOptions{Shape: "mini", Seed: 9}
	dir := madeUp(t, generator.MadeUpOptions{})
	wantError(t, generator.MadeUp(ctx, dir, o), "exists already")
	o.Replace = true
	if err := generator.MadeUp(ctx, dir, o); err != nil || openPackage(t, dir).Manifest.Provenance.Seed != 9 {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := generator.MadeUp(ctx, other, o); err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	other = t.TempDir()
	write(t, filepath.Join(other, "thesis.tex"), nil)
	wantError(t, generator.MadeUp(ctx, other, o), "is not a generator package")
	_, err := generator.Import(ctx, generator.ImportOptions{Out: other, WriteOptions: o.WriteOptions})
	wantError(t, err, "is not a generator package")
	if _, err := os.Stat(filepath.Join(other, "thesis.tex")); err != nil {
		t.Error(err)
	}
}

// The official shapes have the parameters that the reference counts (b.4), and bases
// that make their tokens.
func TestShapes(t *testing.T) {
	want := map[string]int64{
		"0.5b": 1_113_203_220, "1.5b-coding": 1_742_934_236, "1.5b-math": 1_780_943_308,
		"7b-coding": 1_964_146_220, "7b-math": 1_942_130_220, "3b-vl": 2_409_631_548, "mini": 0,
	}
	for _, name := range generator.Shapes() {
		c, base, tiling, err := generator.Shape(name)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for _, x := range generator.MadeUpTensors(c, 0) {
			n += safetensors.Info{Shape: x.Shape}.Elements()
		}
		if n != want[name] && want[name] != 0 {
			t.Errorf("%s: %d parameters, expected %d", name, n, want[name])
		}
		l, err := lora.NewLayout(base, tiling)
		if err != nil {
			t.Fatal(err)
		}
		if count, h, w := l.Shape(); [3]int{count, h, w} != c.Output() {
			t.Errorf("%s: the base makes %d tokens of (%d,%d), the decoder %v", name, count, h, w, c.Output())
		}
		delete(want, name)
	}
	if len(want) != 0 {
		t.Errorf("no shapes %v", want)
	}
	_, _, _, err := generator.Shape("9b")
	wantError(t, err, `unknown shape "9b"`)
}

// Made-up values have the variance 1/fan-in that keeps activations of order one.
func TestMadeUpValues(t *testing.T) {
	c, _, _, err := generator.Shape("mini")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range generator.MadeUpTensors(c, 7) {
		if !strings.HasSuffix(x.Name, "conv1w.weight") {
			continue
		}
		var b bytes.Buffer
		if err := x.Data(&b); err != nil {
			t.Fatal(err)
		}
		values := make([]float32, b.Len()/4)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b.Bytes()[4*i:]))
		}
		sum, squares := 0.0, 0.0
		for _, v := range values {
			sum, squares = sum+float64(v), squares+float64(v)*float64(v)
		}
		fan := float64(x.Shape[1] * x.Shape[2] * x.Shape[3])
		n := float64(len(values))
		if got := squares / n * fan; math.Abs(got-1) > 0.05 || math.Abs(sum/n*math.Sqrt(fan)) > 0.05 {
			t.Errorf("%s: variance times fan-in is %.3f, mean %.3g", x.Name, got, sum/n)
		}
	}
}

func ExampleMadeUp() {
	tmp, err := os.MkdirTemp("", "generator")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "mini")
	if err := generator.MadeUp(context.Background(), dir, generator.MadeUpOptions{Shape: "mini", Seed: 1}); err != nil {
		fmt.Println(err)
		return
	}
	p, err := generator.Open(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	s := p.Summary()
	fmt.Println(s.Condition, "to", s.Tokens, "with", s.Decoder.Parameters, "parameters")
	fmt.Println(p.Manifest.Complete())
	// Output:
	// [4 16 384] to [358 10 10] with 241578 parameters
	// made-up mini: the generator has no text encoder: import it with --encoder, or give it a condition
}
