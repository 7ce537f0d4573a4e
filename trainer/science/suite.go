package science

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// A Task is a combination of an operation on four words, the vocabulary of the answer and
// its style: indices into operations, vocabularies, styles.
type Task [3]int

var attributes = [3][]value{operations, vocabularies, styles}

// tasks are all combinations of the first values of each attribute.
func tasks(values [3]int) []Task {
	var list []Task
	for i := range values[0] {
		for j := range values[1] {
			for k := range values[2] {
				list = append(list, Task{i, j, k})
			}
		}
	}
	return list
}

// further are the tasks of the further operations, in every vocabulary and style.
func further(values [3]int, n int) []Task {
	var list []Task
	for i := range n {
		for j := range values[1] {
			for k := range values[2] {
				list = append(list, Task{len(operations) + i, j, k})
			}
		}
	}
	return list
}

// operation is one of operations or, from there on, of furtherOperations.
func operation(i int) value {
	if i < len(operations) {
		return operations[i]
	}
	return furtherOperations[i-len(operations)]
}

// String names a task: "reverse-french-comma".
func (t Task) String() string {
	return operation(t[0]).name + "-" + vocabularies[t[1]].name + "-" + styles[t[2]].name
}

// A Record is one example of a task as text, its words separated by spaces.
type Record struct {
	Prompt, Answer string
	words          []string // the nouns
}

// inputWords is how many nouns a prompt lists.
const inputWords = 4

// record draws an example: instructions in the training's wording or in that kept for
// tests, and four nouns.
func (t Task) record(rng *rand.Rand, unseen bool) Record {
	words := draw(rng)
	return Record{t.instruction(rng, unseen) + " : " + strings.Join(words, " "), t.answer(words), words}
}

func draw(rng *rand.Rand) []string {
	words := make([]string, inputWords)
	for i, j := range rng.Perm(len(nouns))[:inputWords] {
		words[i] = nouns[j]
	}
	return words
}

// instruction names the three values, each in one of its phrases, in one of the orders
// that English allows.
func (t Task) instruction(rng *rand.Rand, unseen bool) string {
	var p [3]string
	for i, v := range t {
		phrases := attributes[i][v].phrases
		if unseen {
			phrases = attributes[i][v].unseen
		}
		p[i] = phrases[rng.IntN(len(phrases))]
	}
	if rng.IntN(2) == 0 {
		p[1], p[2] = p[2], p[1]
	}
	return strings.Join(p[:], " ")
}

func (t Task) answer(words []string) string {
	style := styles[t[2]]
	answer := slices.Clone(style.before)
	order := operation(t[0]).order
	for i, at := range order {
		answer = append(answer, vocabularies[t[1]].words[words[at]])
		if style.between != "" && i < len(order)-1 {
			answer = append(answer, style.between)
		}
	}
	return strings.Join(append(answer, style.after...), " ")
}

// records draws n examples. The same seed gives the same nouns for every task.
func (t Task) records(seed int64, n int, unseen bool) []Record {
	rng := rand.New(rand.NewPCG(uint64(seed), 0x5c1))
	list := make([]Record, n)
	for i := range list {
		list[i] = t.record(rng, unseen)
	}
	return list
}

// The special tokens of the tiny base's vocabulary of words.
const (
	padID    = 0
	endID    = 1 // ends an answer
	answerID = 2 // ends a prompt
	specials = 3
)

// vocabulary is every word of the suite, instructions in any wording and answers.
type vocabulary struct {
	ids          map[string]int32
	words        []string
	instructions []string // the words that instructions consist of
}

func newVocabulary() *vocabulary {
	v := &vocabulary{ids: map[string]int32{}, words: []string{"<pad>", "<end>", "<answer>"}}
	add := func(words ...string) {
		for _, w := range words {
			if _, ok := v.ids[w]; !ok {
				v.ids[w] = int32(len(v.words))
				v.words = append(v.words, w)
			}
		}
	}
	for _, list := range attributes {
		for _, a := range list {
			for _, phrase := range slices.Concat(a.phrases, a.unseen) {
				add(strings.Fields(phrase)...)
			}
		}
	}
	v.instructions = slices.Clone(v.words[specials:])
	add(":")
	add(nouns...)
	for _, a := range vocabularies {
		for _, n := range nouns {
			add(a.words[n])
		}
	}
	for _, a := range styles {
		add(a.before...)
		add(a.after...)
		if a.between != "" {
			add(a.between)
		}
	}
	return v
}

// example is a record in the base's tokens.
func (v *vocabulary) example(r Record) (lm.Example, error) {
	prompt, err := v.encode(r.Prompt)
	if err != nil {
		return lm.Example{}, err
	}
	answer, err := v.encode(r.Answer)
	if err != nil {
		return lm.Example{}, err
	}
	return lm.Example{Prompt: append(prompt, answerID), Answer: append(answer, endID)}, nil
}

func (v *vocabulary) examples(records []Record) ([]lm.Example, error) {
	list := make([]lm.Example, len(records))
	for i, r := range records {
		var err error
		if list[i], err = v.example(r); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// encode is a text in the base's tokens.
func (v *vocabulary) encode(text string) ([]int32, error) {
	var ids []int32
	for _, w := range strings.Fields(text) {
		id, ok := v.ids[w]
		if !ok {
			return nil, fmt.Errorf("science: %q is not in the vocabulary", w)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// A Split says which tasks a generator is fitted on, which ones choices are made on, and
// which ones are only scored.
type Split struct {
	Seed       int64  `json:"seed"`
	Train      []Task `json:"-"`
	Validation []Task `json:"-"`
	Test       []Task `json:"-"`
}

// newSplit deals the tasks out at random. Every pair of values of two attributes stays in
// training, so that a test task is an unseen combination of parts that were seen, in pairs
// too; a deal that breaks this is dealt again.
func newSplit(seed int64, c *Config) (Split, error) {
	rng := rand.New(rand.NewPCG(uint64(seed), 0x591))
	all := tasks(c.Values)
	for range 1000 {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		rest := all[c.Test+c.Validation:]
		s := Split{Seed: seed, Test: all[:c.Test], Validation: all[c.Test : c.Test+c.Validation], Train: rest[:c.Train]}
		if pairsCovered(s.Train, c.Values) {
			return s, nil
		}
	}
	return Split{}, fmt.Errorf("science: %d training tasks of %d do not hold every pair of values: take more", c.Train, len(all))
}

func pairsCovered(train []Task, values [3]int) bool {
	seen := map[[4]int]bool{}
	for _, t := range train {
		for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			seen[[4]int{pair[0], t[pair[0]], pair[1], t[pair[1]]}] = true
		}
	}
	return len(seen) == values[0]*values[1]+values[0]*values[2]+values[1]*values[2]
}
