package main

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// The shipped generator for questions without an instruction makes adapters that share their
// lora_A, and differ in lora_B by task much more than by draw of prompts.
func TestInputsGenerator(t *testing.T) {
	models := filepath.Join("..", "..", "models")
	adapter := func(task, seed string) *lora.Adapter {
		t.Helper()
		out := filepath.Join(t.TempDir(), "adapter")
		clitest.OK(t, "generate", "--backend", "pjrt", "--generator", filepath.Join(models, "inputs"), "--seed", seed,
			"--prompts", filepath.Join(models, "data", "test", task+".json"), "--out", out)
		a, err := lora.Read(out, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	distance := func(x, y *lora.Adapter) (a, b float64) {
		var difference, size float64
		for i := range x.Pairs {
			for k, v := range x.Pairs[i].A {
				a = max(a, math.Abs(float64(v-y.Pairs[i].A[k])))
			}
			for k, v := range x.Pairs[i].B {
				difference += math.Pow(float64(v-y.Pairs[i].B[k]), 2)
				size += math.Pow(float64(v), 2)
			}
		}
		return a, math.Sqrt(difference / size)
	}
	one := adapter("topic-tag", "1")
	if a, b := distance(one, adapter("topic-tag", "2")); a != 0 || !(b < 0.3) {
		t.Errorf("of two draws of prompts lora_A differs by %v and lora_B by %.2f of its norm, expected 0 and less than 0.3", a, b)
	}
	if a, b := distance(one, adapter("last-answer", "1")); a != 0 || !(b > 0.6) {
		t.Errorf("of two tasks lora_A differs by %v and lora_B by %.2f of its norm, expected 0 and more than 0.6", a, b)
	}
}
