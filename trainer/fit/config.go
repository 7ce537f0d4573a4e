// Package fit trains a generator (reference section d): it pairs LoRA checkpoints with
// prompts of their data set, encodes the prompts once with the frozen text encoder, and
// fits the decoder by a weighted mean square of weight tokens. It starts from what
// package collect wrote and ends with a checkpoint that package export turns into a
// generator package.
//
// A run is a function of its configuration and data: what is random in a step comes from
// the seed and the step's number alone, so a run that was stopped and resumed gives the
// weights of one that was not.
package fit

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Config is a run's configuration. Defaults gives the reference's recipe.
type Config struct {
	Decoder decoder.Config `json:"decoder"`
	Tiling  lora.Tiling    `json:"tiling"`
	Texts   int            `json:"texts"`  // N
	Length  int            `json:"length"` // L
	Pads    string         `json:"pads"`   // generator.PadsEncoded or PadsZero

	Steps int `json:"steps"`
	Batch int `json:"batch"` // pairs of prompts and checkpoint a step
	// Accumulate is the number of equal parts in which a step's pairs are computed, one
	// after the other, to hold fewer activations. It changes no result but noise and
	// rounding.
	Accumulate   int     `json:"accumulate"`
	DType        string  `json:"dtype"` // of convolutions: F32 or BF16; weights stay float32
	LearningRate float64 `json:"learning_rate"`
	WarmUp       int     `json:"warm_up"` // steps
	WeightDecay  float64 `json:"weight_decay"`
	Beta1        float64 `json:"beta1"`
	Beta2        float64 `json:"beta2"`
	Epsilon      float64 `json:"epsilon"`
	Clip         float64 `json:"clip"` // global gradient norm

	ConditionNoise float64 `json:"condition_noise"` // deviation (d.3)
	TargetNoise    float64 `json:"target_noise"`    // deviation (d.3)
	// TokenDrop is the share of the prompts' tokens whose hidden states are set to zero, anew
	// in every step, so that a generator does not hang on single words. The reference has none.
	TokenDrop float64 `json:"token_drop"`
	// Prompts is how many prompts of each data set take part, the first ones of the
	// file; 0 is all. Their conditions are held in memory.
	Prompts int   `json:"prompts"`
	Seed    int64 `json:"seed"`
	// Average is the share of the past in the exponential mean of the weights, which is
	// then what export takes; 0 is none. It rises to this value in the first steps.
	Average float64 `json:"average"`
	// JointShare is the share of a joint LoRA, one tuned on all data sets together
	// (Data.SetJoint), in the adapters that the decoder's output stands for; the rest is what
	// is generated. It needs an Affine decoder. 0 is none, as in the reference.
	JointShare float64 `json:"joint_share"`
	// LinearStart starts as linear regression from conditions to weight tokens, in the principal
	// directions in which the data sets' conditions differ: as many as the basis has. It needs a
	// decoder of one layer of kernel size 1.
	LinearStart bool `json:"linear_start,omitempty"`
	// LinearStrength is the ridge of that regression, relative to the mean squared distance of the
	// data sets' conditions from their mean; 0 is none.
	LinearStrength float64 `json:"linear_strength,omitempty"`
	// LeaveOut lets every data set play the unseen one in the steps with the loss on answers: what
	// the regression has of its own checkpoint is taken out of the adapter that it is answered with,
	// so that the others have to make it up. It needs LinearStart.
	LeaveOut bool `json:"leave_out,omitempty"`
	// BasisRate is the learning rate of the basis of weight tokens in the steps with the loss on
	// answers, on LearningRate's schedule; 0 leaves it as it is. The basis is in units of standardised
	// tokens, of which each matters much less than a weight of a small network.
	BasisRate float64 `json:"basis_learning_rate,omitempty"`
	// BasisNoise is the deviation of noise on the coordinates with which what BasisRate changes
	// counts in the steps with the loss on answers: the coordinates of an unseen data set lie beside
	// those of all others. Those of the regression have mean square 1.
	BasisNoise float64 `json:"basis_noise,omitempty"`
	// SaveEvery is the number of steps between checkpoints.
	SaveEvery int `json:"save_every"`

	Loss string     `json:"loss"` // one of Losses
	Task TaskConfig `json:"task"`
}

