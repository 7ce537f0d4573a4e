package guest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// shipped is the generator that comes with dnd.
var shipped = filepath.Join("..", "..", "models", "default")

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(append([]string{shipped}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func encode(t testing.TB, m guest.Message) []byte {
	t.Helper()
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func object(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// call gives a call the message and returns what it answers, which must not be an error.
func call(t testing.TB, f func([]byte) []byte, m guest.Message) guest.Message {
	t.Helper()
	out, err := guest.Decode(f(encode(t, m)))
	if err == nil {
		err = out.Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func names(m guest.Message) []string {
	var list []string
	for _, p := range m {
		list = append(list, p.Name)
	}
	return list
}

// get is the data of a part that must be there.
func get(t testing.TB, m guest.Message, name string) []byte {
	t.Helper()
	data, ok := m.Get(name)
	if !ok {
		t.Fatalf("no part %q among %q", name, names(m))
	}
	return data
}

func unmarshal(t testing.TB, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func manifest(t testing.TB) *generator.Manifest {
	t.Helper()
	m, err := generator.ParseManifest(read(t, "generator.json"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Compile gives the bytes of what package generator compiles.
func TestCompile(t *testing.T) {
	m, raw := manifest(t), read(t, "generator.json")
	small := graph.DefaultLimits()
	small.MaxStorageBufferBindingSize, small.MaxBufferSize = 2<<20, 4<<20
	tuned := graph.DefaultLimits()
	tuned.Tuning = &graph.Tuning{All: graph.ConvWay{Method: graph.Direct, Tile: graph.Tiles()[1]}}
	for _, c := range []struct {
		options guest.CompileOptions
		want    func() (*graph.Program, error)
	}{
		{guest.CompileOptions{Stage: guest.StageDecode, Batch: 1, DType: "F32", Limits: &tuned}, func() (*graph.Program, error) { return generator.CompileDecode(m, tuned, 1, "F32") }},
		{guest.CompileOptions{Stage: guest.StageGenerate, Batch: 1, DType: "F32"}, func() (*graph.Program, error) { return generator.Compile(m, graph.DefaultLimits(), "F32") }},
		{guest.CompileOptions{Stage: guest.StageEncode, Batch: 1, DType: "F16"}, func() (*graph.Program, error) { return generator.CompileEncode(m, graph.DefaultLimits(), "F16") }},
		{guest.CompileOptions{Stage: guest.StageDecode, Batch: 3, DType: "F32", Limits: &small}, func() (*graph.Program, error) { return generator.CompileDecode(m, small, 3, "F32") }},
	} {
		want, err := c.want()
		if err != nil {
			t.Fatal(err)
		}
		text, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		out := call(t, guest.Compile, guest.Message{{guest.PartManifest, raw}, {guest.PartOptions, object(t, c.options)}})
		if got := get(t, out, guest.PartProgram); !bytes.Equal(got, text) || len(out) != 1 {
			t.Errorf("%+v: %d bytes in parts %q, want the %d bytes of the program", c.options, len(got), names(out), len(text))
		}
	}
}

// Feed gives what the packages give, with either of the tokenizer's files.
func TestFeed(t *testing.T) {
	prompts := []byte(`{"question": "Why is the sky blue?"}` + "\n" + `{"question": "Über Größe"}` + "\n")
	o := guest.FeedOptions{Name: "folder/questions.JSONL", Field: "question", Seed: -3, Draw: 2}
	m := manifest(t)
	list, err := text.ParsePrompts(prompts, ".jsonl", "question")
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := generator.ReadTokenizer(filepath.Join(shipped, "encoder"))
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := text.Draw(list, m.Condition.Texts, -3, 2)
	batch, err := tokenizer.Encode(texts, m.Condition.Length)
	if err != nil {
		t.Fatal(err)
	}
	for _, vocabulary := range []guest.Message{
		{{guest.PartTokenizer, read(t, "encoder", "tokenizer.json")}},
		{{guest.PartVocab, read(t, "encoder", "vocab.txt")}, {guest.PartTokenizerConfig, read(t, "encoder", "tokenizer_config.json")}},
		{{guest.PartVocab, read(t, "encoder", "vocab.txt")}},
	} {
		out := call(t, guest.Feed, append(guest.Message{{guest.PartManifest, read(t, "generator.json")},
			{guest.PartPrompts, prompts}, {guest.PartOptions, object(t, o)}}, vocabulary...))
		if !bytes.Equal(get(t, out, guest.PartIDs), text.Words(batch.IDs)) || !bytes.Equal(get(t, out, guest.PartMask), text.Words(batch.Mask)) {
			t.Errorf("%q: ids or mask differ from the tokenizer's", names(vocabulary))
		}
		var info guest.FeedInfo
		unmarshal(t, get(t, out, guest.PartInfo), &info)
		if want := (guest.FeedInfo{Prompts: 2, Texts: m.Condition.Texts, Cycled: true, SHA256: text.Hash(list)}); info != want {
			t.Errorf("info %+v, want %+v", info, want)
		}
	}
}

// tokens are made-up weight tokens of the shipped generator.
func tokens(m *generator.Manifest) []float32 {
	random := rand.New(rand.NewPCG(1, 2))
	shape := m.Decoder.Output()
	values := make([]float32, shape[0]*shape[1]*shape[2])
	for i := range values {
		values[i] = float32(random.NormFloat64())
	}
	return values
}

// Finish gives the bytes of the files that package lora writes.
func TestFinish(t *testing.T) {
	m, raw := manifest(t), read(t, "generator.json")
	values := tokens(m)
	adapter, err := generator.Finish(m, values, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{lora.PEFT, lora.GGUF} {
		o := guest.FinishOptions{Format: format, Provenance: lora.Provenance{Tool: "test 1", Generator: "other", PromptsSHA256: "abc", Seed: 5, Draw: 1, Backend: "none"}}
		out := call(t, guest.Finish, guest.Message{{guest.PartManifest, raw}, {guest.PartTokens, generator.Bytes(values)}, {guest.PartOptions, object(t, o)}})
		p, err := generator.Open(shipped)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		o.Generator, o.GeneratorSHA256 = m.Name, p.SHA256
		dir := filepath.Join(t.TempDir(), "adapter")
		if err := lora.Write(dir, adapter, lora.Options{Format: format, Provenance: o.Provenance}); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			want, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(get(t, out, guest.PartFile+e.Name()), want) {
				t.Errorf("%s differs from the file that is written", e.Name())
			}
		}
		if len(out) != len(entries)+1 {
			t.Errorf("parts %q, want %d files and the report", names(out), len(entries))
		}
		var report guest.Report
		unmarshal(t, get(t, out, guest.PartReport), &report)
		modules, layers, err := adapter.Norms()
		if err != nil {
			t.Fatal(err)
		}
		first := report.Layers[0]
		if len(report.Layers) != len(layers) || len(first.Modules) != 7 || first.Norm != layers[0].Value ||
			!reflect.DeepEqual(first.Modules[6], guest.Module{Name: "mlp.down_proj", Norm: modules[6].Value}) {
			t.Errorf("report %+v, want norms %v of layers %v", report, modules[:7], layers[0])
		}
	}
}

// Finish measures how far the prompts are, and writes adapters of far ones as strong as the
// manifest says.
func TestFinishFar(t *testing.T) {
	m := manifest(t)
	m.Coverage.FarScale = 0.25
	c := m.Condition
	near, far, mask := make([]float32, c.Texts*c.Length*c.Width), make([]float32, c.Texts*c.Length*c.Width), make([]byte, 4*c.Texts*c.Length)
	for text := range c.Texts {
		mask[4*text*c.Length] = 1
		copy(near[text*c.Length*c.Width:], generator.Float32s(m.Coverage.Tasks[3].Center))
		for i, v := range generator.Float32s(m.Coverage.Tasks[3].Center) {
			far[text*c.Length*c.Width+i] = -v
		}
	}
	values := generator.Bytes(tokens(m))
	options := object(t, guest.FinishOptions{Format: lora.PEFT})
	for _, x := range []struct {
		condition []float32
		far       bool
		scale     float64
	}{{near, false, 1}, {far, true, 0.25}} {
		out := call(t, guest.Finish, guest.Message{{guest.PartManifest, object(t, m)}, {guest.PartTokens, values}, {guest.PartCondition, generator.Bytes(x.condition)},
			{guest.PartMask, mask}, {guest.PartOptions, options}})
		var report guest.Report
		unmarshal(t, get(t, out, guest.PartReport), &report)
		if n := report.Nearest; n == nil || n.Far != x.far || n.Scale != x.scale {
			t.Errorf("nearest %+v, want far %v and a scale of %v", n, x.far, x.scale)
		}
		var config struct {
			Alpha float64 `json:"lora_alpha"`
		}
		unmarshal(t, get(t, out, guest.PartFile+"adapter_config.json"), &config)
		if want := m.Base.Alpha * x.scale; config.Alpha != want {
			t.Errorf("the adapter's alpha is %v, want %v", config.Alpha, want)
		}
	}
}

func TestErrors(t *testing.T) {
	raw := read(t, "generator.json")
	vocabulary := guest.Part{Name: guest.PartVocab, Data: read(t, "encoder", "vocab.txt")}
	part := func(name, data string) guest.Part { return guest.Part{Name: name, Data: []byte(data)} }
	m := guest.Part{Name: guest.PartManifest, Data: raw}
	finite := generator.Bytes(tokens(manifest(t)))
	nan := slices.Clone(finite)
	copy(nan[8:], "\x00\x00\xc0\x7f")
	for _, c := range []struct {
		call    func([]byte) []byte
		message guest.Message
		want    string
	}{
		{guest.Compile, guest.Message{part("options", `{"stage":"generate","dtype":"F32"}`)}, `"manifest" is missing`},
		{guest.Compile, guest.Message{m}, `"options" is missing`},
		{guest.Compile, guest.Message{m, part("options", `{`)}, "options: unexpected EOF"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"generate","dtype":"F32"} 1`)}, "behind"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"generate","dtype":"F32","depth":1}`)}, "depth"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"generate","dtype":"F64"}`)}, "dtype"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"train","dtype":"F32"}`)}, "stage"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"generate","dtype":"F32","batch":2}`)}, "batch 2"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"decode","dtype":"F32","batch":1000000}`)}, "batch 1000000"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"decode","dtype":"F32","limits":{}}`)}, "limits"},
		{guest.Compile, guest.Message{m, part("options", `{"stage":"decode","dtype":"F32"}`), part("prompts", "a")}, `unknown part "prompts"`},
		{guest.Compile, guest.Message{part("manifest", `{"format_version":2}`), part("options", `{}`)}, "format_version 2"},
		{guest.Feed, guest.Message{m, part("prompts", "a"), part("options", `{"name":"p.txt"}`)}, "vocab"},
		{guest.Feed, guest.Message{m, vocabulary, part("tokenizer", "{}"), part("prompts", "a"), part("options", `{"name":"p.txt"}`)}, "vocab"},
		{guest.Feed, guest.Message{m, part("vocab", "a\nb\n"), part("prompts", "a"), part("options", `{"name":"p.txt"}`)}, "[PAD]"},
		{guest.Feed, guest.Message{m, vocabulary, part("options", `{"name":"p.txt"}`)}, `"prompts" is missing`},
		{guest.Feed, guest.Message{m, vocabulary, part("prompts", "a\n\xff"), part("options", `{"name":"p.txt"}`)}, "p.txt: line 2"},
		{guest.Feed, guest.Message{m, vocabulary, part("prompts", " \n"), part("options", `{"name":"p.txt"}`)}, "no prompt"},
		{guest.Feed, guest.Message{m, vocabulary, part("prompts", "a"), part("options", `{"name":"p.pdf"}`)}, ".pdf"},
		{guest.Finish, guest.Message{m, part("options", `{"format":"peft"}`)}, `"tokens" is missing`},
		{guest.Finish, guest.Message{m, part("tokens", "1234"), part("options", `{"format":"peft"}`)}, "expected 3084600 float32 values"},
		{guest.Finish, guest.Message{m, {Name: "tokens", Data: nan}, part("options", `{"format":"peft"}`)}, "value 2 is NaN"},
		{guest.Finish, guest.Message{m, {Name: "tokens", Data: finite}, part("options", `{"format":"zip"}`)}, `"zip"`},
	} {
		out, err := guest.Decode(c.call(encode(t, c.message)))
		if err != nil {
			t.Fatal(err)
		}
		if err := out.Err(); err == nil || !strings.Contains(err.Error(), c.want) || len(out) != 1 {
			t.Errorf("%q: parts %q, error %v, want one of %q", names(c.message), names(out), err, c.want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, m := range []guest.Message{
		nil,
		{{"a", nil}},
		{{"a", []byte{1}}, {"ä b", []byte("text")}},
	} {
		out, err := guest.Decode(encode(t, m))
		if err != nil || fmt.Sprint(out) != fmt.Sprint(m) {
			t.Errorf("%v became %v, %v", m, out, err)
		}
	}
	for _, m := range []guest.Message{{{"", nil}}, {{"a", nil}, {"a", nil}}, {{"\xff", nil}}, {{strings.Repeat("a", 2000), nil}}, make(guest.Message, 2000)} {
		if _, err := m.Encode(); err == nil {
			t.Errorf("%.80v was encoded, want an error", m)
		}
	}
	for _, c := range []struct{ raw, want string }{
		{"", "count"},
		{"\x01\x00\x00", "count"},
		{"\xff\xff\xff\xff", "parts"},
		{"\x01\x00\x00\x00", "parts"},
		{"\x00\x00\x00\x00\x00", "behind"},
		{"\x01\x00\x00\x00\x05\x00\x00\x00abcd", "cut off"},
		{"\x01\x00\x00\x00\xff\xff\xff\xffabcd", "cut off"},
		{"\x01\x00\x00\x00\x01\x00\x00\x00a\xff\xff\xff\x7fb", "cut off"},
		{"\x01\x00\x00\x00\x01\x00\x00\x00\xff\x00\x00\x00\x00", "UTF-8"},
		{"\x02\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00", "twice"},
	} {
		if _, err := guest.Decode([]byte(c.raw)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one of %q", c.raw, err, c.want)
		}
	}
}
