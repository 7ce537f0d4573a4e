package safetensors_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stricter are the cases that only this reader refuses, each with its reason.
var stricter = map[string]string{
	"same name, same range": "which of two tensors is meant is a guess",
	"blank before":          "the format says that a header begins with {",
}

// referenceCases are files around each rule.
func referenceCases() map[string][]byte {
	entry := func(dtype, shape, offsets string) string {
		return fmt.Sprintf(`{"dtype":%q,"shape":%s,"data_offsets":%s}`, dtype, shape, offsets)
	}
	one := entry("F32", "[2]", "[0,8]")
	length := func(n uint64, rest string) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, n), rest...)
	}
	cases := map[string][]byte{
		"empty file":                    {},
		"seven bytes":                   make([]byte, 7),
		"no header":                     length(0, ""),
		"empty object":                  file(`{}`, 0),
		"empty object, data":            file(`{}`, 4),
		"one tensor":                    file(`{"a":`+one+`}`, 8),
		"blanks behind":                 file(`{"a":`+one+`}    `, 8),
		"newline behind":                file("{\"a\":"+one+"}\n", 8),
		"blank before":                  file(` {"a":`+one+`}`, 8),
		"zero byte behind":              file("{\"a\":"+one+"}\x00", 8),
		"text behind":                   file(`{"a":`+one+`}x`, 8),
		"array":                         file(`["a"]`, 0),
		"text":                          file(`"a"`, 0),
		"null":                          file(`null`, 0),
		"entry null":                    file(`{"a":null}`, 0),
		"entry text":                    file(`{"a":"b"}`, 0),
		"not JSON":                      file(`{"a":`, 0),
		"trailing comma":                file(`{"a":`+one+`,}`, 8),
		"not UTF-8":                     file("{\"\xff\":"+one+"}", 8),
		"NaN offset":                    file(`{"a":`+entry("F32", "[2]", "[NaN,8]")+`}`, 8),
		"header of the limit and more":  length(100_000_001, "{"),
		"header length overflows":       length(1<<63, "{}"),
		"header length all ones":        length(1<<64-1, "{}"),
		"header longer than the file":   length(9, "{}"),
		"no data":                       file(`{"a":`+one+`}`, 0),
		"short data":                    file(`{"a":`+one+`}`, 7),
		"long data":                     file(`{"a":`+one+`}`, 9),
		"hole before":                   file(`{"a":`+entry("F32", "[1]", "[4,8]")+`}`, 8),
		"hole between":                  file(`{"a":`+entry("F32", "[1]", "[0,4]")+`,"b":`+entry("F32", "[1]", "[8,12]")+`}`, 12),
		"overlap":                       file(`{"a":`+one+`,"b":`+entry("F32", "[2]", "[4,12]")+`}`, 12),
		"same range":                    file(`{"a":`+one+`,"b":`+one+`}`, 8),
		"same name, same range":         file(`{"a":`+one+`,"a":`+one+`}`, 8),
		"same name, next range":         file(`{"a":`+one+`,"a":`+entry("F32", "[2]", "[8,16]")+`}`, 16),
		"any order":                     file(`{"b":`+entry("F32", "[1]", "[4,8]")+`,"a":`+entry("F32", "[1]", "[0,4]")+`}`, 8),
		"range backwards":               file(`{"a":`+entry("F32", "[2]", "[8,0]")+`}`, 8),
		"range of three":                file(`{"a":`+entry("F32", "[2]", "[0,8,8]")+`}`, 8),
		"range of one":                  file(`{"a":`+entry("F32", "[2]", "[0]")+`}`, 8),
		"range negative":                file(`{"a":`+entry("F32", "[2]", "[-8,0]")+`}`, 8),
		"range a fraction":              file(`{"a":`+entry("F32", "[2]", "[0,8.5]")+`}`, 8),
		"range 8.0":                     file(`{"a":`+entry("F32", "[2]", "[0,8.0]")+`}`, 8),
		"range above 64 bits":           file(`{"a":`+entry("F32", "[2]", "[0,18446744073709551624]")+`}`, 8),
		"range texts":                   file(`{"a":`+entry("F32", "[2]", `["0","8"]`)+`}`, 8),
		"scalar":                        file(`{"a":`+entry("F32", "[]", "[0,4]")+`}`, 4),
		"no elements":                   file(`{"a":`+entry("F32", "[0,3]", "[0,0]")+`}`, 0),
		"no elements, twice":            file(`{"a":`+entry("F32", "[0]", "[0,0]")+`,"b":`+entry("F32", "[0]", "[0,0]")+`}`, 0),
		"no elements, but bytes":        file(`{"a":`+entry("F32", "[0]", "[0,4]")+`}`, 4),
		"no elements in the middle":     file(`{"a":`+one+`,"b":`+entry("F32", "[0]", "[4,4]")+`}`, 8),
		"shape too small":               file(`{"a":`+entry("F32", "[1]", "[0,8]")+`}`, 8),
		"shape too large":               file(`{"a":`+entry("F32", "[3]", "[0,8]")+`}`, 8),
		"shape negative":                file(`{"a":`+entry("F32", "[-2]", "[0,8]")+`}`, 8),
		"shape a fraction":              file(`{"a":`+entry("F32", "[2.5]", "[0,8]")+`}`, 8),
		"shape overflows to what it is": file(`{"a":`+entry("F32", "[4294967296,4294967296,2]", "[0,8]")+`}`, 8),
		"bytes overflow to 0":           file(`{"a":`+entry("F64", "[2305843009213693952]", "[0,0]")+`}`, 0),
		"shape no list":                 file(`{"a":`+entry("F32", "2", "[0,8]")+`}`, 8),
		"no shape":                      file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4),
		"no dtype":                      file(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 4),
		"no range":                      file(`{"a":{"dtype":"F32","shape":[0]}}`, 0),
		"range of null":                 file(`{"a":`+entry("F32", "[2]", "[null,8]")+`}`, 8),
		"shape of null":                 file(`{"a":`+entry("F32", "[null]", "[0,0]")+`}`, 0),
		"dtype null":                    file(`{"a":{"dtype":null,"shape":[1],"data_offsets":[0,4]}}`, 4),
		"range -0":                      file(`{"a":`+entry("F32", "[2]", "[-0,8]")+`}`, 8),
		"range 0e0":                     file(`{"a":`+entry("F32", "[2]", "[0e0,8]")+`}`, 8),
		"shape -0":                      file(`{"a":`+entry("F32", "[-0]", "[0,0]")+`}`, 0),
		"unknown key twice":             file(`{"a":{"dtype":"F32","shape":[1],"x":1,"x":2,"data_offsets":[0,4]}}`, 4),
		"a whole surrogate pair":        file(`{"\ud83d\ude00":`+one+`}`, 8),
		"escaped backslash and ud800":   file(`{"\\ud800":`+one+`}`, 8),
		"low surrogate":                 file(`{"\udc00":`+one+`}`, 8),
		"escaped keys":                  file(`{"a":{"\u0064type":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"metadata key twice":            file(`{"__metadata__":{"k":"v","k":"w"},"a":`+one+`}`, 8),
		"shape null":                    file(`{"a":`+entry("F32", "null", "[0,4]")+`}`, 4),
		"more keys":                     file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4),
		"dtype twice":                   file(`{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"keys in capitals":              file(`{"a":{"DType":"F32","Shape":[1],"Data_Offsets":[0,4]}}`, 4),
		"unknown dtype":                 file(`{"a":`+entry("F31", "[1]", "[0,4]")+`}`, 4),
		"dtype in small letters":        file(`{"a":`+entry("f32", "[1]", "[0,4]")+`}`, 4),
		"metadata":                      file(`{"__metadata__":{"k":"v"},"a":`+one+`}`, 8),
		"metadata alone":                file(`{"__metadata__":{}}`, 0),
		"metadata null":                 file(`{"__metadata__":null,"a":`+one+`}`, 8),
		"metadata of numbers":           file(`{"__metadata__":{"k":1},"a":`+one+`}`, 8),
		"metadata of null":              file(`{"__metadata__":{"k":null},"a":`+one+`}`, 8),
		"metadata nested":               file(`{"__metadata__":{"k":{}},"a":`+one+`}`, 8),
		"metadata a list":               file(`{"__metadata__":[],"a":`+one+`}`, 8),
		"metadata twice":                file(`{"__metadata__":{"k":"v"},"__metadata__":{"k":"v"},"a":`+one+`}`, 8),
		"metadata behind":               file(`{"a":`+one+`,"__metadata__":{"k":"v"}}`, 8),
		"empty name":                    file(`{"":`+one+`}`, 8),
		"escaped name":                  file(`{"\u0061":`+one+`}`, 8),
		"half a surrogate":              file(`{"\ud800":`+one+`}`, 8),
		"control character in a name":   file("{\"\x01\":"+one+"}", 8),
	}
	// Types that numpy has, so that the reference can give the tensors back.
	for dtype, size := range map[string]int{"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8} {
		cases["type "+dtype] = file(`{"a":`+entry(dtype, "[3]", fmt.Sprintf("[0,%d]", 3*size))+`}`, 3*size)
	}
	return cases
}