// TaskConfig is what the loss on answers adds; it is zero with LossWeights.
type TaskConfig struct {
	// From is the number of steps with the loss on weights alone, before that on answers;
	// 0 with LossTask.
	From int `json:"from"`
	// Share is the loss on weights' beside that on answers; 0 with LossTask.
	Share float64 `json:"weights_share"`
	// Records is how many of the data set's records each pair of a step answers.
	Records int `json:"records"`
	// BaseDType is the precision of the base model's products: lm.F32 or lm.BF16.
	BaseDType string `json:"base_dtype,omitempty"`
}

// The losses of Config.Loss.
const (
	LossWeights = "weights" // mean square of weight tokens, the reference's
	LossTask    = "task"    // the base model's on answers, through the generated adapter
	LossBoth    = "both"    // weights first, then task with a share of weights
)

// Losses are all of them.
var Losses = []string{LossWeights, LossTask, LossBoth}

// SetLoss chooses a loss with its defaults: for LossBoth a fifth of the steps with the loss
// on weights alone, and a tenth of it afterwards.
func (c *Config) SetLoss(loss string) {
	c.Loss, c.Task = loss, TaskConfig{}
	if loss != LossWeights {
		c.Task.Records, c.Task.BaseDType = 4, lm.F32
	}
	if loss == LossBoth {
		c.Task.From, c.Task.Share = c.Steps/5, 0.1
	}
}

// The precisions of Config.DType.
const (
	F32  = "f32"
	BF16 = "bf16" // as the reference's autocast (b.3)
)

// Defaults is the recipe of the reference's 0.5B run (d.3 to d.5), without an
// architecture: the caller sets Decoder and Tiling.
func Defaults() Config {
	return Config{
		Texts: 128, Length: 384, Pads: generator.PadsEncoded,
		Steps: 4000, Batch: 64, Accumulate: 1, DType: F32, LearningRate: 3e-5, WarmUp: 1, WeightDecay: 0.1,
		Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, Clip: 1,
		ConditionNoise: 1e-4, TargetNoise: 1e-5, Seed: 999, SaveEvery: 100, Loss: LossWeights,
	}
}

