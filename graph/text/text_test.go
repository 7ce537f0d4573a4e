package text_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// tokenizer reads MiniLM's vocabulary, which `make deps` fetches.
func tokenizer(t testing.TB) *text.Tokenizer {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "..", "build", "deps", "minilm", "tokenizer.json"))
	if err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	tok, err := text.FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func TestGoldenIDs(t *testing.T) {
	var info struct {
		Texts []string `json:"texts"`
		Cases []struct {
			Name      string `json:"name"`
			MaxLength int    `json:"max_length"`
			Rows      []struct {
				Text int      `json:"text"`
				IDs  []uint32 `json:"ids"`
			} `json:"rows"`
		} `json:"cases"`
	}
	readJSON(t, golden.Path("minilm", "info.json"), &info)
	tok := tokenizer(t)
	checked := 0
	for _, c := range info.Cases {
		b, err := tok.Encode(info.Texts, c.MaxLength)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range c.Rows {
			i, want := row.Text, row.IDs
			ids, mask := b.IDs[i*b.Length:(i+1)*b.Length], b.Mask[i*b.Length:(i+1)*b.Length]
			if !slices.Equal(ids[:len(want)], want) {
				t.Errorf("%s, text %d: ids %v, want %v", c.Name, i, ids[:len(want)], want)
			}
			for j := range ids {
				if real := j < len(want); mask[j] == 1 != real || !real && ids[j] != 0 {
					t.Fatalf("%s, text %d, position %d: id %d, mask %d", c.Name, i, j, ids[j], mask[j])
				}
			}
			checked++
		}
	}
	if checked == 0 {
		t.Fatal("the golden file holds no ids")
	}
}

// The corpus was made with the tokenizers library (Python, 0.23), which the reference
// uses: random text of many scripts, control characters, special tokens.
func TestCorpus(t *testing.T) {
	var corpus []struct {
		Text string   `json:"text"`
		IDs  []uint32 `json:"ids"`
	}
	readJSON(t, filepath.Join("testdata", "wordpiece.json"), &corpus)
	tok := tokenizer(t)
	for _, c := range corpus {
		for _, length := range []int{512, 16} {
			b, err := tok.Encode([]string{c.Text}, length)
			if err != nil {
				t.Fatal(err)
			}
			want := append(append([]uint32{101}, c.IDs[:min(len(c.IDs), length-2)]...), 102)
			if !slices.Equal(b.IDs[:len(want)], want) {
				t.Errorf("%+q at length %d: %v, want %v", c.Text, length, b.IDs[:len(want)], want)
			}
		}
	}
}

// A long text is tokenised a stretch at a time, which must not show.
func TestStretches(t *testing.T) {
	var corpus []struct {
		Text string   `json:"text"`
		IDs  []uint32 `json:"ids"`
	}
	readJSON(t, filepath.Join("testdata", "wordpiece.json"), &corpus)
	var long strings.Builder
	want := []uint32{101}
	for range 3 {
		for _, c := range corpus {
			long.WriteString(c.Text)
			long.WriteByte(' ')
			want = append(want, c.IDs...)
		}
	}
	want = append(want, 102)
	b, err := tokenizer(t).Encode([]string{long.String()}, (len(want)+511)/512*512)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.IDs[:len(want)], want) {
		t.Errorf("%d bytes as one text differ from the texts one by one", long.Len())
	}
}

func TestLongText(t *testing.T) {
	tok := tokenizer(t)
	for name, s := range map[string]string{
		"words":   strings.Repeat("a sentence of words, ", 500_000),
		"one":     strings.Repeat("x", 10<<20),
		"special": strings.Repeat("[MASK]", 1<<20),
		"CJK":     strings.Repeat("日本語", 1<<20),
	} {
		b, err := tok.Encode([]string{s}, 1536)
		if err != nil {
			t.Fatal(err)
		}
		if b.IDs[0] != 101 || name != "one" && (b.IDs[1535] != 102 || b.Mask[1535] != 1) {
			t.Errorf("%s: first id %d, last %d", name, b.IDs[0], b.IDs[1535])
		}
	}
}

// tokenizerJSON is a small tokenizer.json with some options in two places.
func tokenizerJSON(normalizer, added string) string {
	return `{"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
		"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4,"É":5,"a":6}},
		"normalizer":{"type":"BertNormalizer"` + normalizer + `},"pre_tokenizer":{"type":"BertPreTokenizer"},"added_tokens":[` + added + `]}`
}

func TestCased(t *testing.T) {
	for options, want := range map[string][]uint32{
		`,"lowercase":false`: {2, 5, 1, 6, 3, 0},
		``:                   {2, 1, 6, 6, 3, 0},
	} {
		tok, err := text.FromJSON([]byte(tokenizerJSON(options, `{"id":4,"content":"[MASK]"}`)))
		if err != nil {
			t.Fatal(err)
		}
		if tok.Size() != 7 {
			t.Errorf("size %d, want 7", tok.Size())
		}
		if b, err := tok.Encode([]string{"É A a"}, 6); err != nil || !slices.Equal(b.IDs, want) {
			t.Errorf("%q: %v, %v, want %v", options, b.IDs, err, want)
		}
	}
}

