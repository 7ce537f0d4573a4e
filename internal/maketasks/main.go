// Command maketasks writes the training tasks of the shipped generator, models/data: every
// content (what is asked) in every format (how the answer is written), over dictionary
// entries of WordNet and scores of the VADER lexicon.
//
// It is run by hand when the tasks change; training reads the files that it wrote:
//
//	go run ./internal/maketasks --wordnet /usr/share/wordnet --vader vader_lexicon.txt --out models/data
//
// The same inputs and seed give the same bytes. With --inputs the tasks of a folder are written
// once more, each record with its item alone as the input that the base is asked, so that what
// to do with it is known from the prompts of a condition only:
//
//	go run ./internal/maketasks --inputs models/data --out build/data-inputs
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

func main() {
	wordnet := pflag.String("wordnet", "/usr/share/wordnet", "folder of WordNet 3.0 (Debian package wordnet-base)")
	vader := pflag.String("vader", "vader_lexicon.txt", "word list of the PyPI package vaderSentiment 3.3.2")
	out := pflag.String("out", "models/data", "folder to write")
	train := pflag.Int("train", 640, "training records a task")
	test := pflag.Int("test", 120, "test records a task, taken before those for training")
	more := pflag.Int("more-test", 200, "further test records, of what training leaves; fewer where there are fewer")
	seed := pflag.Uint64("seed", 1, "seed of choice and order")
	inputs := pflag.String("inputs", "", "folder of tasks, to write once more with the item alone as each record's input")
	pflag.Parse()
	var err error
	if *inputs != "" {
		err = writeInputs(*inputs, *out)
	} else {
		err = write(*wordnet, *vader, *out, *train, *test, *more, *seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "maketasks:", err)
		os.Exit(1)
	}
}

// heldOut are never trained on and never looked at when choosing a method; validation are
// never trained on either, and are there for choosing.
var (
	heldOut    = []string{"topic-tag", "pos-json", "sentiment-bracket", "last-answer", "opposite-bold", "base-json"}
	validation = []string{"topic-answer", "opposite-bracket"}
)

// grid is grid.json: which combinations there are and what each is for.
type grid struct {
	Contents   []string          `json:"contents"`
	Formats    []string          `json:"formats"`
	Systems    map[string]string `json:"systems"` // spell a format out
	Train      []string          `json:"train"`
	Validation []string          `json:"validation"`
	HeldOut    []string          `json:"held_out"`
	Seed       uint64            `json:"seed"`
}

func write(wordnet, vader, out string, train, test, more int, seed uint64) error {
	net, err := readWordNet(wordnet)
	if err != nil {
		return err
	}
	scores, err := readVADER(vader)
	if err != nil {
		return err
	}
	src := &sources{net, scores}

	g := grid{Validation: validation, HeldOut: heldOut, Seed: seed, Systems: map[string]string{}}
	for _, f := range formats {
		g.Formats = append(g.Formats, f.name)
		g.Systems[f.name] = fmt.Sprintf("Reply with nothing but %sX%s, where X is the answer in lower case.", f.before, f.after)
	}
	for _, c := range contents {
		g.Contents = append(g.Contents, c.name)
		trainItems, testItems, err := split(c, c.items(src, random(seed, c.name)), train, test, more)
		if err != nil {
			return err
		}
		for _, f := range formats {
			name := c.name + "-" + f.name
			if !slices.Contains(heldOut, name) && !slices.Contains(validation, name) {
				g.Train = append(g.Train, name)
			}
			r := random(seed, name)
			for _, part := range []struct {
				dir   string
				items []item
			}{{"train", trainItems}, {"test", testItems}} {
				records := make([]record, len(part.items))
				for i, it := range part.items {
					records[i] = ask(c, f, it, r)
				}
				if err := writeRecords(filepath.Join(out, part.dir, name+".json"), records); err != nil {
					return err
				}
			}
		}
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(g); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "grid.json"), text.Bytes(), 0o644)
}