// Validate returns all that is wrong with the configuration, joined.
func (c *Config) Validate() error {
	var all []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	if err := c.Decoder.Validate(); err != nil {
		return err
	}
	in := c.Decoder.Condition()
	check(in[0] == c.Texts && in[1] == c.Length, "texts %d and length %d, but the decoder takes %d and %d", c.Texts, c.Length, in[0], in[1])
	if err := text.CheckLength(c.Length); err != nil {
		all = append(all, err)
	}
	check(c.Pads == generator.PadsEncoded || c.Pads == generator.PadsZero, "pads %q, expected %s or %s", c.Pads, generator.PadsEncoded, generator.PadsZero)
	check(c.Steps > 0 && c.Batch > 0, "steps %d and batch %d, expected positive numbers", c.Steps, c.Batch)
	check(c.Accumulate > 0 && c.Batch%max(c.Accumulate, 1) == 0, "a batch of %d does not divide into %d parts (accumulate)", c.Batch, c.Accumulate)
	check(c.DType == F32 || c.DType == BF16, "dtype %q, expected %s or %s", c.DType, F32, BF16)
	for _, v := range []struct {
		name     string
		value    float64
		from, to float64
	}{{"learning_rate", c.LearningRate, 1e-12, 10}, {"weight_decay", c.WeightDecay, 0, 10}, {"beta1", c.Beta1, 0, 1 - 1e-9}, {"beta2", c.Beta2, 0, 1 - 1e-9},
		{"epsilon", c.Epsilon, 1e-30, 1}, {"clip", c.Clip, 1e-9, 1e9}, {"condition_noise", c.ConditionNoise, 0, 10}, {"target_noise", c.TargetNoise, 0, 10},
		{"token_drop", c.TokenDrop, 0, 0.99}, {"average", c.Average, 0, 1 - 1e-9}, {"joint_share", c.JointShare, 0, 0.99}} {
		check(v.value >= v.from && v.value <= v.to, "%s is %v, expected %v to %v", v.name, v.value, v.from, v.to)
	}
	check(c.WarmUp >= 0 && c.WarmUp < c.Steps, "warm_up %d, expected fewer than the %d steps", c.WarmUp, c.Steps)
	check(c.Prompts >= 0, "prompts is %d, expected 0 for all or a positive number", c.Prompts)
	check(c.Decoder.Rank() == 0 || c.Decoder.Affine, "the decoder has a basis of weight tokens, but is not affine: a basis is of standardised ones")
	check(c.JointShare == 0 || c.Decoder.Affine, "joint_share %v, but the decoder is not affine: it has no tensor for a joint LoRA", c.JointShare)
	check(c.BasisRate >= 0 && c.BasisRate <= 10, "basis_learning_rate is %v, expected 0 to 10", c.BasisRate)
	check(c.BasisRate == 0 || c.Decoder.Rank() > 0, "basis_learning_rate is %v, but the decoder has no basis of weight tokens", c.BasisRate)
	check(c.BasisRate == 0 || c.Loss != LossWeights, "basis_learning_rate is %v, but the loss is %s, by which the basis is the best already", c.BasisRate, c.Loss)
	check(c.BasisNoise >= 0 && c.BasisNoise <= 1e3, "basis_noise is %v, expected 0 to 1e3", c.BasisNoise)
	check(c.BasisNoise == 0 || c.BasisRate > 0, "basis_noise is %v, but without a basis_learning_rate nothing changes in a basis", c.BasisNoise)
	check(!c.LeaveOut || c.LinearStart && c.Loss != LossWeights, "leave_out without linear_start and a loss on answers")
	check(c.LinearStrength >= 0 && c.LinearStrength <= 1e6, "linear_strength is %v, expected 0 to 1e6", c.LinearStrength)
	check(c.LinearStrength == 0 || c.LinearStart, "linear_strength is %v without linear_start", c.LinearStrength)
	check(!c.LinearStart || c.linear(), "linear_start, but the decoder is not one layer of kernel size 1 from (%d,%d,C) to the (1,1,r) coordinates of a basis", c.Texts, c.Length)
	check(c.SaveEvery > 0, "save_every is %d, expected a positive number", c.SaveEvery)
	switch x := c.Task; c.Loss {
	case LossWeights:
		check(x == TaskConfig{}, "settings %+v of the loss on answers, but the loss is %s", x, c.Loss)
	case LossTask:
		check(x.From == 0 && x.Share == 0, "%d steps of and a share %v of the loss on weights, but the loss is %s", x.From, x.Share, c.Loss)
		c.Task.check(check)
	case LossBoth:
		check(x.From >= 0 && x.From < c.Steps, "%d steps with the loss on weights alone, expected fewer than the %d steps", x.From, c.Steps)
		check(x.Share >= 0 && x.Share <= 1e6, "a share %v of the loss on weights, expected 0 to 1e6", x.Share)
		c.Task.check(check)
	default:
		check(false, "loss %q, expected %s", c.Loss, strings.Join(Losses, ", "))
	}
	return errors.Join(all...)
}

// CheckBasis is an error where so many data sets differ in fewer directions than the decoder's basis has.
func (c *Config) CheckBasis(sets int) error {
	if rank := c.Decoder.Rank(); rank > 0 && rank >= sets {
		return fmt.Errorf("the decoder's basis has %d directions, but %d data sets differ in %d: let its last features have fewer values", rank, sets, max(sets-1, 0))
	}
	return nil
}

// CheckBasisShare is an error where such a share of what BasisRate changes cannot stay (Fitted).
func (c *Config) CheckBasisShare(share float64) error {
	if !(share > 0 && share <= 1) {
		return fmt.Errorf("basis_share %v, expected a number above 0, at most 1", share)
	}
	if share != 1 && c.BasisRate == 0 {
		return fmt.Errorf("basis_share %v, but without basis_learning_rate there is no basis that a loss changed", share)
	}
	return nil
}

// check is Validate's of what both losses on answers need.
func (t TaskConfig) check(check func(ok bool, format string, args ...any)) {
	check(t.Records > 0, "%d records a pair, expected at least 1", t.Records)
	check(t.BaseDType == lm.F32 || t.BaseDType == lm.BF16, "base_dtype %q, expected %s or %s", t.BaseDType, lm.F32, lm.BF16)
}

// Rate is the learning rate of optimizer step i, counted from 0: linear warm-up, then a
// cosine to zero. The schedule is stepped after the optimizer, so the first two steps
// share a rate (d.5).
func (c *Config) Rate(i int) float64 {
	e := float64(max(i-1, 0))
	warm := float64(c.WarmUp)
	if e < warm {
		return c.LearningRate * (e + 1) / warm
	}
	return c.LearningRate / 2 * (1 + math.Cos(math.Pi*(e-warm)/(float64(c.Steps)-warm)))
}
