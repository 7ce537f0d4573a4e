// Package bench_test holds bench/pytorch.py to the official code's outputs and to this
// project's shapes.
package bench_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
)

func run(t *testing.T, args ...string) string {
	t.Helper()
	python := os.Getenv("DND_PYTHON")
	if python == "" {
		python = filepath.Join("..", "build", "deps", "venv", "bin", "python")
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: make deps puts it there, or name a Python with torch in DND_PYTHON", err)
	}
	out, err := exec.CommandContext(t.Context(), python, append([]string{"pytorch.py"}, args...)...).Output()
	if err != nil {
		t.Fatalf("pytorch.py %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestGoldens(t *testing.T) {
	out := run(t, "--check", golden.Path("decoders"))
	if n := strings.Count(out, "largest difference"); n < 5 {
		t.Errorf("%d decoders were checked: %s", n, out)
	}
}

func TestShapes(t *testing.T) {
	var shapes map[string]decoder.Config
	if err := json.Unmarshal([]byte(run(t, "--list")), &shapes); err != nil {
		t.Fatal(err)
	}
	names := generator.Shapes()
	if len(names) != len(shapes) {
		t.Errorf("%d shapes, expected %d", len(shapes), len(names))
	}
	for _, name := range names {
		want, _, _, err := generator.Shape(name)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(shapes[name], want) {
			t.Errorf("%s is %+v, expected %+v", name, shapes[name], want)
		}
	}
}
