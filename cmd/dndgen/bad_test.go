package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

// bad runs a command that must fail with one line, and leave nothing at --out.
func bad(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	parent := t.TempDir()
	args = append(args, "--quiet", "--out", filepath.Join(parent, "out"))
	clitest.Fails(t, code, words, args...)
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("%q left behind %v, %v", args, left, err)
	}
}

// edit changes generator.json of a package.
func edit(t *testing.T, dir string, change func(m map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, generator.ManifestName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// patch overwrites bytes of a file.
func patch(t *testing.T, path string, off int64, raw []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(raw, off); err != nil {
		t.Fatal(err)
	}
}

func TestBadPrompts(t *testing.T) {
	dir := small(t)
	for _, c := range []struct {
		name, file, text string
		words            []string
	}{
		{"empty", "p.txt", "", []string{"p.txt", "no prompt"}},
		{"blank lines", "p.txt", "\n \n", []string{"p.txt"}},
		{"bad UTF-8", "p.txt", "good\nb\xffd\n", []string{"p.txt", "line 2", "UTF-8"}},
		{"not JSON", "p.json", "[\"a\",\n", []string{"p.json"}},
		{"no array", "p.json", "{}", []string{"p.json"}},
		{"numbers", "p.json", "[1, 2]", []string{"p.json"}},
		{"no such field", "p.jsonl", `{"text": "a"}`, []string{"p.jsonl", "prompt"}},
		{"unknown kind", "p.parquet", "PAR1", []string{"p.parquet"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad(t, 1, c.words, "generate", "--generator", dir, "--prompts", write(t, c.file, c.text))
			bad(t, 1, c.words, "encode", "--encoder", minilm, "--length", "8", "--prompts", write(t, c.file, c.text))
		})
	}
	bad(t, 1, []string{"nowhere.txt"}, "generate", "--generator", dir, "--prompts", "nowhere.txt")
}

func TestBadGenerators(t *testing.T) {
	decoder := "decoder.safetensors"
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		words []string
	}{
		{"no manifest", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, generator.ManifestName)) }, []string{generator.ManifestName}},
		{"empty manifest", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, generator.ManifestName), 0) }, []string{generator.ManifestName}},
		{"other version", func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["format_version"] = 2 })
		}, []string{generator.ManifestName, "format_version 2"}},
		{"mistyped", func(t *testing.T, dir string) { edit(t, dir, func(m map[string]any) { m["condition"] = "large" }) }, []string{generator.ManifestName, "condition"}},
		{"unknown field", func(t *testing.T, dir string) { edit(t, dir, func(m map[string]any) { m["colour"] = "red" }) }, []string{generator.ManifestName, "colour"}},
		{"contradictory", func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["condition"].(map[string]any)["length"] = 17 })
		}, []string{generator.ManifestName, "17"}},
		{"huge", func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) {
				m["decoder"].(map[string]any)["features"] = [][3]int64{{1 << 40, 1 << 40, 384}, {1 << 40, 12, 24}}
			})
		}, []string{generator.ManifestName}},
		{"path outside", func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["path"] = "../../etc/passwd" })
		}, []string{"passwd"}},
		{"no weights", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, decoder)) }, []string{decoder}},
		{"truncated weights", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, decoder), 1000) }, []string{decoder, "1000"}},
		{"header longer than the file", func(t *testing.T, dir string) {
			patch(t, filepath.Join(dir, decoder), 0, []byte{255, 255, 255, 255, 255, 255, 255, 127})
		}, []string{decoder}},
		{"no vocabulary", func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "encoder", "tokenizer.json"), []byte("{}"), 0o644)
		}, []string{"tokenizer.json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := small(t)
			c.spoil(t, dir)
			words := append([]string{dir}, c.words...)
			bad(t, 1, words, "generate", "--backend", "cpu", "--generator", dir, "--prompts", write(t, "p.txt", "a"))
			clitest.Fails(t, 1, words, "verify", "--quiet", dir)
		})
	}
	bad(t, 1, []string{"nowhere"}, "generate", "--generator", "nowhere", "--prompts", write(t, "p.txt", "a"))
}

// NaN weights are found by every backend on the way, and by verify.
func TestNaNWeights(t *testing.T) {
	dir := small(t)
	path := filepath.Join(dir, "decoder.safetensors")
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info := f.Tensors[len(f.Tensors)/2]
	f.Close()
	patch(t, path, info.Offset+8, binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN()))))
	words := []string{"decoder.safetensors", info.Name, "NaN"}
	for _, backend := range tested {
		bad(t, 1, words, "generate", "--backend", backend, "--generator", dir, "--prompts", write(t, "p.txt", "a"))
	}
	clitest.Fails(t, 1, words, "verify", "--quiet", dir)
}

