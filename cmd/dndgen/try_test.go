package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// The base model of the made-up generator answers with adapters, read and made on the spot,
// and with the control.
func TestTry(t *testing.T) {
	p := madeup.Open(t)
	base := filepath.Join(t.TempDir(), "base.gguf")
	if err := madeup.WriteBase(base, madeup.BaseOptions{Base: *p.Manifest.Base, Types: []gguf.TensorType{gguf.F32}, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	prompts := write(t, "prompts.txt", "the one and the other\nwhat is it\n")
	adapter := filepath.Join(t.TempDir(), "adapter")
	clitest.OK(t, "generate", "--quiet", "--backend", "cpu", "--generator", p.Dir, "--prompts", prompts, "--out", adapter)
	var read, made tried
	common := []string{"try", "--json", "--quiet", "--base", base, "--tokens", "4", "--generator", p.Dir, "--prompts", prompts, "--control", "shuffled"}
	clitest.JSON(t, &read, append(common, "--adapter", adapter, "hello")...)
	clitest.JSON(t, &made, append(common, "hello")...)
	if len(read.Adapters) != 1 || len(made.Adapters) != 1 || read.Adapters[0].Answer != made.Adapters[0].Answer || made.Adapters[0].Adapter != generatedName || read.Base != made.Base {
		t.Errorf("read: %+v\nmade: %+v", read, made)
	}
	if len(made.Controls) != 1 || made.Controls[0].Control != controlShuffled || made.Controls[0].Same != (made.Controls[0].Answer == made.Adapters[0].Answer) {
		t.Errorf("controls %+v", made.Controls)
	}
	// Of other prompts, a control is none.
	other := write(t, "other.txt", "something else\n")
	r := clitest.OK(t, "try", "--base", base, "--tokens", "1", "--adapter", adapter, "--generator", p.Dir, "--prompts", other, "--control", "shuffled", "hello")
	if !strings.Contains(r.Stderr, "is not known to be made of "+other) || !strings.HasPrefix(r.Stdout, "without:\n  ") ||
		!strings.Contains(r.Stdout, "\nwith "+adapter+":\n") || !strings.Contains(r.Stdout, "\ncontrol: shuffled:\n") {
		t.Errorf("%+v", r)
	}
	clitest.Fails(t, 2, []string{"does not carry the mean"}, append(common[:len(common)-1:len(common)-1], "mean", "hello")...)
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"--adapter and --prompts are missing"}, []string{"--base", base}},
		{[]string{"--control shuffled: expected --prompts"}, []string{"--base", base, "--adapter", adapter, "--control", "shuffled"}},
		{[]string{"--control", "expected shuffled, mean"}, []string{"--base", base, "--prompts", prompts, "--control", "random"}},
		{[]string{"twice"}, []string{"--base", base, "--prompts", prompts, "--control", "mean,mean"}},
		{[]string{"are for --control"}, []string{"--base", base, "--prompts", prompts, "--adapter", adapter}},
		{[]string{"--tokens 0"}, []string{"--base", base, "--adapter", adapter, "--tokens", "0"}},
		{[]string{"--base is missing"}, []string{"--adapter", adapter}},
	} {
		clitest.Fails(t, 2, c.words, append(append([]string{"try", "--quiet"}, c.args...), "hello")...)
	}
}

// The mean of what the shipped generator was fitted on is an adapter like those it makes.
func TestMeanAdapter(t *testing.T) {
	p, err := generator.Open(filepath.Join("..", "..", "models", "default"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a, err := meanAdapter(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Check(); err != nil {
		t.Error(err)
	}
	_, layers, err := a.Norms()
	if err != nil || len(layers) != 30 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	for _, l := range layers {
		if !(l.Value > 0.1 && l.Value < 10) {
			t.Errorf("layer %d has norm %g, expected about 5", l.Layer, l.Value)
		}
	}
}

func TestShuffle(t *testing.T) {
	for _, c := range []struct {
		glue  string
		texts []string
	}{
		{" ", []string{"is this positive a joy", "is this", "one two three four"}},
		{"", []string{"好的电影", "很无聊", "x"}},
	} {
		got := shuffle(c.texts, 3)
		sorted := func(list []string) []string {
			words := strings.Split(strings.Join(list, c.glue), c.glue)
			slices.Sort(words)
			return words
		}
		if slices.Equal(got, c.texts) || !slices.Equal(sorted(got), sorted(c.texts)) || !slices.Equal(got, shuffle(c.texts, 3)) {
			t.Errorf("%q became %q", c.texts, got)
		}
		for i := range got {
			if len(strings.Split(got[i], c.glue)) != len(strings.Split(c.texts[i], c.glue)) {
				t.Errorf("text %d: %q became %q", i, c.texts[i], got[i])
			}
		}
	}
}

func TestSideBySide(t *testing.T) {
	heads := []string{"without", "with a", "control: mean"}
	texts := []string{"The answer is a long sentence without an end.\n\nSecond paragraph.", "漢字漢字漢字漢字漢字漢字漢字漢字漢字", "anextraordinarilylongwordthatfitsnowhereatall"}
	for _, c := range []struct {
		width int
		want  string
	}{
		{0, "without:\n  The answer is a long sentence without an end.\n  \n  Second paragraph.\nwith a:\n  漢字漢字漢字漢字漢字漢字漢字漢字漢字\ncontrol: mean:\n  anextraordinarilylongwordthatfitsnowhereatall\n"},
		{60, "" +
			"without                        with a\n" +
			"The answer is a long sentence  漢字漢字漢字漢字漢字漢字漢字\n" +
			"without an end.                漢字漢字\n\n" +
			"Second paragraph.\n\n" +
			"control: mean\n" +
			"anextraordinarilylongwordthat\n" +
			"fitsnowhereatall\n"},
		{94, "" +
			"without                         with a                          control: mean\n" +
			"The answer is a long sentence   漢字漢字漢字漢字漢字漢字漢字漢  anextraordinarilylongwordthatf\n" +
			"without an end.                 字漢字                          itsnowhereatall\n\n" +
			"Second paragraph.\n"},
	} {
		var b bytes.Buffer
		sideBySide(&b, c.width, heads, texts)
		if b.String() != c.want {
			t.Errorf("width %d:\n%s\nexpected\n%s", c.width, b.String(), c.want)
		}
	}
}
