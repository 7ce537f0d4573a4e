package science

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/adamw"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// trainBase trains the tiny base on the skills of some tasks, asked, and of the further ones
// that nobody asks for. Its prompts do not tell which task is meant: the instruction is that of
// another task, or random words. So the base knows every skill and every word but follows no
// instruction, and an adapter has a choice of task to add.
func trainBase(ctx context.Context, c *Config, asked, further []Task, b backend.Backend, report func(done, total int, loss float64)) ([]safetensors.Tensor, error) {
	m, err := lm.New(c.model(), c.Base.Seed, b)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	trainer, err := m.NewTrainer(adamw.Config{Beta1: 0.9, Beta2: 0.98, Epsilon: 1e-8, Clip: 1, Decay: 0.01}, size)
	if err != nil {
		return nil, err
	}
	defer trainer.Close()
	v := newVocabulary()
	likely := newExpectation(v, slices.Concat(asked, further))
	rng := rand.New(rand.NewPCG(uint64(c.Base.Seed), 0xba5e))
	examples := make([]lm.Example, c.Base.Batch)
	next := make([]float32, c.Base.Batch*size.Answers*len(v.words))
	for step := range c.Base.Steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		clear(next)
		for i := range examples {
			words := rng.Perm(len(nouns))[:inputWords]
			prompt, err := v.encode(uninformative(asked, v, rng) + " : " + strings.Join(named(words), " "))
			if err != nil {
				return nil, err
			}
			n := size.Answers * len(v.words)
			examples[i] = lm.Example{Prompt: append(prompt, answerID), Answer: likely.answer(words, next[i*n:(i+1)*n], rng)}
		}
		progress := float64(step) / float64(c.Base.Steps)
		rate := c.Base.Rate * math.Min(1, float64(step+1)/100) * math.Pow(1-progress, 0.7)
		loss, err := trainer.Step(examples, next, rate)
		if err != nil {
			return nil, err
		}
		report(step+1, c.Base.Steps, loss)
	}
	return m.Tensors()
}

// uninformative is an instruction that has nothing to do with the answer: that of any of
// the tasks, or random words.
func uninformative(asked []Task, v *vocabulary, rng *rand.Rand) string {
	if rng.IntN(2) == 0 {
		return asked[rng.IntN(len(asked))].instruction(rng, false)
	}
	some := make([]string, 6+rng.IntN(10))
	for i := range some {
		some[i] = v.instructions[rng.IntN(len(v.instructions))]
	}
	return strings.Join(some, " ")
}

// expectation is how tasks answer, in tokens, so that it is quick to say what may come next
// in an answer of which only the beginning is known.
type expectation struct {
	words   int       // of the vocabulary
	answers [][]piece // of each task
	table   [][]int32 // by the answer's vocabulary and noun
	left    []bool    // of each task: whether it still may be the one
	tokens  [][]int32 // of each task, for the example at hand
}

// piece is a token of an answer: the word at a place of the prompt, or itself.
type piece struct {
	token             int32
	place, vocabulary int
}

func newExpectation(v *vocabulary, tasks []Task) *expectation {
	e := &expectation{words: len(v.words), left: make([]bool, len(tasks)), tokens: make([][]int32, len(tasks))}
	for _, a := range vocabularies {
		row := make([]int32, len(nouns))
		for i, n := range nouns {
			row[i] = v.ids[a.words[n]]
		}
		e.table = append(e.table, row)
	}
	for _, t := range tasks {
		style, order := styles[t[2]], operation(t[0]).order
		var answer []piece
		literal := func(words ...string) {
			for _, w := range words {
				answer = append(answer, piece{token: v.ids[w], place: -1})
			}
		}
		literal(style.before...)
		for i, at := range order {
			answer = append(answer, piece{place: at, vocabulary: t[1]})
			if style.between != "" && i < len(order)-1 {
				literal(style.between)
			}
		}
		literal(style.after...)
		e.answers = append(e.answers, append(answer, piece{token: endID, place: -1}))
	}
	return e
}

// answer draws the answer of one of the tasks to nouns, and adds to next (answers,
// vocabulary) how many of the tasks whose answers begin as this one does go on with each token.
func (e *expectation) answer(words []int, next []float32, rng *rand.Rand) []int32 {
	for i, answer := range e.answers {
		e.left[i], e.tokens[i] = true, e.tokens[i][:0]
		for _, p := range answer {
			token := p.token
			if p.place >= 0 {
				token = e.table[p.vocabulary][words[p.place]]
			}
			e.tokens[i] = append(e.tokens[i], token)
		}
	}
	drawn := slices.Clone(e.tokens[rng.IntN(len(e.tokens))])
	for j, token := range drawn {
		count := float32(0)
		for i, tokens := range e.tokens {
			if e.left[i] {
				next[j*e.words+int(tokens[j])]++
				count++
				e.left[i] = tokens[j] == token
			}
		}
		for k := range next[j*e.words : (j+1)*e.words] {
			next[j*e.words+k] /= count
		}
	}
	return drawn
}

func named(words []int) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = nouns[w]
	}
	return list
}
