package science

import (
	"errors"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// The losses that a generator is fitted with.
const (
	LossWeights = "weights" // mean square of standardised weight tokens
	LossTask    = "task"    // the base's loss on answers with the generated adapter
	LossBoth    = "both"    // weights first, then task with a remainder of weights
)

// Losses are all of them.
var Losses = []string{LossWeights, LossTask, LossBoth}

// Config is all that the experiment's result depends on.
type Config struct {
	Splits []int64 `json:"splits"` // seeds
	// Strict adds the variant whose base never saw the combinations that are held out.
	Strict bool `json:"strict"`
	// Further is how many operations that no task has the strict variant's base learns beside
	// its combinations, the first of furtherOperations: knowing few combinations by heart, it
	// would not learn the parts apart.
	Further int    `json:"strict_further_operations"`
	Loss    string `json:"loss"`
	// Cost adds the comparison of generating with tuning.
	Cost bool `json:"cost"`

	Values     [3]int `json:"values"` // of each attribute, the first ones
	Train      int    `json:"train_tasks"`
	Validation int    `json:"validation_tasks"`
	Test       int    `json:"test_tasks"`
	Records    int    `json:"records"`      // of each task, for tuning
	TestItems  int    `json:"test_records"` // of each task and wording, for scoring
	// Prompts of each task make its conditions, in the training's wording, and UnseenPrompts
	// in that kept for tests.
	Prompts       int `json:"prompts"`
	UnseenPrompts int `json:"unseen_prompts"`
	Draws         int `json:"draws"` // of prompts, for scoring

	Base      BaseConfig      `json:"base"`
	LoRA      LoRAConfig      `json:"lora"`
	Joint     JointConfig     `json:"joint"`
	Generator GeneratorConfig `json:"generator"`
}

// BaseConfig is the tiny base model and its training.
type BaseConfig struct {
	Layers int     `json:"layers"`
	Hidden int     `json:"hidden"`
	Heads  int     `json:"heads"`
	MLP    int     `json:"mlp"`
	Steps  int     `json:"steps"`
	Batch  int     `json:"batch"`
	Rate   float64 `json:"learning_rate"`
	Seed   int64   `json:"seed"`
}

// LoRAConfig is how the training tasks' checkpoints are made.
type LoRAConfig struct {
	Rank        int     `json:"rank"`
	Alpha       float64 `json:"alpha"`
	Batch       int     `json:"batch"`
	SharedSteps int     `json:"shared_steps"` // of the shared A, on the training tasks
	SharedRate  float64 `json:"shared_learning_rate"`
	Steps       int     `json:"steps"` // of B
	Rate        float64 `json:"learning_rate"`
	Late        int     `json:"late_steps"` // the last of the steps, at a third of the rate
	SaveEvery   int     `json:"save_every"` // in the late steps
	Seed        int64   `json:"seed"`
}

// JointConfig is the rival: one LoRA for all training tasks.
type JointConfig struct {
	Steps int       `json:"steps"`
	Batch int       `json:"batch"`
	Rates []float64 `json:"learning_rates"` // each is tried
	Seed  int64     `json:"seed"`
}

// GeneratorConfig is the hyper-convolutional generator and its fit.
type GeneratorConfig struct {
	Texts    int      `json:"texts"`
	Length   int      `json:"length"`
	Pads     string   `json:"pads"`     // generator.PadsZero or PadsEncoded
	Features [][3]int `json:"features"` // of the hidden layers
	Kernel   int      `json:"kernel_size"`
	Pooled   bool     `json:"pooled"` // every text is the mean of all: their order does not matter
	Chunk    int      `json:"chunk"`  // columns of a weight token
	// MixingRank is that of the kernels over N, which are then products of two; 0 is none.
	MixingRank int `json:"mixing_rank"`
	// Basis is how many directions the weight tokens have, the training tasks' principal ones, whose
	// coordinates are generated; 0 is none, so that the weight tokens are.
	Basis int `json:"basis,omitempty"`

	WeightSteps int     `json:"weight_steps"` // with the loss on weights
	WeightBatch int     `json:"weight_batch"` // tasks a step
	WeightRate  float64 `json:"weight_learning_rate"`
	TaskSteps   int     `json:"task_steps"` // with the base's loss
	TaskBatch   int     `json:"task_batch"` // tasks a step
	TaskRate    float64 `json:"task_learning_rate"`
	TaskRecords int     `json:"task_records"` // of each of them
	TaskWeights float64 `json:"task_weights"` // share of the loss on weights that stays
	WarmUp      int     `json:"warm_up"`      // steps
	Drop        float64 `json:"token_drop"`   // share of the prompts' tokens that are set to zero in training
	// EncoderDropout is the share of the text encoder's hidden values that are set to zero in
	// training, as the reference leaves its encoder (reference section a.2).
	EncoderDropout float64 `json:"encoder_dropout"`
	Decay          float64 `json:"weight_decay"`  // AdamW's
	Average        float64 `json:"average_decay"` // of the exponential mean of the weights
	SaveEvery      int     `json:"save_every"`    // steps between candidates, of which validation picks
	Seed           int64   `json:"seed"`
}

// Defaults is the full experiment: splits 25 and 26, which no choice was made on.
func Defaults() Config {
	return Config{
		Splits: []int64{25, 26}, Strict: true, Further: 6, Loss: LossBoth, Cost: true,
		Values: [3]int{5, 4, 4},
		Train:  58, Validation: 8, Test: 14, Records: 640, TestItems: 48, Prompts: 128, UnseenPrompts: 32, Draws: 10,
		Base:  BaseConfig{Layers: 2, Hidden: 64, Heads: 4, MLP: 192, Steps: 2500, Batch: 96, Rate: 3e-3, Seed: 1},
		LoRA:  LoRAConfig{Rank: 4, Alpha: 8, Batch: 8, SharedSteps: 60, SharedRate: 4e-3, Steps: 100, Rate: 4e-3, Late: 20, SaveEvery: 4, Seed: 999},
		Joint: JointConfig{Steps: 150, Batch: 96, Rates: []float64{2e-3, 1e-2}, Seed: 999},
		Generator: GeneratorConfig{Texts: 8, Length: 24, Pads: generator.PadsZero, Features: [][3]int{{16, 12, 64}, {32, 8, 64}}, Kernel: 3, Chunk: 32,
			WeightSteps: 50, WeightBatch: 16, WeightRate: 1e-3, TaskSteps: 300, TaskBatch: 16, TaskRate: 1e-3, TaskRecords: 6, TaskWeights: 0.1,
			WarmUp: 50, Drop: 0.15, Decay: 0.01, Average: 0.99, SaveEvery: 100, Seed: 999},
	}
}

// Reduced is an experiment of two minutes or so, on fewer tasks.
func Reduced() Config {
	c := Defaults()
	c.Splits, c.Strict, c.Cost = []int64{11}, false, false
	c.Values, c.Train, c.Validation, c.Test = [3]int{4, 3, 3}, 24, 4, 8
	c.TestItems, c.Prompts, c.UnseenPrompts, c.Draws = 32, 24, 24, 4
	c.Base.Steps = 600
	c.LoRA.Steps, c.Joint.Steps = 80, 40
	c.Generator.Features = [][3]int{{8, 12, 48}, {16, 8, 48}}
	c.Generator.TaskBatch, c.Generator.TaskRecords = 12, 6
	c.Generator.WeightSteps, c.Generator.TaskSteps, c.Generator.SaveEvery = 50, 250, 100
	return c
}

// size is that of the base's batches: the suite's longest example fits.
var size = lm.Size{Length: 32, Answers: 8}

func (c *Config) model() lm.Config {
	b := &c.Base
	// Rotary frequencies for the few positions that there are.
	return lm.Config{Architecture: "llama", Model: "tiny-llama", Layers: b.Layers, Hidden: b.Hidden, Heads: b.Heads, KVHeads: b.Heads, HeadDim: b.Hidden / b.Heads,
		MLP: b.MLP, Vocab: len(newVocabulary().words), RopeTheta: 100, NormEps: 1e-6}
}

func (c *Config) lora() lora.Base {
	m := c.model()
	return m.Base(c.LoRA.Rank, c.LoRA.Alpha)
}

func (c *Config) tiling() lora.Tiling {
	return lora.Tiling{Kind: lora.CustomCut, Height: c.LoRA.Rank + 2, Width: c.Generator.Chunk + 2, Chunk: c.Generator.Chunk}
}

// options is of how many answers the right one is to be the likeliest (exam).
func (c *Config) options() int { return 1 + c.Values[0] + c.Values[1] + c.Values[2] - 3 }

// decoder is the generator's architecture: from conditions to the weight tokens of the
// base's LoRA.
func (c *Config) decoder(width int) (decoder.Config, *lora.Layout, error) {
	layout, err := lora.NewLayout(c.lora(), c.tiling())
	if err != nil {
		return decoder.Config{}, nil, err
	}
	t, h, w := layout.Shape()
	g := &c.Generator
	d := decoder.Config{Class: decoder.FullCond, KernelSize: g.Kernel, Affine: true}
	last := [3]int{t, h, w}
	if g.Basis > 0 {
		last, d.Tokens = [3]int{1, 1, g.Basis}, last
	}
	d.Features = append(append([][3]int{{g.Texts, g.Length, width}}, g.Features...), last)
	return d, layout, d.Validate()
}

// Validate returns all that is wrong, joined.
func (c *Config) Validate() error {
	var all []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf("science: "+format, args...))
		}
	}
	check(len(c.Splits) > 0, "no split, expected at least one")
	check(c.Loss == LossWeights || c.Loss == LossTask || c.Loss == LossBoth, "loss %q, expected %v", c.Loss, Losses)
	for i, list := range attributes {
		check(c.Values[i] > 1 && c.Values[i] <= len(list), "attribute %d has %d values, expected 2 to %d", i+1, c.Values[i], len(list))
	}
	check(c.Further >= 0 && c.Further <= len(furtherOperations), "%d further operations, expected 0 to %d", c.Further, len(furtherOperations))
	n := c.Values[0] * c.Values[1] * c.Values[2]
	check(c.Train > 0 && c.Validation > 0 && c.Test > 1 && c.Train+c.Validation+c.Test <= n,
		"%d training, %d validation and %d test tasks, expected positive numbers, two test tasks, and at most %d together", c.Train, c.Validation, c.Test, n)
	for _, v := range []struct {
		name string
		n    int
	}{{"records", c.Records}, {"test records", c.TestItems}, {"prompts", c.Prompts}, {"prompts in unseen wording", c.UnseenPrompts}, {"draws", c.Draws}, {"base steps", c.Base.Steps}, {"base batch", c.Base.Batch},
		{"LoRA steps", c.LoRA.Steps}, {"joint steps", c.Joint.Steps}, {"weight steps", c.Generator.WeightSteps}, {"task steps", c.Generator.TaskSteps}} {
		check(v.n > 0, "%s: %d, expected a positive number", v.name, v.n)
	}
	check(c.LoRA.Late > 0 && c.LoRA.Late <= c.LoRA.Steps && c.LoRA.SaveEvery > 0, "late steps %d of %d, saved every %d", c.LoRA.Late, c.LoRA.Steps, c.LoRA.SaveEvery)
	check(c.Generator.Pads == generator.PadsZero || c.Generator.Pads == generator.PadsEncoded, "pads %q, expected %s or %s", c.Generator.Pads, generator.PadsZero, generator.PadsEncoded)
	for _, n := range []int{c.Prompts, c.UnseenPrompts} {
		check(n >= c.Generator.Texts, "%d prompts a task, a condition takes %d", n, c.Generator.Texts)
	}
	if _, _, err := c.decoder(384); err != nil {
		all = append(all, err)
	}
	check(c.Generator.Basis >= 0 && c.Generator.Basis < c.Train, "a basis of %d directions, expected 0 for none, or fewer than the %d training tasks", c.Generator.Basis, c.Train)
	check(c.Generator.MixingRank >= 0, "a mixing rank of %d, expected 0 for none or a positive number", c.Generator.MixingRank)
	check(c.Generator.EncoderDropout >= 0 && c.Generator.EncoderDropout < 1, "encoder dropout of %v, expected 0 to below 1", c.Generator.EncoderDropout)
	return errors.Join(all...)
}
