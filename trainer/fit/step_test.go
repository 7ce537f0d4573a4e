//go:build unix

package fit

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// filled is a tensor of small whole numbers.
func filled(shape ...int) *tensors.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i%7) - 3
	}
	return tensors.FromFlatDataAndDimensions(v, shape...)
}

// measureSteps times steps of made-up pairs, and of the first of a's records, in their
// order, for the loss on answers; a is nil for none.
func measureSteps(b *testing.B, c *Config, be backend.Backend, a *answers) {
	b.Helper()
	in, out := c.Decoder.Condition(), c.Decoder.Output()
	step, err := newStepper(c, be, 1, make([]float32, out[0]), nil, a)
	if err != nil {
		b.Fatal(err)
	}
	defer step.close()
	states := []*state{initialState(c, nil)}
	run := func(i int) {
		pairs := fed{shards: []shard{{condition: filled(c.Batch, in[0], in[1], in[2]), target: filled(c.Batch, out[0], out[1], out[2])}},
			values: float64(c.Batch * out[0] * out[1] * out[2])}
		if a != nil {
			items := make([]pick, c.Batch)
			for j := range c.Batch * c.Task.Records {
				item := &items[j/c.Task.Records]
				item.records = append(item.records, j)
			}
			var err error
			if pairs.shards[0].batch, err = a.batch(items); err != nil {
				b.Fatal(err)
			}
			pairs.answers = float64(a.tokens(items))
		}
		_, grads, err := step.part(i, 0, pairs, states, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := step.finish(i, grads, states); err != nil {
			b.Fatal(err)
		}
	}
	run(0) // compiles
	before := cpuTime()
	for i := 1; b.Loop(); i++ {
		run(i)
	}
	b.ReportMetric((cpuTime()-before).Seconds()/float64(b.N), "cpu-s/op")
}

// BenchmarkStep is one training step without noise on condition and target, as bench/train.py
// has none: for weight tokens of SmolLM2-135M's shape, and with the reference's 0.5B decoder at
// about a quarter of every axis. "plan" is the time that
// a plan at a rate measured on the spot has for it, over the time it took.
func BenchmarkStep(b *testing.B) {
	for _, s := range []struct {
		name     string
		features [][3]int
		kernel   int
		batch    int
	}{
		{"small", [][3]int{{16, 64, 384}, {16, 16, 128}, {32, 10, 128}, {64, 10, 128}, {1590, 10, 194}}, 3, 4},
		{"large", [][3]int{{32, 64, 384}, {64, 32, 192}, {128, 16, 194}, {512, 10, 194}, {1590, 10, 194}}, 3, 8},
		{"0.5b-quarter", [][3]int{{32, 96, 96}, {32, 50, 75}, {32, 25, 64}, {64, 12, 50}, {128, 12, 50}, {256, 10, 50}, {512, 10, 50}, {1074, 10, 34}}, 9, 4},
	} {
		b.Run(s.name, func(b *testing.B) {
			be, err := backend.Open(backend.PJRT)
			if err != nil {
				b.Fatal(err)
			}
			defer be.Finalize()
			c := Defaults()
			c.SetDecoder(decoder.Config{Class: decoder.FullCond, KernelSize: s.kernel, Affine: true, Features: s.features})
			c.Batch, c.ConditionNoise, c.TargetNoise = s.batch, 0, 0
			measureSteps(b, &c, be, nil)
			perStep := b.Elapsed().Seconds() / float64(b.N)
			b.ReportMetric(1000*perStep, "ms/step")
			rate, err := MeasureRate(b.Context(), &c, be, s.name, func(_, _ int) {})
			if err != nil {
				b.Fatal(err)
			}
			plan, err := NewPlan(&c, 1)
			if err != nil {
				b.Fatal(err)
			}
			plan.Add(rate)
			b.ReportMetric(plan.Times[0].SecondsPerStep/perStep, "plan")
		})
	}
}

// BenchmarkAnswersStep is a step with the loss on answers: the small decoder's, 4 adapters
// of SmolLM2-135M-Instruct and for each of them 2 records of 80 tokens.
func BenchmarkAnswersStep(b *testing.B) {
	base := filepath.Join("..", "..", "build", "deps", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	read, err := generator.ReadLayout(filepath.Join("..", "..", "models", "layout.json"))
	if err != nil {
		b.Fatal(err)
	}
	for _, dtype := range []string{lm.F32, lm.BF16} {
		b.Run(dtype, func(b *testing.B) {
			be, err := backend.Open(backend.PJRT)
			if err != nil {
				b.Fatal(err)
			}
			defer be.Finalize()
			m, err := lm.LoadWith(base, lm.Options{DType: dtype}, be)
			if err != nil {
				b.Fatalf("%v: run `make deps`", err)
			}
			defer m.Close()
			layout, err := lora.NewLayout(m.Config.Base(8, 16), read.Tiling)
			if err != nil {
				b.Fatal(err)
			}
			c := Defaults()
			c.SetDecoder(read.Decoder)
			c.Batch = 4
			c.SetLoss(LossTask)
			c.Task.Records, c.Task.BaseDType = 2, dtype
			out := c.Decoder.Output()
			a := &answers{task: &Task{Model: m}, layout: layout, size: lm.Size{Length: 80, Answers: 8}}
			var records []lm.Example
			for i := range int32(2 * 4) {
				e := lm.Example{}
				for j := range int32(72) {
					e.Prompt = append(e.Prompt, 100+i*72+j)
				}
				for j := range int32(8) {
					e.Answer = append(e.Answer, 500+j*8+i)
				}
				records = append(records, e)
			}
			a.examples = [][]lm.Example{records}
			standard := &Standard{Scale: make([]float32, out[0]), Offset: make([]float32, out[0]*out[1]*out[2])}
			if err := a.place(&c, standard, 1); err != nil {
				b.Fatal(err)
			}
			defer a.close()
			measureSteps(b, &c, be, a)
		})
	}
}
