package tune_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/tune"
)

func choice(in int, method graph.Method) graph.ConvChoice {
	return graph.ConvChoice{Shape: graph.ConvShape{Batch: 1, In: in, Out: 8, Rows: 9, Columns: 10, Kernel: 3}, Way: graph.ConvWay{Method: method}}
}

func TestCache(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	d := tune.Device{Name: "card", Vendor: "Maker", Backend: "vulkan", Type: "discrete", Program: "1"}
	load := func(d tune.Device, want ...graph.ConvChoice) {
		t.Helper()
		got, err := tune.Load(folder, d)
		if err != nil || len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v, expected %v", got, err, want)
		}
	}
	load(d)
	save := func(choices ...graph.ConvChoice) {
		t.Helper()
		if err := tune.Save(folder, d, choices); err != nil {
			t.Fatal(err)
		}
	}
	save(choice(1, graph.Direct), choice(2, graph.Direct))
	save(choice(1, graph.Fourier), choice(3, graph.Fourier))
	load(d, choice(2, graph.Direct), choice(1, graph.Fourier), choice(3, graph.Fourier))
	for _, change := range []func(*tune.Device){
		func(d *tune.Device) { d.Name = "another" },
		func(d *tune.Device) { d.Driver = "newer" },
		func(d *tune.Device) { d.Program = "2" },
	} {
		other := d
		change(&other)
		load(other)
	}

	path := tune.Path(folder, d)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"cut":            string(whole[:len(whole)/2]),
		"empty":          "",
		"other method":   strings.Replace(string(whole), `"fourier"`, `"winograd"`, 1),
		"other tile":     strings.Replace(string(whole), `"fourier"`, `"direct", "tile": {"outputs": 8, "positions": 12}`, 1),
		"other device":   strings.Replace(string(whole), `"card"`, `"cart"`, 1),
		"other kernels":  strings.Replace(string(whole), `"kernels": "`, `"kernels": "0`, 1),
		"larger than it": string(whole) + strings.Repeat(" ", 1<<20),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := tune.Load(folder, d); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), path) || got != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	save(choice(4, graph.Direct))
	load(d, choice(4, graph.Direct))
	if err := tune.Forget(folder, d); err != nil {
		t.Fatal(err)
	}
	load(d)
	if err := tune.Forget(folder, d); err != nil {
		t.Error(err)
	}
}
