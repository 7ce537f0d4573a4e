package fit

import (
	"context"
	"math/rand/v2"

	"github.com/gomlx/gomlx/core/tensors"
)

// feeder makes the parts of steps on the host while the device computes.
type feeder struct {
	c        *Config
	d        *Data
	standard *Standard // nil unless the decoder is Affine
	encoded  [][][]float32
	answers  *answers // nil with LossWeights
	devices  int
	kept     map[[2]int]target
	room     int
}

// target is a checkpoint's weight tokens (T,h,w), standardised if the decoder is Affine,
// and how many of their values are not NaN.
type target struct {
	tokens []float32
	count  int
}

// cacheBytes bounds the weight tokens that are kept in memory; others are read anew.
const cacheBytes = 4 << 30

func newFeeder(c *Config, d *Data, st *Standard, encoded [][][]float32, a *answers, devices int) *feeder {
	t, h, w := d.layout.Shape()
	return &feeder{c: c, d: d, standard: st, encoded: encoded, answers: a, devices: devices, kept: map[[2]int]target{}, room: cacheBytes / (4 * t * h * w)}
}

// fed is a part of a step that was made ahead: a shard for each device.
type fed struct {
	shards  []shard
	values  float64 // of all the step's targets that are not NaN
	answers float64 // tokens of all the step's answers, 0 without the loss on them
	err     error
}

// start makes the parts of step and of those after it, until ctx is done.
func (f *feeder) start(ctx context.Context, step int) <-chan fed {
	out := make(chan fed, 1)
	pools := make([]int, len(f.encoded))
	for i := range f.encoded {
		pools[i] = len(f.encoded[i])
	}
	var records []int
	if f.answers != nil {
		for _, list := range f.answers.examples {
			records = append(records, len(list))
		}
	}
	go func() {
		defer close(out)
		for ; step < f.c.Steps; step++ {
			from := records
			if step < f.c.Task.From {
				from = nil
			}
			if !f.step(ctx, f.d.picks(f.c, step, pools, from), out) {
				return
			}
		}
	}()
	return out
}

// step sends the parts of a step, and tells whether others may follow.
func (f *feeder) step(ctx context.Context, items []pick, out chan<- fed) bool {
	send := func(x fed) bool {
		select {
		case out <- x:
			return x.err == nil
		case <-ctx.Done():
			return false
		}
	}
	var whole fed
	for _, item := range items {
		x, err := f.target(item)
		if err != nil {
			return send(fed{err: err})
		}
		whole.values += float64(x.count)
	}
	if f.answers != nil {
		whole.answers = float64(f.answers.tokens(items))
	}
	each := len(items) / f.c.Accumulate
	for j := range f.c.Accumulate {
		part := whole
		part.shards, part.err = f.part(items[j*each : (j+1)*each])
		if !send(part) {
			return false
		}
	}
	return true
}

// part makes a shard for each device.
func (f *feeder) part(items []pick) ([]shard, error) {
	shards := make([]shard, f.devices)
	each := len(items) / f.devices
	for d := range shards {
		var err error
		if shards[d], err = f.shard(items[d*each : (d+1)*each]); err != nil {
			return nil, err
		}
	}
	return shards, nil
}

func (f *feeder) shard(items []pick) (shard, error) {
	t, h, w := f.d.layout.Shape()
	in := f.c.Decoder.Condition()
	condition := make([]float32, 0, len(items)*in[0]*in[1]*in[2])
	tokens := make([]float32, 0, len(items)*t*h*w)
	for _, item := range items {
		at := len(condition)
		for _, p := range item.prompts {
			condition = append(condition, f.encoded[item.set][p]...)
		}
		dropTokens(condition[at:], in[2], f.c.TokenDrop, item.drop)
		x, err := f.target(item)
		if err != nil {
			return shard{}, err
		}
		tokens = append(tokens, x.tokens...)
	}
	x := shard{
		condition: tensors.FromFlatDataAndDimensions(condition, len(items), in[0], in[1], in[2]),
		target:    tensors.FromFlatDataAndDimensions(tokens, len(items), t, h, w),
	}
	if items[0].records != nil {
		var err error
		if x.batch, err = f.answers.batch(items); err != nil {
			return shard{}, err
		}
	}
	return x, nil
}

// dropTokens sets a share of a condition's tokens, width values each, to zero.
func dropTokens(condition []float32, width int, share float64, seed uint64) {
	if share == 0 {
		return
	}
	rng := rand.New(rand.NewPCG(seed, 0xd409))
	for at := 0; at < len(condition); at += width {
		if rng.Float64() < share {
			clear(condition[at : at+width])
		}
	}
}

func (f *feeder) target(item pick) (target, error) {
	key := [2]int{item.set, item.checkpoint}
	if x, ok := f.kept[key]; ok {
		return x, nil
	}
	tokens, err := f.d.tokens(item.set, item.checkpoint)
	if err != nil {
		return target{}, err
	}
	if f.standard != nil {
		f.standard.Apply(tokens)
	}
	x := target{tokens: tokens}
	for _, v := range tokens {
		if v == v {
			x.count++
		}
	}
	if len(f.kept) < f.room {
		f.kept[key] = x
	}
	return x, nil
}
