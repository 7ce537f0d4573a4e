package picture_test

import (
	"bytes"
	"fmt"
	"image/png"
	"math"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/picture"
)

// modules are the names of an adapter's, and values that grow with them.
func modules(layers int, names ...string) (list []string, values []float64) {
	for l := range layers {
		for k, name := range names {
			list = append(list, fmt.Sprintf("model.layers.%d.%s", l, name))
			values = append(values, float64(l*len(names)+k))
		}
	}
	return list, values
}

func TestPNG(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers int
		spoil  func(values []float64)
	}{
		{"one layer", 1, func([]float64) {}},
		{"24 layers", 24, func([]float64) {}},
		{"200 layers", 200, func([]float64) {}},
		{"all zero", 3, func(v []float64) { clear(v) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			names, values := modules(c.layers, "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
			c.spoil(values)
			// A layer without one of the modules.
			g, err := picture.New(names[:len(names)-1], values[:len(values)-1])
			if err != nil {
				t.Fatal(err)
			}
			var first, second bytes.Buffer
			if err := g.PNG(&first, "title", "norm"); err != nil {
				t.Fatal(err)
			}
			img, err := png.Decode(bytes.NewReader(first.Bytes()))
			if err != nil || img.Bounds().Dx() < 600 || img.Bounds().Dy() < 300 {
				t.Errorf("%v, %v", img.Bounds(), err)
			}
			if err := g.PNG(&second, "title", "norm"); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Errorf("the second picture differs, %v", err)
			}
		})
	}
}

func TestText(t *testing.T) {
	g, err := picture.New(
		[]string{"base_model.model.model.layers.4.self_attn.q_proj", "model.layers.4.mlp.up_proj", "model.layers.5.self_attn.q_proj"}, []float64{1, 4, 2})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	g.Text(&b)
	want := "q_proj      ░▒\nup_proj     █·\n            layers 4 to 5, █ is 4\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestBad(t *testing.T) {
	for _, c := range []struct {
		name  string
		value float64
		word  string
	}{
		{"lm_head", 1, "lm_head"},
		{"model.layers.0.q_proj", math.NaN(), "NaN"},
		{"model.layers.0.q_proj", math.Inf(1), "Inf"},
		{"model.layers.0.q_proj", -1, "-1"},
		{"model.layers.99999999999999999999.q_proj", 1, "layer"},
	} {
		if _, err := picture.New([]string{c.name}, []float64{c.value}); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s %v: %v", c.name, c.value, err)
		}
	}
	if _, err := picture.New(nil, nil); err == nil {
		t.Error("nothing to draw is no error")
	}
}