// split takes train and test items of a content, as many of each label, and no group on
// both sides, and then up to more further test items of what is left, which follow the
// others. All formats of a content share the split and its order.
func split(c content, items []item, train, test, more int) (trainItems, testItems []item, err error) {
	classes := max(c.classes, 1)
	label := func(it item) string {
		if c.classes == 0 {
			return ""
		}
		return it.label
	}
	side := map[string]string{}
	seen := map[string]bool{}
	var left []item
	byLabel := map[string][3][]item{}
	for _, it := range items {
		taken := byLabel[label(it)]
		where := side[it.group]
		if seen[it.text] {
			continue
		}
		switch {
		case where != "train" && len(taken[1]) < test/classes:
			side[it.group] = "test"
			taken[1] = append(taken[1], it)
		case where != "test" && len(taken[0]) < train/classes:
			side[it.group] = "train"
			taken[0] = append(taken[0], it)
		default:
			left = append(left, it)
		}
		seen[it.text] = true
		byLabel[label(it)] = taken
	}
	// Only now, since a group that went to the test cannot be trained with another label.
	for _, it := range left {
		if taken := byLabel[label(it)]; side[it.group] != "train" && len(taken[2]) < more/classes {
			side[it.group] = "test"
			taken[2] = append(taken[2], it)
			byLabel[label(it)] = taken
		}
	}
	for _, name := range sortedKeys(byLabel) {
		if n := byLabel[name]; len(n[0]) < train/classes || len(n[1]) < test/classes {
			return nil, nil, fmt.Errorf("content %s, label %q: found %d training and %d test items, want %d and %d", c.name, name, len(n[0]), len(n[1]), train/classes, test/classes)
		}
	}
	// Labels in turn, so that every batch is about balanced.
	for i := range train / classes {
		for _, name := range sortedKeys(byLabel) {
			trainItems = append(trainItems, byLabel[name][0][i])
		}
	}
	for i := range test / classes {
		for _, name := range sortedKeys(byLabel) {
			testItems = append(testItems, byLabel[name][1][i])
		}
	}
	r := random(uint64(train), c.name+" order")
	trainItems, testItems = shuffle(trainItems, r), shuffle(testItems, r)
	further := more / classes
	for _, n := range byLabel {
		further = min(further, len(n[2]))
	}
	for i := range further {
		for _, name := range sortedKeys(byLabel) {
			testItems = append(testItems, byLabel[name][2][i])
		}
	}
	return trainItems, testItems, nil
}

// writeInputs writes the tasks of a folder with the last line of each prompt, which is the
// item, as the record's input.
func writeInputs(from, out string) error {
	if filepath.Clean(from) == filepath.Clean(out) {
		return fmt.Errorf("--out is %s, which the tasks are read from: choose another folder", out)
	}
	var files []string
	for _, part := range []string{"train", "test"} {
		list, err := filepath.Glob(filepath.Join(from, part, "*.json"))
		if err != nil {
			return err
		}
		files = append(files, list...)
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: no train/*.json and test/*.json in it", from)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var records []record
		if err := json.Unmarshal(raw, &records); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for i, r := range records {
			_, item, ok := strings.Cut(r.Prompt, "\n")
			if !ok || strings.Contains(item, "\n") {
				return fmt.Errorf("%s: record %d: a prompt of other than two lines", path, i+1)
			}
			records[i].Input = item
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := writeRecords(filepath.Join(out, name), records); err != nil {
			return err
		}
	}
	raw, err := os.ReadFile(filepath.Join(from, "grid.json"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "grid.json"), raw, 0o644)
}

// writeRecords writes a JSON array with one record a line, so that a change shows as lines.
func writeRecords(path string, records []record) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteString("[\n")
	for i, r := range records {
		if i > 0 {
			b.Truncate(b.Len() - 1)
			b.WriteString(",\n")
		}
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	b.WriteString("]\n")
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func random(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
