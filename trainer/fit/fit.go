package fit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/trainer/backend"
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
}

// Run fits a decoder on data and writes checkpoints, loss.csv and loss.png to dir. A dir
// that holds a checkpoint of the same configuration is resumed; one of another
// configuration is refused. On a done ctx it saves where it is and returns ctx's error.
func Run(ctx context.Context, c Config, d *Data, e *TextEncoder, b backend.Backend, dir string, report func(Progress)) (*Result, error) {
	if report == nil {
		report = func(Progress) {}
	}
	if err := errors.Join(c.Validate(), c.fits(d, e)); err != nil {
		return nil, err
	}
	run, err := open(dir, &c, d)
	if err != nil {
		return nil, err
	}
	if run.step >= c.Steps {
		return &Result{Steps: run.step, Loss: run.curve.smooth()}, nil
	}
	report(Progress{Stage: "read checkpoints", Total: 1})
	weight, err := run.weight(&c, d)
	if err != nil {
		return nil, err
	}
	encoded, coverage, err := conditions(ctx, &c, d, e, b, func(done, total int) { report(Progress{Stage: "encode prompts", Done: done, Total: total}) })
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, coverageName), coverage); err != nil {
		return nil, err
	}
	s, err := newStepper(&c, b)
	if err != nil {
		return nil, err
	}
	defer s.exec.Finalize()

	feeding, stop := context.WithCancel(ctx)
	defer stop()
	batches := feed(feeding, &c, d, run.standard, encoded, weight, run.step)
	started, from := time.Now(), run.step
	for run.step < c.Steps {
		in := <-batches
		if err := errors.Join(in.err, ctx.Err()); err != nil {
			if ctx.Err() != nil {
				return nil, errors.Join(ctx.Err(), run.save(&c))
			}
			return nil, err
		}
		loss, norm, err := s.run(&c, run.step, in.batch, &run.state)
		if err != nil {
			return nil, err
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return nil, fmt.Errorf("fit: the loss is %v at step %d: lower the learning rate; the last checkpoint is whole", loss, run.step+1)
		}
		run.step++
		run.curve.add(run.step, loss, norm, c.Rate(run.step-1))
		if run.step%c.SaveEvery == 0 || run.step == c.Steps {
			if err := run.save(&c); err != nil {
				return nil, err
			}
		}
		per := time.Since(started) / time.Duration(run.step-from)
		report(Progress{Stage: "fit", Done: run.step, Total: c.Steps, Loss: loss, Smooth: run.curve.smooth(), PerStep: per, TimeLeft: per * time.Duration(c.Steps-run.step)})
	}
	return &Result{Steps: run.step, Loss: run.curve.smooth()}, nil
}

// fits checks the configuration against the data.
func (c *Config) fits(d *Data, e *TextEncoder) error {
	var all []error
	t, h, w := d.layout.Shape()
	if out := c.Decoder.Output(); out != [3]int{t, h, w} {
		all = append(all, fmt.Errorf("the decoder makes weight tokens (%d,%d,%d), the checkpoints have (%d,%d,%d)", out[0], out[1], out[2], t, h, w))
	}
	if in := c.Decoder.Condition(); in[2] != e.Config.HiddenSize {
		all = append(all, fmt.Errorf("the decoder takes conditions of width %d, the text encoder makes %d", in[2], e.Config.HiddenSize))
	}
	return errors.Join(all...)
}

// fed is a batch that was made ahead of its step.
type fed struct {
	batch
	err error
}

// feed makes batches on the host while the device computes, from step on.
func feed(ctx context.Context, c *Config, d *Data, st *Standard, encoded [][][]float32, weight []float32, step int) <-chan fed {
	out := make(chan fed, 1)
	pools := make([]int, len(encoded))
	for i := range encoded {
		pools[i] = len(encoded[i])
	}
	cache := newCache(d)
	go func() {
		defer close(out)
		for ; step < c.Steps; step++ {
			b, err := makeBatch(c, d, st, encoded, weight, cache, d.picks(c, step, pools))
			select {
			case out <- fed{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func makeBatch(c *Config, d *Data, st *Standard, encoded [][][]float32, weight []float32, cache *cache, items []pick) (batch, error) {
	t, h, w := d.layout.Shape()
	in := c.Decoder.Condition()
	row, tokens := in[1]*in[2], t*h*w
	condition := make([]float32, 0, len(items)*c.Texts*row)
	target := make([]float32, 0, len(items)*tokens)
	for _, item := range items {
		for _, p := range item.prompts {
			condition = append(condition, encoded[item.set][p]...)
		}
		x, err := cache.tokens(item.set, item.checkpoint)
		if err != nil {
			return batch{}, err
		}
		at := len(target)
		target = append(target, x...)
		if st == nil {
			continue
		}
		for i := range t {
			part := target[at+i*h*w : at+(i+1)*h*w]
			for j := range part {
				if st.Scale[i] == 0 {
					part[j] = 0
				} else {
					part[j] = (part[j] - st.Offset[i*h*w+j]) / st.Scale[i]
				}
			}
		}
	}
	return batch{
		condition: tensors.FromFlatDataAndDimensions(condition, len(items), in[0], in[1], in[2]),
		target:    tensors.FromFlatDataAndDimensions(target, len(items), t, h, w),
		weight:    tensors.FromFlatDataAndDimensions(weight, 1, t, 1, 1),
	}, nil
}

// cacheBytes bounds the weight tokens that are kept in memory; others are read anew.
const cacheBytes = 4 << 30

type cache struct {
	d    *Data
	kept map[[2]int][]float32
	room int
}

func newCache(d *Data) *cache {
	t, h, w := d.layout.Shape()
	return &cache{d: d, kept: map[[2]int][]float32{}, room: cacheBytes / (4 * t * h * w)}
}

func (c *cache) tokens(set, checkpoint int) ([]float32, error) {
	key := [2]int{set, checkpoint}
	if x, ok := c.kept[key]; ok {
		return x, nil
	}
	x, err := c.d.tokens(set, checkpoint)
	if err == nil && len(c.kept) < c.room {
		c.kept[key] = x
	}
	return x, err
}
