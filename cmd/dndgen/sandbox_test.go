package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/internal/guestwasm"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// dndWASM is the guest as a file.
func dndWASM(t testing.TB) string {
	t.Helper()
	raw, err := guestwasm.Build()
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "dnd.wasm", string(raw))
}

// With the guest, an adapter has the bytes that it has without.
func TestGenerateWazero(t *testing.T) {
	// The guest's cache is the test's own, the drivers' compiled kernels stay where they are.
	if dir, err := os.UserCacheDir(); err == nil && os.Getenv("MESA_SHADER_CACHE_DIR") == "" {
		t.Setenv("MESA_SHADER_CACHE_DIR", dir)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p, guest := madeup.Open(t), dndWASM(t)
	prompts := write(t, "p.jsonl", `{"q": "What is the capital of France?"}`+"\n"+`{"q": "Name a colour."}`+"\n")
	for weights, format := range map[string]string{"f32": lora.PEFT, "f16": lora.GGUF, "q8": lora.MLX, "q4": lora.PEFT} {
		args := []string{"generate", "--quiet", "--json", "--backend", "webgpu", "--weights", weights, "--generator", p.Dir, "--prompts", prompts, "--field", "q",
			"--format", format, "--seed", "-5", "--draws", "2"}
		var results [2]generated
		var outs [2]string
		for i, host := range [][]string{{"--host", "native"}, {"--host", "wazero", "--guest", guest}} {
			outs[i] = filepath.Join(t.TempDir(), "adapters")
			clitest.JSON(t, &results[i], append(append(args, host...), "--out", outs[i])...)
		}
		for i, d := range results[0].Draws {
			other := results[1].Draws[i]
			if len(d.Files) < 2 || len(d.Files) != len(other.Files) || len(d.Layers) != len(other.Layers) || d.Layers[1] != other.Layers[1] {
				t.Errorf("%s: %+v natively, %+v with the guest", format, d, other)
			}
			for _, name := range d.Files {
				a, err := os.ReadFile(filepath.Join(d.Dir, name))
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(other.Dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if string(a) != string(b) {
					t.Errorf("%s: %s differs between native and wazero", format, name)
				}
			}
		}
	}
	// Where the device's memory does not suffice, either computes in smaller pieces and says so.
	for _, host := range [][]string{{"--host", "native"}, {"--host", "wazero", "--guest", guest}} {
		args := []string{"generate", "--backend", "webgpu", "--generator", p.Dir, "--prompts", prompts, "--field", "q", "--memory", "1000000", "--out", filepath.Join(t.TempDir(), "a")}
		if r := clitest.OK(t, append(args, host...)...); !strings.Contains(r.Stderr, "in pieces of at most") {
			t.Errorf("%q says %q", host, r.Stderr)
		}
	}
}

func TestGenerateWazeroErrors(t *testing.T) {
	p := madeup.Open(t)
	prompts := write(t, "p.txt", "a\n")
	generate := func(code int, words []string, args ...string) {
		t.Helper()
		bad(t, code, words, append([]string{"generate", "--generator", p.Dir, "--prompts", prompts}, args...)...)
	}
	generate(2, []string{"--host"}, "--host", "docker")
	generate(2, []string{"--backend cpu"}, "--host", "wazero", "--backend", "cpu")
	generate(2, []string{"--guest"}, "--guest", "dnd.wasm")
	generate(1, []string{"missing.wasm"}, "--host", "wazero", "--guest", "missing.wasm")
	generate(1, []string{"guest"}, "--host", "wazero", "--guest", write(t, "bad.wasm", "\x00asm\x01\x00\x00\x00"))
	generate(1, []string{"guest", "magic"}, "--host", "wazero", "--guest", prompts)
}
