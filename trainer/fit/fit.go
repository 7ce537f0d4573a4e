package fit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/linear"
)

// Progress is how far a run is.
type Progress struct {
	Stage    string // "read checkpoints", "encode prompts" or "fit"
	Done     int
	Total    int
	Loss     float64       // of this step
	Smooth   float64       // exponential mean of the loss
	PerStep  time.Duration // over the last steps
	TimeLeft time.Duration
}

// Result is where a run ended.
type Result struct {
	Steps int     `json:"steps"`
	Loss  float64 `json:"loss"` // exponential mean
	// Spreads are, with Config.LinearStart, how far the data sets' conditions lie apart in each of
	// their principal directions, of the first: a basis should have as many as there are before they drop.
	Spreads []float32 `json:"condition_spreads,omitempty"`
	// Directions is how many there are before they drop most.
	Directions int `json:"condition_directions,omitempty"`
}

// Resources are what a run computes with: they do not change its result but for rounding.
type Resources struct {
	Encoder *generator.Package // of which the text encoder is used
	Backend backend.Backend
	// Devices is how many of the backend's devices share a step's pairs; 0 is one.
	Devices int
	// Task is for the loss on answers, nil with LossWeights.
	Task *Task
}

// Run fits a decoder on data and writes checkpoints, metrics.jsonl, TensorBoard events and loss.png
// to dir. A dir that holds a checkpoint of the same configuration is resumed; one of another
// configuration is refused. On a done ctx it saves where it is and returns ctx's error.
func Run(ctx context.Context, c Config, d *Data, r Resources, dir string, report func(Progress)) (*Result, error) {
	if report == nil {
		report = func(Progress) {}
	}
	r.Devices = max(r.Devices, 1)
	if err := errors.Join(c.Validate(), c.fits(d, &r)); err != nil {
		return nil, err
	}
	var onAnswers *answers
	if c.Loss != LossWeights {
		var err error
		if onAnswers, err = newAnswers(&c, r.Task, d); err != nil {
			return nil, fmt.Errorf("fit: %w", err)
		}
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	run, err := open(dir, &c, d)
	if err != nil {
		return nil, err
	}
	if run.step >= c.Steps {
		return run.result(), nil
	}
	var weight []float32
	start := func(encoded [][][]float32) (err error) {
		report(Progress{Stage: "read checkpoints", Total: 1})
		if run.state == nil {
			if err := run.begin(&c, d, encoded); err != nil {
				return err
			}
		}
		weight, err = run.weight(&c, d)
		return err
	}
	// What it refuses comes before the prompts are encoded, which may take long. A linear start
	// is made of the encoded prompts; one that a run has begun with is there.
	made := !c.LinearStart || run.state != nil
	if made {
		if err := start(nil); err != nil {
			return nil, err
		}
	} else if c.JointShare > 0 {
		if _, err := d.Standardise(c.JointShare, 0, nil); err != nil { // of another lora_A
			return nil, err
		}
	}
	encoded, coverage, err := conditions(ctx, &c, d, r.Encoder, r.Backend, func(done, total int) { report(Progress{Stage: "encode prompts", Done: done, Total: total}) })
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(dir, coverageName), atomicfile.JSON(coverage)); err != nil {
		return nil, err
	}
	if !made {
		if err := start(encoded); err != nil {
			return nil, err
		}
	}
	if onAnswers != nil {
		if err := onAnswers.place(&c, run.standard, r.Devices); err != nil {
			return nil, err
		}
	}
	s, err := newStepper(&c, r.Backend, r.Devices, weight, run.standard, onAnswers)
	if err != nil {
		return nil, err
	}
	defer s.close()
	states, err := run.state.copies(&c, r.Devices)
	if err != nil {
		return nil, err
	}

	feeding, stop := context.WithCancel(ctx)
	defer stop()
	batches := newFeeder(&c, d, run.standard, encoded, onAnswers, r.Devices).start(feeding, run.step)
	log, err := openMetrics(dir, run.step)
	if err != nil {
		return nil, err
	}
	defer log.close()
	started, from := time.Now(), run.step
	for run.step < c.Steps {
		begin := time.Now()
		l, norm, err := s.step(run.step, batches, states)
		if err != nil {
			if ctx.Err() != nil {
				return nil, errors.Join(ctx.Err(), run.save(&c))
			}
			return nil, err
		}
		loss := l.total
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return nil, fmt.Errorf("fit: the loss is %v at step %d: lower the learning rate; the last checkpoint is whole", loss, run.step+1)
		}
		run.step++
		rate := c.Rate(run.step - 1)
		run.curve.add(run.step, loss, norm, rate)
		if err := log.add(Metrics{run.step, loss, run.curve.smooth(), l.weights, l.answers, norm, rate, time.Since(begin).Seconds()}); err != nil {
			return nil, err
		}
		if run.step%c.SaveEvery == 0 || run.step == c.Steps {
			if err := run.save(&c); err != nil {
				return nil, err
			}
		}
		per := time.Since(started) / time.Duration(run.step-from)
		report(Progress{Stage: "fit", Done: run.step, Total: c.Steps, Loss: loss, Smooth: run.curve.smooth(), PerStep: per, TimeLeft: per * time.Duration(c.Steps-run.step)})
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), run.save(&c))
		}
	}
	return run.result(), nil
}

func (r *folder) result() *Result {
	out := &Result{Steps: r.step, Loss: r.curve.smooth()}
	if r.standard != nil && r.standard.start != nil {
		out.Spreads = r.standard.start.spreads
		out.Directions = linear.Drop(out.Spreads)
	}
	return out
}

// fits checks the configuration against the data.
func (c *Config) fits(d *Data, r *Resources) error {
	var all []error
	t, h, w := d.layout.Shape()
	if out := c.Decoder.Output(); out != [3]int{t, h, w} {
		all = append(all, fmt.Errorf("the decoder makes weight tokens (%d,%d,%d), the checkpoints have (%d,%d,%d)", out[0], out[1], out[2], t, h, w))
	}
	all = append(all, c.CheckBasis(len(d.Sets)))
	if have := d.joint != nil; have != (c.JointShare > 0) {
		all = append(all, fmt.Errorf("joint_share is %v, and a joint LoRA is there: %v", c.JointShare, have))
	}
	if in, width := c.Decoder.Condition(), r.Encoder.Manifest.Encoder.Config.HiddenSize; in[2] != width {
		all = append(all, fmt.Errorf("the decoder takes conditions of width %d, the text encoder makes %d", in[2], width))
	}
	if have := r.Backend.NumDevices(); r.Devices > have {
		all = append(all, fmt.Errorf("%d devices, but backend %s has %d", r.Devices, r.Backend.Name, have))
	}
	if part := c.Batch / c.Accumulate; part%r.Devices != 0 {
		all = append(all, fmt.Errorf("%d pairs computed together do not divide over %d devices", part, r.Devices))
	}
	return errors.Join(all...)
}
