package fit

import (
	"context"

	"github.com/gomlx/gomlx/core/tensors"
)

// feeder makes the parts of steps on the host while the device computes.
type feeder struct {
	c        *Config
	d        *Data
	standard *Standard // nil unless the decoder is Affine
	encoded  [][][]float32
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

func newFeeder(c *Config, d *Data, st *Standard, encoded [][][]float32, devices int) *feeder {
	t, h, w := d.layout.Shape()
	return &feeder{c: c, d: d, standard: st, encoded: encoded, devices: devices, kept: map[[2]int]target{}, room: cacheBytes / (4 * t * h * w)}
}

// fed is a part of a step that was made ahead: a shard for each device.
type fed struct {
	shards []shard
	count  float64 // values of all the step's targets that are not NaN
	err    error
}

// start makes the parts of step and of those after it, until ctx is done.
func (f *feeder) start(ctx context.Context, step int) <-chan fed {
	out := make(chan fed, 1)
	pools := make([]int, len(f.encoded))
	for i := range f.encoded {
		pools[i] = len(f.encoded[i])
	}
	go func() {
		defer close(out)
		send := func(x fed) bool {
			select {
			case out <- x:
				return x.err == nil
			case <-ctx.Done():
				return false
			}
		}
		for ; step < f.c.Steps; step++ {
			items := f.d.picks(f.c, step, pools)
			count := 0
			for _, item := range items {
				x, err := f.target(item)
				if err != nil {
					send(fed{err: err})
					return
				}
				count += x.count
			}
			each := len(items) / f.c.Accumulate
			for j := range f.c.Accumulate {
				part, err := f.part(items[j*each : (j+1)*each])
				if !send(fed{part, float64(count), err}) {
					return
				}
			}
		}
	}()
	return out
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
		for _, p := range item.prompts {
			condition = append(condition, f.encoded[item.set][p]...)
		}
		x, err := f.target(item)
		if err != nil {
			return shard{}, err
		}
		tokens = append(tokens, x.tokens...)
	}
	return shard{
		condition: tensors.FromFlatDataAndDimensions(condition, len(items), in[0], in[1], in[2]),
		target:    tensors.FromFlatDataAndDimensions(tokens, len(items), t, h, w),
	}, nil
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
		f.standard.apply(tokens)
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
