package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// file is a safetensors file with the given header text and data bytes.
func file(header string, data int) []byte {
	raw := make([]byte, 8, 8+len(header)+data)
	binary.LittleEndian.PutUint64(raw, uint64(len(header)))
	return append(append(raw, header...), make([]byte, data)...)
}

func open(raw []byte) (*safetensors.File, error) {
	return safetensors.NewFile(bytes.NewReader(raw), int64(len(raw)))
}

func TestHeaderRules(t *testing.T) {
	huge := make([]byte, 8)
	binary.LittleEndian.PutUint64(huge, 1<<40)
	long := make([]byte, 8)
	binary.LittleEndian.PutUint64(long, 50_000_000)
	for _, c := range []struct {
		name string
		raw  []byte
		want string // part of the error, "" for none
	}{
		{"one tensor", file(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24), ""},
		{"scalar", file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4), ""},
		{"empty tensor", file(`{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}`, 0), ""},
		{"any order", file(`{"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 8), ""},
		{"padded header", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}    `, 1), ""},
		{"short file", []byte{1, 2}, "expected at least 8"},
		{"huge header", huge, "larger than the limit"},
		{"header beyond file", long, "truncated"},
		{"no object", file(`[1]`, 0), "start with {"},
		{"not JSON", file(`{"a":`, 0), "bad header entry"},
		{"text behind", file(`{} x`, 0), "after its JSON object"},
		{"twice", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `"a": occurs twice`},
		{"hole", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "hole or overlap"},
		{"overlap", file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "hole or overlap"},
		{"rest", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2), "the file has 2"},
		{"truncated data", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 4), `"a": data ends at 8`},
		{"shape and bytes", file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), "needs 12 bytes"},
		{"overflow", file(`{"a":{"dtype":"F32","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,8]}}`, 8), "out of range"},
		{"negative", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), "bad header entry"},
		{"dtype", file(`{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}`, 4), "unknown dtype"},
		{"offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "not a range"},
		{"metadata", file(`{"__metadata__":{"a":1}}`, 0), "__metadata__"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := bytes.Clone(c.raw)
			_, err := open(c.raw)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if !bytes.Equal(before, c.raw) {
				t.Fatal("the source was modified")
			}
		})
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, []byte("xx"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := safetensors.Open(path)
	var format *safetensors.FormatError
	if !errors.As(err, &format) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v, want a FormatError that names %s", err, path)
	}
}

func TestReadsFilesOfTheReferenceWriter(t *testing.T) {
	f, err := safetensors.Open(golden.Path("decoders", "fullcond_k5", "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := f.Lookup("model.decoder.module_list.0.linear1.bias")
	if !ok || info.DType != safetensors.F32 || len(info.Shape) != 2 {
		t.Fatalf("got %+v, %v", info, ok)
	}
	values, err := f.Float32s(info.Name)
	if err != nil || int64(len(values)) != info.Elements() {
		t.Fatalf("%d values, %v", len(values), err)
	}
	if err := f.ReadRange(info.Name, info.Bytes-3, make([]byte, 4)); err == nil {
		t.Fatal("a range beyond the tensor was read")
	}
	if _, err := f.Float32s("none"); !errors.Is(err, safetensors.ErrNoTensor) {
		t.Fatalf("got %v, want ErrNoTensor", err)
	}
}

func TestRoundTrip(t *testing.T) {
	values := []float32{0, -0.5, 1, 3.140625, float32(math.Inf(1)), -65504}
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := safetensors.WriteFile(path, []safetensors.Tensor{
		safetensors.FromFloat32s("f32", safetensors.F32, values, 2, 3),
		safetensors.FromFloat32s("f16", safetensors.F16, values, 6),
		safetensors.FromFloat32s("bf16", safetensors.BF16, values[:4], 4),
	}, map[string]string{"by": "test"}); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata["by"] != "test" || len(f.Tensors) != 3 {
		t.Fatalf("metadata %v, %d tensors", f.Metadata, len(f.Tensors))
	}
	for _, tensor := range f.Tensors {
		got, err := f.Float32s(tensor.Name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i] != values[i] {
				t.Errorf("%s[%d] = %v, want %v", tensor.Name, i, got[i], values[i])
			}
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	short := safetensors.Tensor{Name: "a", DType: safetensors.F32, Shape: []int{2}, Data: func(w io.Writer) error {
		_, err := w.Write(make([]byte, 4))
		return err
	}}
	one := safetensors.FromFloat32s("a", safetensors.F32, []float32{1}, 1)
	for name, tensors := range map[string][]safetensors.Tensor{"short data": {short}, "name twice": {one, one}} {
		if err := safetensors.WriteFile(path, tensors, nil); err == nil {
			t.Errorf("%s: written", name)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
			t.Errorf("%s: left %v behind", name, left)
		}
	}
}

// Every half value widens and rounds back to itself; rounding takes the nearer
// neighbour, ties to even.
func TestHalf(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		v := safetensors.HalfToFloat(h)
		if v != v {
			continue
		}
		if got := safetensors.FloatToHalf(v); got != h {
			t.Fatalf("%#04x -> %v -> %#04x", h, v, got)
		}
		if h&0x7fff >= 0x7bff {
			continue
		}
		next := safetensors.HalfToFloat(h + 1)
		middle := float32((float64(v) + float64(next)) / 2)
		want := h + h&1
		if got := safetensors.FloatToHalf(middle); got != want {
			t.Fatalf("middle of %#04x and %#04x rounds to %#04x, want %#04x", h, h+1, got, want)
		}
	}
	for v, want := range map[float32]uint16{65520: 0x7c00, 65519: 0x7bff, -1e10: 0xfc00} {
		if got := safetensors.FloatToHalf(v); got != want {
			t.Errorf("FloatToHalf(%v) = %#04x, want %#04x", v, got, want)
		}
	}
	if safetensors.RoundBF16(1.00390625) != 1 || safetensors.RoundBF16(1.01171875) != 1.015625 {
		t.Error("bfloat16 ties do not round to even")
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8))
	f.Add(file(`{"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}`, 2))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 127})
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := open(raw)
		if err != nil {
			return
		}
		total := int64(0)
		for _, info := range file.Tensors {
			total += info.Bytes
			if err := file.ReadRange(info.Name, 0, make([]byte, info.Bytes)); err != nil {
				t.Fatalf("checked tensor cannot be read: %v", err)
			}
		}
		if total > int64(len(raw)) {
			t.Fatalf("%d bytes of tensors in a file of %d", total, len(raw))
		}
	})
}

func ExampleWriteFile() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "x.safetensors")
	weights := safetensors.FromFloat32s("weights", safetensors.F16, []float32{1, 2, 3, 4}, 2, 2)
	if err := safetensors.WriteFile(path, []safetensors.Tensor{weights}, nil); err != nil {
		fmt.Println(err)
		return
	}
	f, err := safetensors.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	info, _ := f.Lookup("weights")
	fmt.Println(info.DType, info.Shape, info.Bytes)
	// Output: F16 [2 2] 8
}
