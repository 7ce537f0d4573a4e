package gguf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
)

var le = binary.LittleEndian

func raw(p ...byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(p); return err }
}

var pairs = []gguf.KeyValue{
	{Key: "general.architecture", Type: gguf.String, Value: "llama"},
	{Key: "a.flag", Type: gguf.Bool, Value: true},
	{Key: "a.alpha", Type: gguf.Float32, Value: 16.5},
	{Key: "a.count", Type: gguf.Uint32, Value: uint64(7)},
	{Key: "a.seed", Type: gguf.Uint64, Value: uint64(1 << 60)},
}

func sample(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	err := gguf.Write(&b, pairs, []gguf.Tensor{
		{Name: "first", Type: gguf.F16, Shape: []int64{3, 1}, Data: raw(1, 2, 3, 4, 5, 6)},
		{Name: "second", Type: gguf.F32, Shape: []int64{1, 2}, Data: raw(1, 2, 3, 4, 5, 6, 7, 8)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWriteThenRead(t *testing.T) {
	data := sample(t)
	f, err := gguf.Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Values, pairs) {
		t.Errorf("metadata %v", f.Values)
	}
	info, ok := f.Tensor("second")
	if !ok || info.Type != gguf.F32 || info.Bytes != 8 || info.Offset%32 != 0 || !reflect.DeepEqual(info.Shape, []int64{1, 2}) {
		t.Errorf("tensor %+v", info)
	}
	p := make([]byte, 3)
	if err := f.ReadRange("second", 4, p); err != nil || !bytes.Equal(p, []byte{5, 6, 7}) {
		t.Errorf("%v, %v", p, err)
	}
	if err := f.ReadRange("second", 6, p); err == nil {
		t.Error("a range beyond the tensor was read")
	}
	if err := f.ReadRange("third", 0, p); !errors.Is(err, gguf.ErrNoTensor) {
		t.Errorf("got %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	ok := gguf.Tensor{Name: "t", Type: gguf.F32, Shape: []int64{1}, Data: raw(1, 2, 3, 4)}
	short := ok
	short.Data = raw(1)
	long := ok
	long.Name = strings.Repeat("n", 64)
	unknown := ok
	unknown.Type = 99
	for name, c := range map[string]struct {
		values  []gguf.KeyValue
		tensors []gguf.Tensor
	}{
		"key twice":       {values: []gguf.KeyValue{pairs[0], pairs[0]}},
		"wrong value":     {values: []gguf.KeyValue{{Key: "k", Type: gguf.Uint32, Value: "text"}}},
		"too large":       {values: []gguf.KeyValue{{Key: "k", Type: gguf.Uint32, Value: uint64(1 << 32)}}},
		"tensor twice":    {tensors: []gguf.Tensor{ok, ok}},
		"short data":      {tensors: []gguf.Tensor{short}},
		"long name":       {tensors: []gguf.Tensor{long}},
		"unknown type":    {tensors: []gguf.Tensor{unknown}},
		"own alignment":   {values: []gguf.KeyValue{{Key: "general.alignment", Type: gguf.Uint32, Value: uint64(64)}}},
		"no such element": {tensors: []gguf.Tensor{{Name: "t", Type: gguf.F32, Shape: []int64{0}, Data: raw()}}},
	} {
		if err := gguf.Write(io.Discard, c.values, c.tensors); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// file builds raw files: what Write would not write.
type file []byte

func (f *file) u32(v uint32)    { *f = le.AppendUint32(*f, v) }
func (f *file) u64(v uint64)    { *f = le.AppendUint64(*f, v) }
func (f *file) str(s string)    { f.u64(uint64(len(s))); *f = append(*f, s...) }
func (f *file) bytes(p ...byte) { *f = append(*f, p...) }

func head(version uint32, tensors, values uint64) *file {
	f := file("GGUF")
	f.u32(version)
	f.u64(tensors)
	f.u64(values)
	return &f
}

func (f *file) tensor(name string, typ uint32, offset uint64, shape ...uint64) {
	f.str(name)
	f.u32(uint32(len(shape)))
	for _, d := range shape {
		f.u64(d)
	}
	f.u32(typ)
	f.u64(offset)
}

func (f *file) data(n int) []byte {
	for len(*f)%32 != 0 {
		*f = append(*f, 0)
	}
	return append(*f, make([]byte, n)...)
}

func TestArrays(t *testing.T) {
	f := head(3, 0, 2)
	f.str("ints")
	f.u32(9)
	f.u32(5)
	f.u64(2)
	f.u64(0)
	f.str("texts")
	f.u32(9)
	f.u32(8)
	f.u64(2)
	f.str("ab")
	f.str("")
	got, err := gguf.Read(bytes.NewReader(*f), int64(len(*f)))
	if err != nil {
		t.Fatal(err)
	}
	ints := got.Values[0].Value.(gguf.ArrayInfo)
	texts := got.Values[1].Value.(gguf.ArrayInfo)
	if ints.Type != gguf.Int32 || ints.Count != 2 || ints.Bytes != 8 || texts.Type != gguf.String || texts.Count != 2 || texts.Bytes != 18 {
		t.Errorf("%+v, %+v", ints, texts)
	}
}

func TestReadRefuses(t *testing.T) {
	one := func(typ uint32, offset uint64, shape ...uint64) []byte {
		f := head(3, 1, 0)
		f.tensor("t", typ, offset, shape...)
		return f.data(64)
	}
	value := func(build func(f *file)) []byte {
		f := head(3, 0, 1)
		f.str("k")
		build(f)
		return f.data(0)
	}
	twice := head(3, 2, 0)
	twice.tensor("t", 0, 0, 8)
	twice.tensor("t", 0, 32, 8)
	overlap := head(3, 2, 0)
	overlap.tensor("t", 0, 0, 16)
	overlap.tensor("u", 0, 32, 8)
	alignment := head(3, 0, 1)
	alignment.str("general.alignment")
	alignment.u32(4)
	alignment.u32(24)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":            {nil, "truncated"},
		"magic":            {[]byte("GGML\x03\x00\x00\x00"), "expected \"GGUF\""},
		"version 1":        {*head(1, 0, 0), "version 1"},
		"big-endian":       {*head(3<<24, 0, 0), "version"},
		"many tensors":     {*head(3, 1<<40, 0), "do not fit"},
		"many values":      {*head(3, 0, 1<<63), "do not fit"},
		"half a header":    {(*head(3, 0, 0))[:20], "truncated"},
		"long string":      {value(func(f *file) { f.u32(8); f.u64(1 << 50) }), "do not fit"},
		"unknown value":    {value(func(f *file) { f.u32(13); f.u64(0) }), "unknown type 13"},
		"array of arrays":  {value(func(f *file) { f.u32(9); f.u32(9); f.u64(1) }), "array of unknown type"},
		"huge array":       {value(func(f *file) { f.u32(9); f.u32(10); f.u64(1 << 61) }), "do not fit"},
		"array of strings": {value(func(f *file) { f.u32(9); f.u32(8); f.u64(1); f.u64(99) }), "do not fit"},
		"not UTF-8":        {value(func(f *file) { f.u32(8); f.u64(1); f.bytes(0xff) }), "UTF-8"},
		"alignment 24":     {alignment.data(0), "power of two"},
		"five axes":        {one(0, 0, 1, 1, 1, 1, 1), "axes"},
		"no elements":      {one(0, 0, 4, 0), "out of range"},
		"overflow":         {one(0, 0, 1<<31-1, 1<<31-1, 1<<31-1), "out of range"},
		"negative axis":    {one(0, 0, 1<<63), "out of range"},
		"unknown type":     {one(4, 0, 32), "unknown type 4"},
		"half a block":     {one(2, 0, 48), "whole blocks"},
		"beyond the end":   {one(0, 0, 17), "truncated"},
		"offset beyond":    {one(0, 1<<62, 1), "truncated"},
		"not aligned":      {one(0, 4, 1), "multiple of 32"},
		"tensor twice":     {twice.data(64), "twice"},
		"overlap":          {overlap.data(64), "inside the tensor before"},
	} {
		_, err := gguf.Read(bytes.NewReader(c.data), int64(len(c.data)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, expected an error with %q", name, err, c.want)
		}
	}
}

func TestOpenRealFile(t *testing.T) {
	path := filepath.Join("..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skip("the base model is not fetched: make deps")
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	heads, _ := f.Lookup("llama.attention.head_count")
	tokens, _ := f.Lookup("tokenizer.ggml.tokens")
	info, _ := f.Tensor("blk.29.attn_k.weight")
	if heads.Value != uint64(9) || tokens.Value.(gguf.ArrayInfo).Count != 49152 || len(f.Tensors) != 272 ||
		!reflect.DeepEqual(info.Shape, []int64{576, 192}) || info.Bytes != 576*192/32*20 {
		t.Errorf("heads %v, tokens %v, %d tensors, %+v", heads, tokens, len(f.Tensors), info)
	}
}

// What a base model's metadata hold goes from file to file: arrays and small numbers.
func TestWriteWhatWasRead(t *testing.T) {
	list := []gguf.KeyValue{
		{Key: "u8", Type: gguf.Uint8, Value: uint64(255)}, {Key: "i8", Type: gguf.Int8, Value: int64(-128)},
		{Key: "u16", Type: gguf.Uint16, Value: uint64(65535)}, {Key: "i16", Type: gguf.Int16, Value: int64(-2)},
		{Key: "i32", Type: gguf.Int32, Value: int64(-3)}, {Key: "i64", Type: gguf.Int64, Value: int64(-4)}, {Key: "u64", Type: gguf.Uint64, Value: uint64(1 << 63)},
		{Key: "texts", Type: gguf.Array, Value: gguf.RawArray{Type: gguf.String, Count: 1, Data: []byte{2, 0, 0, 0, 0, 0, 0, 0, 'a', 'b'}}},
	}
	var buf bytes.Buffer
	if err := gguf.Write(&buf, list, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Read(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for i, kv := range f.Values {
		if kv.Type == gguf.Array {
			if kv.Value, err = f.Array(kv.Key); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(kv, list[i]) {
			t.Errorf("%+v became %+v", list[i], kv)
		}
	}
	if _, err := f.Array("u8"); err == nil {
		t.Error("a number was read as an array")
	}
	for _, kv := range []gguf.KeyValue{
		{Key: "k", Type: gguf.Uint8, Value: uint64(256)}, {Key: "k", Type: gguf.Int8, Value: int64(128)}, {Key: "k", Type: gguf.Int32, Value: uint64(1)},
		{Key: "k", Type: gguf.Uint32, Value: int64(-1)}, {Key: "k", Type: gguf.Array, Value: gguf.ArrayInfo{}},
	} {
		if err := gguf.Write(io.Discard, []gguf.KeyValue{kv}, nil); err == nil {
			t.Errorf("%+v was written", kv)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	arrays := head(3, 1, 1)
	arrays.str("texts")
	arrays.u32(9)
	arrays.u32(8)
	arrays.u64(1)
	arrays.str("ab")
	arrays.tensor("t", 8, 0, 32)
	f.Add(arrays.data(34))
	f.Add([]byte(*head(3, 1<<40, 1<<40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, info := range file.Tensors {
			if err := file.ReadRange(info.Name, 0, make([]byte, info.Bytes)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
