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
	answered := slices.Concat(asked, further)
	rng := rand.New(rand.NewPCG(uint64(c.Base.Seed), 0xba5e))
	examples := make([]lm.Example, c.Base.Batch)
	for step := range c.Base.Steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for i := range examples {
			if examples[i], err = v.example(uninformative(asked, answered, v, rng)); err != nil {
				return nil, err
			}
		}
		progress := float64(step) / float64(c.Base.Steps)
		rate := c.Base.Rate * math.Min(1, float64(step+1)/100) * math.Pow(1-progress, 0.7)
		loss, err := trainer.Step(examples, rate)
		if err != nil {
			return nil, err
		}
		report(step+1, c.Base.Steps, loss)
	}
	return m.Tensors()
}

// uninformative is a record answered as one of the tasks is, under an instruction that has
// nothing to do with it.
func uninformative(asked, answered []Task, v *vocabulary, rng *rand.Rand) Record {
	words := draw(rng)
	var instruction string
	if rng.IntN(2) == 0 {
		instruction = asked[rng.IntN(len(asked))].instruction(rng, false)
	} else {
		some := make([]string, 6+rng.IntN(10))
		for i := range some {
			some[i] = v.instructions[rng.IntN(len(v.instructions))]
		}
		instruction = strings.Join(some, " ")
	}
	return Record{Prompt: instruction + " : " + strings.Join(words, " "), Answer: answered[rng.IntN(len(answered))].answer(words)}
}
