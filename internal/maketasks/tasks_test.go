package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const data = "../../models/data"

func read(t *testing.T, dir, part, name string) []record {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, part, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	if err := json.Unmarshal(text, &records); err != nil {
		t.Fatalf("%s/%s.json: %v", part, name, err)
	}
	return records
}

// The committed tasks keep what models/data/README.md promises.
func TestCommittedTasks(t *testing.T) {
	for _, c := range contents {
		items := map[string]map[string]bool{"train": {}, "test": {}}
		for _, f := range formats {
			name := c.name + "-" + f.name
			for part, want := range map[string]int{"train": 640, "test": 320} {
				records := read(t, data, part, name)
				if len(records) != want {
					t.Errorf("%s/%s: %d records, want %d", part, name, len(records), want)
				}
				labels := map[string]int{}
				for _, r := range records {
					question, text, ok := strings.Cut(r.Prompt, "\n")
					if !ok || !asks(c.wordings, question) || !asks(f.wordings, question) {
						t.Errorf("%s/%s: prompt %q does not state content and format", part, name, r.Prompt)
					}
					label, ok := strings.CutPrefix(r.Response, f.before)
					label, ok2 := strings.CutSuffix(label, f.after)
					if !ok || !ok2 || label == "" {
						t.Errorf("%s/%s: response %q is not in the task's format", part, name, r.Response)
					}
					labels[label]++
					items[part][text] = true
				}
				for label, n := range labels {
					if c.classes > 0 && n != want/c.classes {
						t.Errorf("%s/%s: label %q %d times, want %d", part, name, label, n, want/c.classes)
					}
				}
			}
		}
		if len(items["train"]) != 640 || len(items["test"]) != 320 {
			t.Errorf("%s: the formats do not share their items: %d and %d", c.name, len(items["train"]), len(items["test"]))
		}
		for text := range items["test"] {
			if items["train"][text] {
				t.Errorf("%s: %q is in training and in test", c.name, text)
			}
		}
	}
}

// The same tasks with inputs: the item alone, and all else as it was.
func TestWriteInputs(t *testing.T) {
	out := t.TempDir()
	if err := writeInputs(data, out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"train", "test"} {
		records := read(t, out, part, "pos-json")
		for i, r := range read(t, data, part, "pos-json") {
			if have := records[i]; have.Input == "" || !strings.HasSuffix(r.Prompt, "\n"+have.Input) || have.Prompt != r.Prompt || have.Response != r.Response {
				t.Fatalf("%s: %+v of %+v", part, have, r)
			}
		}
	}
	if a, err := filepath.Glob(filepath.Join(out, "*", "*.json")); err != nil || len(a) != 2*len(contents)*len(formats) {
		t.Errorf("%d files, %v", len(a), err)
	}
	if _, err := os.Stat(filepath.Join(out, "grid.json")); err != nil {
		t.Error(err)
	}
	if err := writeInputs(data, data+"/."); err == nil {
		t.Error("a folder was written over itself")
	}
}

func asks(wordings []string, question string) bool {
	return slices.ContainsFunc(wordings, func(w string) bool { return strings.Contains(question, w) })
}

func TestGrid(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(data, "grid.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g grid
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(g.Train, g.Validation, g.HeldOut)
	slices.Sort(all)
	if len(slices.Compact(all)) != len(contents)*len(formats) {
		t.Errorf("grid.json names %d different tasks, want %d", len(slices.Compact(all)), len(contents)*len(formats))
	}
	for _, attribute := range slices.Concat(g.Contents, g.Formats) {
		n := 0
		for _, name := range g.Train {
			content, format, _ := strings.Cut(name, "-")
			if content == attribute || format == attribute {
				n++
			}
		}
		if n < 3 {
			t.Errorf("%s is trained in %d tasks, want 3 or more", attribute, n)
		}
	}
}

func TestParseSynset(t *testing.T) {
	key, s, err := parseSynset("adj", `00024996 00 s 02 new 0 fresh(a) 1 003 & 00024619 a 0000 ! 00024720 a 0201 ;u 07075172 n 0000 | not known before; of late; "a new idea"; "fresh news"`)
	if err != nil {
		t.Fatal(err)
	}
	if key != "adj 00024996" || !slices.Equal(s.words, []string{"new", "fresh"}) {
		t.Errorf("key %q, words %q", key, s.words)
	}
	if len(s.antonyms[1]) != 1 || s.antonyms[1][0] != (target{"adj 00024720", 0}) {
		t.Errorf("antonyms %v", s.antonyms)
	}
	if s.definition != "not known before; of late" || !slices.Equal(s.examples, []string{"a new idea", "fresh news"}) {
		t.Errorf("definition %q, examples %q", s.definition, s.examples)
	}
	if !slices.Equal(s.usages, []string{"noun 07075172"}) {
		t.Errorf("usages %q", s.usages)
	}
	for _, line := range []string{"", "00024996 00 s", "00024996 00 s 0f new 0 001", "00024996 00 s 01 new 0 009 & 1 a 0000 | x"} {
		if _, _, err := parseSynset("adj", line); err == nil {
			t.Errorf("parseSynset(%q) gave no error", line)
		}
	}
}
