package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/eval"
)

// guideTasks writes the tasks that docs/training.md takes as an example, and four more to train on.
func guideTasks(t *testing.T, dir string) {
	t.Helper()
	save := func(path string, v any) {
		raw, err := json.Marshal(v)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = os.WriteFile(path, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range strings.Split("abcdefghij", "") {
		for part, n := range map[string]int{"train": 6, "test": 4} {
			var records []map[string]string
			for k := range n {
				item := fmt.Sprintf("%s %d", part, k)
				records = append(records, map[string]string{"prompt": strings.Repeat("do "+name+" ", 1+i%3) + item, "input": item, "response": strings.Repeat(name, 1+i%4)})
			}
			if name != "b" {
				save(filepath.Join(dir, part, name+".json"), records)
				continue
			}
			var lines strings.Builder // a record a line
			for _, r := range records {
				raw, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(&lines, string(raw))
			}
			if err := os.WriteFile(filepath.Join(dir, part, name+".jsonl"), []byte(lines.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	save(filepath.Join(dir, "grid.json"), map[string][]string{"train": {"a", "b", "h", "i", "j"}, "validation": {"c", "d"}, "held_out": {"e", "f", "g"}})
}

// The commands of the guide to training work in its order, here with a tiny base, few steps and few
// records.
func TestTrainingGuide(t *testing.T) {
	base, dir := tinyBase(t), t.TempDir()
	guideTasks(t, filepath.Join(dir, "tasks"))
	few := map[string][]string{
		"collect": {"--steps", "2", "--warm-up", "1", "--late-steps", "1", "--batch", "2", "--rank", "2", "--alpha", "4"},
		"fit":     {"--steps", "2", "--batch", "2"},
		"eval":    {"--count", "2", "--draws", "1", "--cross-count", "1", "--shots", "1"},
		"export":  {"--base-model", "example/tiny"},
	}
	done := map[string]int{}
	for _, call := range clitest.Calls(t, "dndtrain", "../../docs/training.md") {
		command := call[0]
		if command == "answer" {
			continue // with an adapter of dndgen's
		}
		args := append(slices.Clone(call), few[command]...)
		for i, a := range args {
			switch a {
			case "BASE":
				args[i] = base
			case "MINILM":
				args[i] = minilm
			default:
				places := strings.Split(a, ",")
				for k, place := range places {
					if strings.HasPrefix(place, "tasks") || strings.HasPrefix(place, "runs/") {
						places[k] = filepath.Join(dir, place)
					}
				}
				args[i] = strings.Join(places, ",")
			}
		}
		clitest.OK(t, append(args, "--quiet")...)
		done[command]++
	}
	if done["collect"] != 3 || done["fit"] != 3 || done["export"] != 1 || done["eval"] != 2 {
		t.Errorf("the guide has %v", done)
	}
	if _, err := generator.Verify(t.Context(), filepath.Join(dir, "runs", "mine"), nil); err != nil {
		t.Error(err)
	}
	if p, err := generator.Open(filepath.Join(dir, "runs", "mine")); err != nil || p.Manifest.Base.Architecture != "llama" || p.Close() != nil {
		t.Errorf("a package that cannot write GGUF: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "runs", "eval", "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r eval.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{eval.Base, eval.TrainMean, eval.Average, eval.Nearest, eval.Ridge, eval.Joint, eval.Foreign, eval.Generated, eval.Own} {
		if !slices.Contains(r.Methods, m) {
			t.Errorf("the guide's tables lack %s; left out: %v", m, r.Left)
		}
	}
}
