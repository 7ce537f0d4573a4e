package generator_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// layoutFile writes a golden's layout with some keys set.
func layoutFile(t testing.TB, name string, set map[string]any) string {
	t.Helper()
	raw, err := os.ReadFile(golden.Path("decoders", name, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var l map[string]any
	if err := json.Unmarshal(raw, &l); err != nil {
		t.Fatal(err)
	}
	for k, v := range set {
		l[k] = v
	}
	if raw, err = json.Marshal(l); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layout.json")
	write(t, path, raw)
	return path
}

func TestImportCheckpoints(t *testing.T) {
	for _, c := range []struct{ file, decoder string }{
		{golden.Path("pth", "qwen0.5lora__golden1000.pth"), "fullcond_k5"},
		{golden.Path("pth", "qwen1.5lora__golden500.pth"), "superlarge_k11"},
		{golden.Path("decoders", "fullcond_k4_even", "model.safetensors"), "fullcond_k4_even"},
		{golden.Path("decoders", "fullcond_k9", "model.safetensors"), "fullcond_k9"},
	} {
		t.Run(filepath.Base(c.file), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			last := int64(0)
			m, err := generator.Import(context.Background(), generator.ImportOptions{
				Checkpoint: c.file, Layout: golden.Path("decoders", c.decoder, "config.json"), Out: out,
				WriteOptions: generator.WriteOptions{Progress: func(done, total int64) {
					if done < last || done > total {
						t.Errorf("progress %d after %d of %d", done, last, total)
					}
					last = done
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(c.file)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("imported from %s, SHA-256 %x", filepath.Base(c.file), sha256.Sum256(raw)); m.Provenance.Source != want {
				t.Errorf("provenance %q, expected %q", m.Provenance.Source, want)
			}
			if last != 2*int64(len(raw)) || m.Complete() == nil || m.Tiling.Kind != "" || m.Base != nil {
				t.Errorf("progress ends at %d of %d; manifest %+v", last, 2*len(raw), m)
			}
			if _, err := generator.Verify(context.Background(), out, nil); err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join(out, "decoder.safetensors"), golden.Path("decoders", c.decoder, "model.safetensors"))
		})
	}
}

// compare checks that two files hold the same tensors, bit for bit.
func compare(t *testing.T, path, want string) {
	t.Helper()
	a, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := safetensors.Open(want)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(a.Tensors) != len(b.Tensors) {
		t.Fatalf("%d tensors, expected %d", len(a.Tensors), len(b.Tensors))
	}
	for _, x := range b.Tensors {
		y, _ := a.Lookup(x.Name)
		p, q := make([]byte, y.Bytes), make([]byte, x.Bytes)
		if err := errors.Join(a.ReadRange(x.Name, 0, p), b.ReadRange(x.Name, 0, q)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, q) || !slices.Equal(x.Shape, y.Shape) || x.DType != y.DType {
			t.Errorf("%s differs", x.Name)
		}
	}
}

// The golden chain: a decoder for a base of one layer, with its donor and an encoder.
func TestImportWhole(t *testing.T) {
	enc := tinyEncoder(t, func(c map[string]any, _ []safetensors.Tensor) []safetensors.Tensor {
		c["hidden_size"], c["num_attention_heads"] = 6, 2
		return bertTensors(t, c)
	})
	out := filepath.Join(t.TempDir(), "out")
	m, err := generator.Import(context.Background(), generator.ImportOptions{
		Checkpoint: golden.Path("decoders", "mini_qwen_k3", "model.safetensors"),
		Layout:     layoutFile(t, "mini_qwen_k3", map[string]any{"tokenizer": "0.5B", "token_size": []int{10, 10}}),
		Donor:      golden.Path("tokens", "chain", "donor.safetensors"),
		Encoder:    enc, EncoderID: "someone/tiny", Out: out, Name: "chain",
		WriteOptions: generator.WriteOptions{DType: safetensors.F16},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Complete(); err != nil {
		t.Error(err)
	}
	if m.Name != "chain" || m.Encoder.ID != "someone/tiny" || m.Tiling.Kind != lora.Qwen05B || len(m.Base.Targets) != 7 || m.Base.Rank != 8 {
		t.Errorf("manifest %+v", m)
	}
	if s := openPackage(t, out).Summary(); !slices.Equal(s.Decoder.DTypes, []safetensors.DType{safetensors.F16}) {
		t.Errorf("decoder stored as %v", s.Decoder.DTypes)
	}
	raw, err := os.ReadFile(filepath.Join(out, generator.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{out, filepath.Dir(enc), golden.Path()} {
		if bytes.Contains(raw, []byte(private)) {
			t.Errorf("the manifest names %s", private)
		}
	}
}

func TestImportErrors(t *testing.T) {
	chain := golden.Path("decoders", "mini_qwen_k3", "model.safetensors")
	kind := layoutFile(t, "mini_qwen_k3", map[string]any{"tokenizer": lora.Qwen05B})
	donor := golden.Path("tokens", "chain", "donor.safetensors")
	for _, c := range []struct {
		name string
		o    generator.ImportOptions
		want []string
	}{
		{"no checkpoint", generator.ImportOptions{Checkpoint: "none.pth", Layout: kind}, []string{"none.pth"}},
		{"no layout", generator.ImportOptions{Checkpoint: chain, Layout: "none.json"}, []string{"none.json"}},
		{"no donor", generator.ImportOptions{Checkpoint: chain, Layout: kind, Donor: "none"}, []string{"none"}},
		{"no encoder", generator.ImportOptions{Checkpoint: chain, Layout: kind, Encoder: "none"}, []string{"none", "Hugging Face layout"}},
		{"donor of two layers", generator.ImportOptions{Checkpoint: chain, Layout: kind, Donor: golden.Path("tokens", "mini_0.5B")}, []string{"mini_0.5B", "make 358 tokens of (10,10), but the decoder makes 179 of (10,10)"}},
		{"donor of another rank", generator.ImportOptions{Checkpoint: chain, Layout: kind, Donor: golden.Path("tokens", "mini_7B", "adapter_model.safetensors")}, []string{"mini_7B", "rank 16"}},
		{"donor without tokenizer", generator.ImportOptions{Checkpoint: chain, Layout: layoutFile(t, "mini_qwen_k3", nil), Donor: donor}, []string{"names no tokenizer"}},
		{"encoder of another width", generator.ImportOptions{Checkpoint: chain, Layout: kind, Donor: donor, Encoder: tinyEncoder(t, nil)}, []string{"encoder of width 384, but the condition has width 6"}},
		{"another layout", generator.ImportOptions{Checkpoint: chain, Layout: layoutFile(t, "fullcond_k5", nil)}, []string{"missing tensors: ", "module_list.3.linear2.bias [9]", "wrong tensors: ", "has shape [8 6], expected [7 6]"}},
		{"missing layers", generator.ImportOptions{Checkpoint: golden.Path("decoders", "fullcond_k5", "model.safetensors"), Layout: layoutFile(t, "fullcond_k5", map[string]any{"features": [][3]int{{4, 7, 6}, {4, 7, 6}, {9, 4, 6}}})}, []string{"unexpected tensors: ", "module_list.3.linear2.bias [9]"}},
		{"a single tensor", generator.ImportOptions{Checkpoint: golden.Path("pth", "criterion_weight.pt"), Layout: kind}, []string{"missing tensors", "unexpected tensors"}},
		{"not a checkpoint", generator.ImportOptions{Checkpoint: kind, Layout: kind}, []string{"layout.json", "not written by torch.save"}},
		{"type", generator.ImportOptions{Checkpoint: chain, Layout: kind, WriteOptions: generator.WriteOptions{DType: "I8"}}, []string{`"I8"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Out = filepath.Join(t.TempDir(), "out")
			_, err := generator.Import(context.Background(), c.o)
			wantError(t, err, c.want...)
			empty(t, c.o.Out)
		})
	}
}

// A wrapped model's prefix goes, the encoder's weights are ignored, NaN is refused.
func TestImportStateDicts(t *testing.T) {
	const name = "fullcond_k5"
	src, err := safetensors.Open(golden.Path("decoders", name, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	state := func(change func(key string, values []float32) string) string {
		var list []safetensors.Tensor
		for _, x := range src.Tensors {
			values, err := src.Float32s(x.Name)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, safetensors.FromFloat32s(change(x.Name, values), safetensors.F32, values, x.Shape...))
		}
		list = append(list, safetensors.FromFloat32s("condition_module.x", safetensors.F32, []float32{1}, 1))
		path := filepath.Join(t.TempDir(), "state.safetensors")
		if err := safetensors.WriteFile(path, list, nil); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(path string) (string, error) {
		out := filepath.Join(t.TempDir(), "out")
		_, err := generator.Import(context.Background(), generator.ImportOptions{Checkpoint: path, Layout: golden.Path("decoders", name, "config.json"), Out: out})
		return out, err
	}
	out, err := run(state(func(key string, _ []float32) string { return "module." + key }))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(out, "decoder.safetensors"), golden.Path("decoders", name, "model.safetensors"))
	const key = "model.decoder.module_list.2.linear1.bias"
	out, err = run(state(func(k string, values []float32) string {
		if k == key {
			zero := float32(0)
			values[3] = zero / zero
		}
		return k
	}))
	wantError(t, err, key, "value 3 is NaN")
	empty(t, out)
}

// A checkpoint goes through memory in pieces.
func TestImportMemory(t *testing.T) {
	c := decoder.Config{Class: decoder.FullCond, KernelSize: 9, Features: [][3]int{{4, 16, 128}, {4, 16, 128}, {8, 6, 6}}}
	layout, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "layout.json"), layout)
	checkpoint := filepath.Join(dir, "state.safetensors")
	if err := safetensors.WriteFile(checkpoint, generator.MadeUpTensors(c, 1), nil); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	peak := uint64(0)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	_, err = generator.Import(context.Background(), generator.ImportOptions{
		Checkpoint: checkpoint, Layout: filepath.Join(dir, "layout.json"), Out: filepath.Join(dir, "out"),
		WriteOptions: generator.WriteOptions{DType: safetensors.F16, Progress: func(done, _ int64) {
			runtime.GC() // what is held counts, not how late a busy machine frees the rest
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if used := int64(peak) - int64(before.HeapAlloc); used > st.Size()/4 || st.Size() < 10<<20 {
		t.Errorf("importing %d bytes took %d bytes of memory", st.Size(), used)
	}
}

func TestImportCancelled(t *testing.T) {
	for _, when := range []float64{0, 0.5} { // while hashing, while writing
		ctx, cancel := context.WithCancel(context.Background())
		out := filepath.Join(t.TempDir(), "out")
		_, err := generator.Import(ctx, generator.ImportOptions{
			Checkpoint: golden.Path("pth", "qwen1.5lora__golden500.pth"), Layout: golden.Path("decoders", "superlarge_k11", "config.json"), Out: out,
			WriteOptions: generator.WriteOptions{Progress: func(done, total int64) {
				if float64(done) >= when*float64(total) {
					cancel()
				}
			}},
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		empty(t, out)
		cancel()
	}
}

func TestLayouts(t *testing.T) {
	ok := `"class":"HyperConvDecoderModel_FullCond","features":[[2,8,6],[179,10,10]],"kernel_size":3`
	for _, c := range []struct{ name, text, want string }{
		{"plain", `{` + ok + `}`, ""},
		{"nulls", `{` + ok + `,"max_length":null,"modified_length":null,"residual":[false],"note":{}}`, ""},
		{"alias", `{` + ok + `,"tokenizer":"3b-vl","token_size":[10,10]}`, ""},
		{"custom", `{` + ok + `,"tokenizer":"custom","chunk":8}`, ""},
		{"affine", `{` + ok + `,"affine":true}`, ""},
		{"basis", `{"class":"HyperConvDecoderModel_FullCond","features":[[2,8,6],[1,1,5]],"tokens":[179,10,10],"kernel_size":3}`, ""},
		{"tokens of two axes", `{` + ok + `,"tokens":[179,100]}`, "tokens is [179 100]"},
		{"tokens of nothing", `{` + ok + `,"tokens":[0,0,0]}`, "tokens is [0 0 0]"},
		{"empty", ``, "line 1"},
		{"list", `[]`, "layout: "},
		{"no class", `{}`, `class ""`},
		{"axes", `{"class":"HyperConvDecoderModel_FullCond","features":[[2,8],[1,4,4]],"kernel_size":3}`, "features 0 has 2 axes"},
		{"kernel", strings.Replace(`{`+ok+`}`, `:3`, `:0`, 1), "kernel size 0"},
		{"huge", strings.Replace(`{`+ok+`}`, `179`, `99999999999999`, 1), "too large"},
		{"fraction", strings.Replace(`{`+ok+`}`, `179`, `1.5`, 1), "line 1"},
		{"no lengths", strings.Replace(`{`+ok+`}`, `FullCond`, `SuperLarge`, 1), "max_length 0"},
		{"tokenizer", `{` + ok + `,"tokenizer":"8B"}`, `unknown tiling "8B"`},
		{"token size", `{` + ok + `,"token_size":[10,12]}`, "token_size is [10 12]"},
		{"custom without chunk", `{` + ok + `,"tokenizer":"custom"}`, "chunk is 0"},
		{"chunk without custom", `{` + ok + `,"tokenizer":"7B","chunk":8}`, "chunk is 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := generator.ParseLayout([]byte(c.text))
			if c.want != "" {
				wantError(t, err, c.want)
			} else if err != nil || l.Decoder.Output() != [3]int{179, 10, 10} || l.Tiling.Height != 10 {
				t.Errorf("%+v, %v", l, err)
			}
		})
	}
}

func FuzzLayout(f *testing.F) {
	for _, name := range []string{"fullcond_k5", "superlarge_k11", "mini_qwen_k3"} {
		raw, err := os.ReadFile(golden.Path("decoders", name, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"class":"HyperConvDecoderModel_FullCond","features":[[2,8,6],[179,10,10]],"kernel_size":3,"tokenizer":"custom","chunk":8}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := generator.ParseLayout(raw)
		if err != nil {
			return
		}
		if err := l.Decoder.Validate(); err != nil {
			t.Fatal(err)
		}
		if l.Decoder.Class == decoder.FullCond && l.Decoder.MaxLength != 0 {
			t.Fatalf("%+v", l.Decoder)
		}
	})
}

func ExampleImport() {
	tmp, err := os.MkdirTemp("", "generator")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(tmp)
	m, err := generator.Import(context.Background(), generator.ImportOptions{
		Checkpoint: golden.Path("pth", "qwen1.5lora__golden500.pth"),
		Layout:     golden.Path("decoders", "superlarge_k11", "config.json"),
		Out:        filepath.Join(tmp, "package"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Name, m.Condition)
	for _, f := range m.Files {
		fmt.Println(f.Path, f.Bytes)
	}
	fmt.Println(m.Complete())
	// Output:
	// qwen1.5lora__golden500 {3 20 6 encoded}
	// decoder.safetensors 143624
	// qwen1.5lora__golden500: the generator has no text encoder: import it with --encoder, or give it a condition
}
