package pth_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/pth"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func values(t *testing.T, f *pth.File, info safetensors.Info) []float32 {
	t.Helper()
	raw := make([]byte, info.Bytes)
	if err := f.ReadRange(info.Name, 0, raw); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, info.Elements())
	if err := safetensors.DecodeFloats(info.DType, raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

func TestStateDicts(t *testing.T) {
	for _, c := range []struct{ file, decoder string }{
		{"qwen0.5lora__golden1000.pth", "fullcond_k5"},
		{"qwen1.5lora__golden500.pth", "superlarge_k11"},
	} {
		t.Run(c.file, func(t *testing.T) {
			f, err := pth.Open(golden.Path("pth", c.file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			want, err := safetensors.Open(golden.Path("decoders", c.decoder, "model.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			text, err := os.ReadFile(golden.Path("pth", c.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var info struct {
				Keys []string `json:"keys_in_order"`
			}
			if err := json.Unmarshal(text, &info); err != nil {
				t.Fatal(err)
			}
			if len(f.Tensors) != len(info.Keys) || len(f.Tensors) != len(want.Tensors) {
				t.Fatalf("%d tensors, expected %d", len(f.Tensors), len(info.Keys))
			}
			for i, x := range f.Tensors {
				w, _ := want.Lookup(x.Name)
				if x.Name != info.Keys[i] || !slices.Equal(x.Shape, w.Shape) || x.DType != safetensors.F32 {
					t.Fatalf("tensor %d is %v, expected %s as %v", i, x, info.Keys[i], w)
				}
				all, err := want.Float32s(x.Name)
				if err != nil {
					t.Fatal(err)
				}
				if !sameBits(values(t, f, x), all) {
					t.Errorf("%s: values differ", x.Name)
				}
			}
		})
	}
}

func TestSingleTensors(t *testing.T) {
	for _, c := range []struct {
		file   []string
		values []string
		key    string // "" for the file's name
	}{
		{[]string{"pth", "criterion_weight.pt"}, []string{"criterion", "weight.safetensors"}, "mini_0.5B"},
		{[]string{"pth", "official", "common_sense_reasoning_ARC-c.pt"}, []string{"pth", "official", "values.safetensors"}, ""},
		{[]string{"pth", "official", "math7B_Competition_Math.pt"}, []string{"pth", "official", "values.safetensors"}, ""},
	} {
		name := c.file[len(c.file)-1]
		t.Run(name, func(t *testing.T) {
			f, err := pth.Open(golden.Path(c.file...))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if len(f.Tensors) != 1 || f.Tensors[0].Name != "" || len(f.Tensors[0].Shape) != 1 {
				t.Fatalf("tensors %v, expected one vector without a name", f.Tensors)
			}
			want, err := safetensors.Open(golden.Path(c.values...))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			key := c.key
			if key == "" {
				key = name
			}
			all, err := want.Float32s(key)
			if err != nil {
				t.Fatalf("%v; there are %v", err, want.Tensors)
			}
			if !sameBits(values(t, f, f.Tensors[0]), all) {
				t.Error("values differ")
			}
		})
	}
}

// Pieces of pickles for made-up files.

func str(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func num(v int64) string {
	if v == int64(int32(v)) {
		return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(v)))
	}
	return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, uint64(v)))
}

func tup(items ...string) string { return "(" + strings.Join(items, "") + "t" }

func nums(v ...int64) string {
	var items []string
	for _, x := range v {
		items = append(items, num(x))
	}
	return tup(items...)
}

func store(kind, key string, count int64) string {
	return tup(str("storage"), "ctorch\n"+kind+"\n", str(key), str("cuda:0"), num(count)) + "Q"
}

const (
	proto   = "\x80\x02"
	ordered = "ccollections\nOrderedDict\n)R"
	rebuild = "ctorch._utils\n_rebuild_tensor_v2\n"
)

func tensor(storage string, offset int64, shape, stride []int64) string {
	return rebuild + tup(storage, num(offset), nums(shape...), nums(stride...), "\x89", ordered) + "R"
}

func state(items ...string) string { return proto + ordered + "(" + strings.Join(items, "") + "u." }

func vector(key string, n int64) string {
	return tensor(store("FloatStorage", key, n), 0, []int64{n}, []int64{1})
}

type member struct {
	name   string
	data   string
	method uint16
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		f, err := w.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		if err == nil {
			_, err = f.Write([]byte(m.data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func checkpoint(t testing.TB, pickle string, storages ...string) []byte {
	members := []member{{name: "a/data.pkl", data: pickle}, {name: "a/byteorder", data: "little"}}
	for i, s := range storages {
		members = append(members, member{name: fmt.Sprintf("a/data/%d", i), data: s})
	}
	return archive(t, members...)
}

func open(raw []byte) (*pth.File, error) { return pth.NewFile(bytes.NewReader(raw), int64(len(raw))) }

func TestForms(t *testing.T) {
	floats := func(v ...float32) string {
		raw := make([]byte, 4*len(v))
		if err := safetensors.EncodeFloats(safetensors.F32, v, raw); err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, c := range []struct {
		name    string
		pickle  string
		storage string
		want    []float32
		shape   []int
	}{
		{"part of a storage", state(str("x"), tensor(store("FloatStorage", "0", 4), 1, []int64{2}, []int64{1})), floats(1, 2, 3, 4), []float32{2, 3}, []int{2}},
		{"scalar", state(str("x"), rebuild+tup(store("FloatStorage", "0", 1), num(0), ")", ")", "\x89", ordered)+"R"), floats(5), []float32{5}, []int{}},
		{"three axes", state(str("x"), rebuild+tup(store("FloatStorage", "0", 2), num(0), num(1)+num(2)+num(1)+"\x87", num(2)+num(1)+num(1)+"\x87", "\x89", ordered)+"R"), floats(5, 6), []float32{5, 6}, []int{1, 2, 1}},
		{"stride of an axis of 1", state(str("x"), tensor(store("FloatStorage", "0", 2), 0, []int64{1, 2}, []int64{77, 1})), floats(1, 2), []float32{1, 2}, []int{1, 2}},
		{"empty", state(str("x"), tensor(store("FloatStorage", "0", 0), 0, []int64{0, 3}, []int64{3, 1})), "", []float32{}, []int{0, 3}},
		{"half", state(str("x"), tensor(store("HalfStorage", "0", 1), 0, []int64{1}, []int64{1})), "\x00\x3c", []float32{1}, []int{1}},
		{"bfloat16", state(str("x"), tensor(store("BFloat16Storage", "0", 1), 0, []int64{1}, []int64{1})), "\x80\x3f", []float32{1}, []int{1}},
		{"attributes", proto + ordered + "(" + str("x") + vector("0", 1) + "u}" + str("_metadata") + ordered + "sb.", floats(9), []float32{9}, []int{1}},
		{"plain dict", proto + "}" + str("x") + vector("0", 1) + "s.", floats(9), []float32{9}, []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := open(checkpoint(t, c.pickle, c.storage))
			if err != nil {
				t.Fatal(err)
			}
			x, ok := f.Lookup("x")
			if !ok || len(f.Tensors) != 1 || !slices.Equal(x.Shape, c.shape) {
				t.Fatalf("tensors %v", f.Tensors)
			}
			if got := values(t, f, x); !sameBits(got, c.want) {
				t.Errorf("values %v, expected %v", got, c.want)
			}
		})
	}
	f, err := open(checkpoint(t, state(str("x"), vector("0", 2)+"q\x01", str("y"), "h\x01", str("z"), tensor(store("FloatStorage", "0", 2), 1, []int64{1}, []int64{1})), floats(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors) != 3 || !sameBits(values(t, f, f.Tensors[1]), []float32{1, 2}) || !sameBits(values(t, f, f.Tensors[2]), []float32{2}) {
		t.Errorf("tensors of one storage: %v", f.Tensors)
	}
}

func TestHostile(t *testing.T) {
	one := strings.Repeat("\x00", 4)
	good := checkpoint(t, state(str("x"), vector("0", 1)), one)
	big := archive(t, member{name: "a/data.pkl", data: strings.Repeat(")", 3<<20)})
	many := func(n uint64) []byte { // the number of members in the last record
		raw := slices.Clone(good)
		binary.LittleEndian.PutUint16(raw[len(raw)-12:], uint16(n))
		return raw
	}
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"empty file", nil, "not a checkpoint"},
		{"no zip", bytes.Repeat([]byte{0x80, 2}, 100), "not written by torch.save"},
		{"truncated", good[:len(good)-30], "truncated"},
		{"count of members", many(7), "zip"},
		{"no data.pkl", archive(t, member{name: "a/b", data: ""}), "without NAME/data.pkl"},
		{"data.pkl at the top", archive(t, member{name: "data.pkl", data: ""}), "without NAME/data.pkl"},
		{"two stems", archive(t, member{name: "a/data.pkl"}, member{name: "b/data.pkl"}), "expected one data.pkl"},
		{"member twice", archive(t, member{name: "a/data.pkl"}, member{name: "a/data.pkl"}), "occurs twice"},
		{"compressed pickle", archive(t, member{name: "a/data.pkl", data: state(), method: zip.Deflate}), "compressed"},
		{"compressed storage", archive(t, member{name: "a/data.pkl", data: state(str("x"), vector("0", 1))}, member{name: "a/data/0", data: one, method: zip.Deflate}), `tensor "x": zip member "a/data/0" is compressed`},
		{"big endian", archive(t, member{name: "a/data.pkl", data: state()}, member{name: "a/byteorder", data: "big"}), `byteorder is "big"`},
		{"large pickle", big, "expected at most"},
		{"empty pickle", checkpoint(t, ""), "the text ends after 0 bytes"},
		{"pickle cut short", checkpoint(t, proto+ordered+"X\xff\xff"), "truncated"},
		{"text longer than the pickle", checkpoint(t, proto+"X\xff\xff\xff\xff"), "a text of 4294967295 bytes"},
		{"bytes behind", checkpoint(t, state()+"x"), "1 bytes follow the end"},
		{"protocol", checkpoint(t, "\x80\x04."), "pickle protocol 4"},
		{"opcode", checkpoint(t, proto+"]."), "offset 2: opcode EMPTY_LIST (0x5d)"},
		{"unknown opcode", checkpoint(t, proto+"\xff."), "opcode unknown (0xff)"},
		{"global", checkpoint(t, proto+"cos\nsystem\n"+tup(str("true"))+"R."), `offset 2: global "os.system"`},
		{"dotted trick", checkpoint(t, proto+"ctorch\nFloatStorage.__class__\n."), "has no place"},
		{"global without end", checkpoint(t, proto+"ctorch"), "no end"},
		{"double storage", checkpoint(t, state(str("x"), tensor(store("DoubleStorage", "0", 1), 0, []int64{1}, []int64{1}))), `"torch.DoubleStorage"`},
		{"call of a storage type", checkpoint(t, proto+"ctorch\nFloatStorage\n)R."), "the global torch.FloatStorage is called"},
		{"call of a text", checkpoint(t, proto+str("f")+")R."), "a string is called"},
		{"arguments", checkpoint(t, proto+rebuild+tup(num(1))+"R."), "has 1 arguments"},
		{"shape of texts", checkpoint(t, proto+rebuild+tup(store("FloatStorage", "0", 1), num(0), tup(str("1")), nums(1), "\x89", ordered)+"R."), "are not (storage"},
		{"persistent id", checkpoint(t, proto+tup(str("module"), num(1))+"Q."), "persistent id"},
		{"memo", checkpoint(t, proto+"h\x05."), "memo 5 was never set"},
		{"stack underflow", checkpoint(t, proto+"\x86."), "2 values are needed, 0"},
		{"across a mark", checkpoint(t, proto+")()\x86."), "2 values are needed, 1"},
		{"tuple without mark", checkpoint(t, proto+"t."), "no mark"},
		{"nothing left", checkpoint(t, proto+"."), "0 values"},
		{"deep marks", checkpoint(t, proto+strings.Repeat("(", 1<<17)), "on the stack"},
		{"deep tuples", checkpoint(t, proto+")"+strings.Repeat("\x85", 1<<20)+"."), "holds a tuple"},
		{"wide stack", checkpoint(t, proto+strings.Repeat("}", 1<<17)), "on the stack"},
		{"dict in itself", checkpoint(t, proto+"}q\x00"+str("x")+"h\x00s."), `tensor "x": is a dict`},
		{"metadata in itself", checkpoint(t, proto+ordered+"q\x00h\x00b."), ""},
		{"nested", checkpoint(t, state(str("model"), ordered)), "only a flat state dict"},
		{"not a dict", checkpoint(t, proto+num(1)+"."), "holds a number"},
		{"keys", checkpoint(t, proto+ordered+num(1)+num(2)+"s."), "a key of a dict is a number"},
		{"key twice", checkpoint(t, state(str("x"), vector("0", 1), str("x"), vector("0", 1)), one), `key "x" occurs twice`},
		{"odd items", checkpoint(t, state(str("x"))), "pairs on a dict"},
		{"no storage", checkpoint(t, state(str("x"), vector("0", 1))), `tensor "x": its storage "0" is not in the zip`},
		{"path trick", checkpoint(t, state(str("x"), vector("../data.pkl", 1))), "is not in the zip"},
		{"storage size", checkpoint(t, state(str("x"), vector("0", 2)), one), "has 4 bytes, expected 2 values"},
		{"huge storage", checkpoint(t, state(str("x"), vector("0", math.MaxInt64)), one), "has 4 bytes"},
		{"negative count", checkpoint(t, state(str("x"), vector("0", -1)), one), "persistent id"},
		{"beyond the storage", checkpoint(t, state(str("x"), tensor(store("FloatStorage", "0", 1), 1, []int64{1}, []int64{1})), one), "exceeds its storage"},
		{"offset", checkpoint(t, state(str("x"), tensor(store("FloatStorage", "0", 1), math.MaxInt64, []int64{1}, []int64{1})), one), "exceeds its storage"},
		{"shape", checkpoint(t, state(str("x"), tensor(store("FloatStorage", "0", 1), 0, []int64{1 << 30, 1 << 30, 1 << 30}, []int64{1, 1, 1})), one), "out of range"},
		{"transposed", checkpoint(t, state(str("x"), tensor(store("FloatStorage", "0", 4), 0, []int64{2, 2}, []int64{1, 2})), one+one+one+one), "only contiguous"},
		{"expanded", checkpoint(t, state(str("x"), tensor(store("FloatStorage", "0", 4), 0, []int64{2, 2}, []int64{0, 1})), one+one+one+one), "only contiguous"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(c.raw)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, expected an error of one line with %q", err, c.want)
			}
		})
	}
}

// Any cut of a real file is an error, not a panic, and never a tensor beyond the file.
func TestTruncated(t *testing.T) {
	raw, err := os.ReadFile(golden.Path("pth", "official", "math7B_Competition_Math.pt"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(raw); n += 97 {
		if _, err := open(raw[:n]); err == nil {
			t.Fatalf("%d of %d bytes gave no error", n, len(raw))
		}
	}
}

// A file with more than 4 GiB of values, mostly holes: only zip64 can describe it.
func TestZip64(t *testing.T) {
	const count = 1<<30 + 16 // 4 GiB and 64 bytes
	f, err := os.Create(filepath.Join(t.TempDir(), "big.pth"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	le := binary.LittleEndian
	var directory []byte
	at, members := int64(0), uint64(0)
	add := func(name string, data string, size int64) {
		t.Helper()
		flags := le.AppendUint16(nil, 0x0808)
		head := append(append([]byte("PK\x03\x04\x00\x00"), flags...), make([]byte, 18)...)
		head = append(le.AppendUint16(head, uint16(len(name))), 0, 0)
		head = append(head, name...)
		if _, err := f.WriteAt(append(head, data...), at); err != nil {
			t.Fatal(err)
		}
		entry := append(append([]byte("PK\x01\x02\x00\x00\x00\x00"), flags...), make([]byte, 10)...)
		entry = le.AppendUint32(le.AppendUint32(entry, 0xffffffff), 0xffffffff)
		entry = le.AppendUint16(le.AppendUint16(entry, uint16(len(name))), 28)
		entry = append(entry, make([]byte, 10)...)
		entry = append(le.AppendUint32(entry, 0xffffffff), name...)
		entry = le.AppendUint16(le.AppendUint16(entry, 1), 24)
		entry = le.AppendUint64(le.AppendUint64(le.AppendUint64(entry, uint64(size)), uint64(size)), uint64(at))
		directory = append(directory, entry...)
		at += int64(len(head)) + size
		members++
	}
	pickle := state(str("big"), vector("0", count), str("small"), vector("1", 1))
	add("big/data.pkl", pickle, int64(len(pickle)))
	big := at
	add("big/data/0", "", 4*count)
	last := at - 4
	add("big/data/1", "\x00\x00\x80\x3f", 4)
	end := le.AppendUint64([]byte("PK\x06\x06"), 44)
	end = append(end, make([]byte, 12)...)
	end = le.AppendUint64(le.AppendUint64(end, members), members)
	end = le.AppendUint64(le.AppendUint64(end, uint64(len(directory))), uint64(at))
	end = append(end, "PK\x06\x07\x00\x00\x00\x00"...)
	end = le.AppendUint32(le.AppendUint64(end, uint64(at)+uint64(len(directory))), 1)
	end = append(end, "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"...)
	if _, err := f.WriteAt(append(directory, end...), at); err != nil {
		t.Skipf("the file system keeps no file of 4 GiB with holes: %v", err)
	}
	if _, err := f.WriteAt([]byte("\x00\x00\x00\x40"), last); err != nil {
		t.Fatal(err)
	}
	got, err := pth.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	x, _ := got.Lookup("big")
	if x.Bytes != 4*count || x.Offset <= big || x.Shape[0] != count {
		t.Fatalf("big is %v", x)
	}
	p := make([]byte, 4)
	if err := got.ReadRange("big", 4*count-4, p); err != nil || le.Uint32(p) != 0x40000000 {
		t.Errorf("last value %x, %v", p, err)
	}
	small, _ := got.Lookup("small")
	if v := values(t, got, small); v[0] != 1 {
		t.Errorf("small is %v", v)
	}
}

func TestReadRange(t *testing.T) {
	f, err := open(checkpoint(t, state(str("x"), vector("0", 1)), "\x00\x00\x80\x3f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ReadRange("y", 0, nil); !errors.Is(err, safetensors.ErrNoTensor) {
		t.Errorf("got %v", err)
	}
	if err := f.ReadRange("x", 2, make([]byte, 4)); err == nil {
		t.Error("a range beyond the tensor gave no error")
	}
}

func FuzzOpen(f *testing.F) {
	raw, err := os.ReadFile(golden.Path("pth", "criterion_weight.pt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(checkpoint(f, state(str("x"), vector("0", 1)), "\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) { check(t, raw) })
}

// FuzzPickle changes the pickle alone: a fuzzer seldom gets past a zip's checks.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(state(str("x"), vector("0", 1))))
	f.Add([]byte(state(str("x"), tensor(store("HalfStorage", "0", 2), 1, []int64{1, 1}, []int64{1, 1}))))
	f.Add([]byte(proto + ordered + "q\x00}" + str("_metadata") + "h\x00sb."))
	f.Fuzz(func(t *testing.T, pickle []byte) { check(t, checkpoint(t, string(pickle), "\x00\x00\x00\x00")) })
}

// check opens a file and reads the ends of every tensor that it lists.
func check(t *testing.T, raw []byte) {
	f, err := open(raw)
	if err != nil {
		return
	}
	for _, x := range f.Tensors {
		if x.Offset < 0 || x.Bytes < 0 || x.Offset+x.Bytes > int64(len(raw)) || x.Bytes != x.Elements()*x.DType.Size() {
			t.Fatalf("tensor %v in a file of %d bytes", x, len(raw))
		}
		if err := f.ReadRange(x.Name, x.Bytes-min(x.Bytes, 4), make([]byte, min(x.Bytes, 4))); err != nil {
			t.Fatal(err)
		}
	}
}

func ExampleOpen() {
	f, err := pth.Open(golden.Path("pth", "qwen1.5lora__golden500.pth"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	for _, t := range f.Tensors[:3] {
		fmt.Println(t.Name, t.DType, t.Shape)
	}
	// Output:
	// criterion_weight F32 [1 6 1 1]
	// model.decoder.module_list.0.linear1.bias F32 [5 6]
	// model.decoder.module_list.0.linear1.norm.weight F32 [8 6]
}