// Every header is judged as the reference reader does: what it refuses is refused, and what
// it takes is taken with the same names, shapes and sizes.
func TestAgainstTheReference(t *testing.T) {
	python := os.Getenv("DND_PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", "build", "deps", "venv", "bin", "python")
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	cases := referenceCases()
	dir := t.TempDir()
	var names, paths []string
	for name, raw := range cases {
		path := filepath.Join(dir, fmt.Sprint(len(paths)))
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		names, paths = append(names, name), append(paths, path)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "reference.py"))
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	var text strings.Builder
	cmd.Stderr = &text
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	var reference struct {
		Version string
		Answers []struct {
			OK      bool
			Error   string
			Tensors map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(out, &reference); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i, a := range reference.Answers {
		name := names[i]
		f, err := open(cases[name])
		if !a.OK {
			refused++
		}
		reason, known := stricter[name]
		switch {
		case a.OK && err != nil && known:
			t.Logf("%s: refused here alone: %s", name, reason)
			continue
		case known:
			t.Errorf("%s: is said to be refused here alone, got %v, the reference %+v", name, err, a)
			continue
		case a.OK != (err == nil):
			t.Errorf("%s: got %v, safetensors %s says %v %s", name, err, reference.Version, a.OK, a.Error)
			continue
		case err != nil:
			continue
		}
		if len(f.Tensors) != len(a.Tensors) {
			t.Errorf("%s: %d tensors, the reference has %d", name, len(f.Tensors), len(a.Tensors))
		}
		for _, info := range f.Tensors {
			shape := info.Shape
			if shape == nil {
				shape = []int{}
			}
			want, err := json.Marshal([]any{shape, info.Bytes})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.ReplaceAll(string(a.Tensors[info.Name]), " ", ""); got != string(want) {
				t.Errorf("%s: tensor %q is %s, the reference has %s", name, info.Name, want, got)
			}
		}
	}
	t.Logf("safetensors %s: %d files, %d of them refused", reference.Version, len(names), refused)
	if refused < 40 || len(names)-refused < 20 {
		t.Error("too few files on one of the two sides")
	}
}