func TestBadConditions(t *testing.T) {
	dir := small(t)
	file := func(name string, values []float32, shape ...int) string {
		path := filepath.Join(t.TempDir(), "condition.safetensors")
		if err := safetensors.WriteFile(path, []safetensors.Tensor{safetensors.FromFloat32s(name, safetensors.F32, values, shape...)}, nil); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := make([]float32, 4*16*384)
	nan := append([]float32(nil), good...)
	nan[5] = float32(math.NaN())
	for _, c := range []struct {
		name, path string
		words      []string
	}{
		{"other tensor", file("x", good, 1, 4, 16, 384), []string{"condition"}},
		{"other shape", file("condition", good, 1, 16, 4, 384), []string{"[1 16 4 384]", "(B,4,16,384)"}},
		{"NaN", file("condition", nan, 1, 4, 16, 384), []string{"value 5", "NaN"}},
		{"truncated", write(t, "condition.safetensors", "\x10\x00\x00\x00\x00\x00\x00\x00{\"condition\""), nil},
		{"missing", filepath.Join("nowhere", "condition.safetensors"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad(t, 1, append(c.words, c.path), "decode", "--backend", "cpu", "--generator", dir, "--condition", c.path)
		})
	}
}

func TestBadImports(t *testing.T) {
	pth := golden.Path("pth", "qwen0.5lora__golden1000.pth")
	layout := golden.Path("decoders", "fullcond_k5", "config.json")
	raw, err := os.ReadFile(pth)
	if err != nil {
		t.Fatal(err)
	}
	half := write(t, "half.pth", string(raw[:len(raw)/2]))
	bad(t, 1, []string{half}, "import", "--pth", half, "--layout", layout)
	text := write(t, "text.pth", "hello")
	bad(t, 1, []string{text}, "import", "--pth", text, "--layout", layout)
	bad(t, 1, []string{"nowhere.pth"}, "import", "--pth", "nowhere.pth", "--layout", layout)
	bad(t, 1, []string{pth, "model.decoder.module_list.0"}, "import", "--pth", pth, "--layout", golden.Path("decoders", "fullcond_k9", "config.json"))
	for name, text := range map[string]string{
		"not JSON":     "{",
		"no class":     "{}",
		"other class":  `{"class": "X", "features": [[1,2,3],[1,2,3]], "kernel_size": 3}`,
		"mistyped":     `{"class": "HyperConvDecoderModel_FullCond", "features": "all", "kernel_size": 3}`,
		"huge":         `{"class": "HyperConvDecoderModel_FullCond", "features": [[999999999,999999999,999999999],[999999999,999999999,999999999]], "kernel_size": 3}`,
		"other tokens": strings.Replace(string(mustRead(t, layout)), `"class"`, `"tokenizer": "nonsense", "class"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "layout.json", text)
			bad(t, 1, []string{path}, "import", "--pth", pth, "--layout", path)
		})
	}
	// A donor whose matrices do not make the decoder's tokens.
	with := write(t, "layout.json", strings.Replace(string(mustRead(t, layout)), `"class"`, `"tokenizer": "0.5B", "class"`, 1))
	bad(t, 1, []string{"mini_0.5B"}, "import", "--pth", pth, "--layout", with, "--donor", golden.Path("tokens", "mini_0.5B"))
	bad(t, 1, []string{"nowhere"}, "import", "--pth", pth, "--layout", layout, "--encoder", "nowhere")
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBadFlags(t *testing.T) {
	dir := small(t)
	prompts := write(t, "p.txt", "a")
	for _, args := range [][]string{
		{"generate"},
		{"generate", "--prompts", prompts, "--backend", "abacus"},
		{"generate", "--prompts", prompts, "--format", "zip"},
		{"generate", "--prompts", prompts, "--weights", "q2"},
		{"generate", "--prompts", prompts, "--draws", "0"},
		{"generate", "--prompts", prompts, "--draws", "many"},
		{"generate", "--prompts", prompts, "--memory", "-1"},
		{"encode", "--encoder", minilm},
		{"encode", "--encoder", minilm, "--prompts", prompts, "--count", "-1"},
		{"encode", "--encoder", minilm, "--prompts", prompts, "--length", "0"},
		{"decode", "--generator", dir},
		{"import", "--pth", "x.pth"},
		{"madeup"},
		{"madeup", "--shape", "round"},
	} {
		bad(t, 2, nil, args...)
	}
	bad(t, 1, []string{"99"}, "generate", "--generator", dir, "--prompts", prompts, "--backend", "webgpu", "--device", "99")
	// A folder with files of somebody else's stays as it is.
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "thesis.tex"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	clitest.Fails(t, 1, []string{out, "thesis.tex"}, "generate", "--quiet", "--generator", dir, "--prompts", prompts, "--out", out)
}