func TestBadVocabularies(t *testing.T) {
	for name, raw := range map[string]string{
		"added token":        tokenizerJSON("", `{"id":7,"content":"<mark>"}`),
		"stripping token":    tokenizerJSON("", `{"id":4,"content":"[MASK]","lstrip":true}`),
		"id of added token":  tokenizerJSON("", `{"id":5,"content":"[MASK]"}`),
		"accents kept":       tokenizerJSON(`,"lowercase":true,"strip_accents":false`, ""),
		"control characters": tokenizerJSON(`,"clean_text":false`, ""),
		"not JSON":           `{`,
		"other":              `{"model":{"type":"BPE"}}`,
		"options":            `{"model":{"type":"WordPiece","vocab":{},"continuing_subword_prefix":"##","max_input_chars_per_word":50,"unk_token":"[UNK]"}}`,
		"no tokens":          `{"model":{"type":"WordPiece","vocab":{"a":0},"continuing_subword_prefix":"##","max_input_chars_per_word":100,"unk_token":"[UNK]"},"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"}}`,
	} {
		if _, err := text.FromJSON([]byte(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, vocab := range []string{"a\nb\n", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n"} {
		if _, err := text.FromVocab(strings.NewReader(vocab), true); err == nil {
			t.Errorf("%q: accepted", vocab)
		}
	}
}

func small(t testing.TB) *text.Tokenizer {
	tok, err := text.FromVocab(strings.NewReader("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##want\n##ed\nrun\n,\n##n\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestLengths(t *testing.T) {
	for _, length := range []int{-1, 0, 1, 513, 1000, 1 << 30} {
		if _, err := small(t).Encode([]string{"a"}, length); err == nil {
			t.Errorf("length %d was accepted", length)
		}
	}
	b, err := small(t).Encode([]string{"unwanted run,runn"}, 2)
	if err != nil || !slices.Equal(b.IDs, []uint32{2, 3}) {
		t.Errorf("%v, %v", b.IDs, err)
	}
}

func ExampleTokenizer_Encode() {
	tok, _ := text.FromVocab(strings.NewReader("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##want\n##ed\nrun\n,\n##n\n"), true)
	b, _ := tok.Encode([]string{"UNWANTED, running"}, 8)
	fmt.Println(b.IDs, b.Mask)
	// Output: [2 5 6 7 9 1 3 0] [1 1 1 1 1 1 1 0]
}

func TestPrompts(t *testing.T) {
	for _, c := range []struct {
		name, raw, format, field string
		want                     []string
		err                      string
	}{
		{"txt", "one\r\n\n two \n", ".txt", "", []string{"one", " two "}, ""},
		{"BOM", "\xef\xbb\xbfone", ".txt", "", []string{"one"}, ""},
		{"array", `["a","b"]`, ".json", "", []string{"a", "b"}, ""},
		{"records", `[{"prompt":"a"},{"prompt":"b","x":1}]`, ".json", "", []string{"a", "b"}, ""},
		{"field", `[{"q":"a"}]`, ".json", "q", []string{"a"}, ""},
		{"conversations", `[{"conversations":[{"from":"human","value":"a"}]},{"prompt":"x","conversations":[{"value":"b"}]}]`, ".json", "", []string{"a", "b"}, ""},
		{"jsonl", "{\"prompt\":\"a\"}\n\n\"b\"\n", ".jsonl", "", []string{"a", "b"}, ""},
		{"csv", "id,prompt\n1,\"a, b\"\n2,c\n", ".csv", "", []string{"a, b", "c"}, ""},
		{"stdin lines", "[hint] say a\nb", "", "", []string{"[hint] say a", "b"}, ""},
		{"stdin array", " [\"a\"]", "", "", []string{"a"}, ""},
		{"stdin jsonl", "{\"prompt\":\"a\"}\n", "", "", []string{"a"}, ""},
		{"empty", "", ".txt", "", nil, "no prompt"},
		{"blank", " \n\n", ".txt", "", nil, "no prompt"},
		{"empty array", "[]", ".json", "", nil, "no prompt"},
		{"blank record", `["a"," "]`, ".json", "", nil, "prompt 2 of 2 is empty"},
		{"bad UTF-8", "a\nb\xff", ".txt", "", nil, "line 2: not valid UTF-8"},
		{"truncated", "[\"a\",\n\"b", ".json", "", nil, "line 2: not valid JSON"},
		{"stdin quotation", "\"Hello,\" she said.\nb", "", "", []string{"\"Hello,\" she said.", "b"}, ""},
		{"stdin truncated", "[\"a\",\n\"b\"", "", "", nil, "line 2: not valid JSON"},
		{"stdin record", "{\"prompt\":\n\"a\"}", "", "", nil, "line 1: not valid JSON"},
		{"lines in an array's place", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n", ".json", "", nil, "line 2: not valid JSON"},
		{"null", "null", ".json", "", nil, "expected a JSON array"},
		{"object", `{"a":1}`, ".json", "", nil, "expected a JSON array"},
		{"number", `["a",1]`, ".json", "", nil, "record 2: expected a string or a record"},
		{"missing field", `[{"prompt":"a"},{"q":"b"}]`, ".json", "", nil, `record 2 has no field "prompt"`},
		{"not a string", `[{"prompt":["a"]}]`, ".json", "", nil, `field "prompt" is not a string`},
		{"missing in a line", "{\"prompt\":\"a\"}\n\n{\"q\":\"b\"}\n", ".jsonl", "", nil, `line 3 has no field "prompt", and line 1 has no conversations[0].value either`},
		{"ragged csv", "id,prompt\n1\n", ".csv", "", nil, "not valid CSV: record on line 2"},
		{"bad line", "\"a\"\n{", ".jsonl", "", nil, "line 2"},
		{"no column", "a,b\n1,2\n", ".csv", "", nil, `no column "prompt"`},
		{"kind", "a", ".pdf", "", nil, "unknown kind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := text.ParsePrompts([]byte(c.raw), c.format, c.field)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, %v, want error %q", got, err, c.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Fatalf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestReadPrompts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "prompts.TXT")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := text.ReadPrompts(path, nil, ""); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("file: %q, %v", got, err)
	}
	if got, err := text.ReadPrompts("-", strings.NewReader(`["a","b"]`), ""); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("standard input: %q, %v", got, err)
	}
	if _, err := text.ReadPrompts("-", strings.NewReader(""), ""); err == nil || !strings.HasPrefix(err.Error(), "standard input: no prompt") {
		t.Errorf("nothing on standard input: %v", err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "none.txt")} {
		if _, err := text.ReadPrompts(path, nil, ""); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDraw(t *testing.T) {
	prompts := []string{"a", "b", "c", "d", "e"}
	one, cycled := text.Draw(prompts, 4, 7, 0)
	again, _ := text.Draw(prompts, 4, 7, 0)
	other, _ := text.Draw(prompts, 4, 7, 1)
	if cycled || !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Errorf("%v, %v, %v, cycled %v", one, again, other, cycled)
	}
	seen := map[string]int{}
	for _, p := range one {
		seen[p]++
	}
	if len(seen) != 4 {
		t.Errorf("%v repeats a prompt", one)
	}
	many, cycled := text.Draw(prompts, 12, 0, 0)
	if !cycled || len(many) != 12 {
		t.Fatalf("%v, cycled %v", many, cycled)
	}
	seen = map[string]int{}
	for _, p := range many[:10] {
		seen[p]++
	}
	for p, n := range seen {
		if n != 2 {
			t.Errorf("%s was drawn %d times in two rounds", p, n)
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("unwanted, running", 8)
	f.Add("[MASK][CLS]x\x00\xff\u200b日本", 3)
	tok := small(f)
	f.Fuzz(func(t *testing.T, s string, length int) {
		length = 2 + (length&0xff+256)%256
		b, err := tok.Encode([]string{s}, length)
		if err != nil {
			t.Fatal(err)
		}
		real := 0
		for real < length && b.Mask[real] == 1 {
			real++
		}
		if real < 2 || b.IDs[0] != 2 || b.IDs[real-1] != 3 || slices.Max(b.IDs) > 10 || slices.Contains(b.Mask[real:], 1) {
			t.Fatalf("ids %v, mask %v", b.IDs, b.Mask)
		}
	})
}

func FuzzFromJSON(f *testing.F) {
	f.Add(tokenizerJSON("", ""))
	f.Add(tokenizerJSON(`,"lowercase":false`, `{"id":4,"content":"[MASK]"}`))
	f.Fuzz(func(t *testing.T, raw string) {
		tok, err := text.FromJSON([]byte(raw))
		if err != nil {
			return
		}
		if _, err := tok.Encode([]string{"a É [MASK]"}, 8); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParsePrompts(f *testing.F) {
	f.Add([]byte(`[{"prompt":"a"}]`), ".json")
	f.Add([]byte("{\"conversations\":[{\"value\":\"a\"}]}\n"), ".jsonl")
	f.Add([]byte("prompt\na\n"), ".csv")
	f.Add([]byte("[\"a\"]"), "")
	f.Fuzz(func(t *testing.T, raw []byte, format string) {
		prompts, err := text.ParsePrompts(raw, format, "")
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("error of several lines: %v", err)
		}
		if err == nil && (len(prompts) == 0 || slices.ContainsFunc(prompts, func(p string) bool { return strings.TrimSpace(p) == "" || !utf8.ValidString(p) })) {
			t.Fatalf("prompts %q and no error", prompts)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := tokenizer(b)
	prompt := strings.Repeat("The quick brown fox jumps over the lazy dog; unbelievably, it works. ", 20)
	texts := slices.Repeat([]string{prompt}, 32)
	tokens := 0
	for b.Loop() {
		batch, err := tok.Encode(texts, 384)
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range batch.Mask {
			tokens += int(m)
		}
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
}
