package infer

import (
	"fmt"
	"math"
	"time"

	gomlx "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// Trace calls f with every convolution of the runs after it, in the goroutine of the run,
// and waits for each to be done.
func (r *Runner) Trace(f func(graph.PartTime)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace = f
}

// traced reports a part whose result is y.
func (j *job) traced(y *tensors.Tensor, begin time.Time, part graph.PartTime) error {
	if j.trace == nil {
		return nil
	}
	// A backend may compute after the call has returned.
	if err := tensors.ConstFlatData(y, func([]float32) {}); err != nil {
		return fmt.Errorf("infer: %s: %w", part.Label, err)
	}
	part.Stage, part.Duration = j.done.Stage, time.Since(begin)
	j.trace(part)
	return nil
}

// Count is what Decode does, by the ways that it chooses; its Parts are those of Trace.
func (r *Runner) Count(c decoder.Config, batch int) graph.Count {
	d := decoding{job: job{Runner: r}, config: c}
	if d.small(batch) {
		part := d.wholePart(batch)
		return graph.Count{MACs: part.MACs, Parts: []graph.PartTime{part}}
	}
	var count graph.Count
	add := func(key string, axis model.Axis, shape [4]int, out, k int) {
		part := r.choose(axis, shape, out, k).part(key, axis, shape, out, k)
		part.Stage = decoder.Stage
		count.MACs += part.MACs
		count.Parts = append(count.Parts, part)
	}
	if c.Class == decoder.SuperLarge {
		rows := c.Features[0][0] * c.Features[0][2]
		for range batch {
			add("down_proj", model.AxisW, [4]int{1, 1, rows, c.MaxLength}, c.ModifiedLength, 1)
			add("gate_proj", model.AxisW, [4]int{1, 1, rows, c.ModifiedLength}, c.ModifiedLength, 1)
		}
	}
	for i := range len(c.Features) - 1 {
		from, to := c.Features[i], c.Features[i+1]
		n, h, w := from[0], from[1], from[2]
		for _, v := range []struct {
			name  string
			axis  model.Axis
			shape [4]int
			out   int
		}{
			{"linear1.conv1w", model.AxisW, [4]int{batch, n, h, w}, to[2]},
			{"linear1.conv1h", model.AxisH, [4]int{batch, n, h, to[2]}, to[1]},
			{"linear1.conv2h", model.AxisH, [4]int{batch, n, h, w}, to[1]},
			{"linear1.conv2w", model.AxisW, [4]int{batch, n, to[1], w}, to[2]},
			{"linear2", model.AxisN, [4]int{batch, n, to[1], to[2]}, to[0]},
		} {
			add(layerKey(i, v.name), v.axis, v.shape, v.out, c.KernelSize)
		}
	}
	return count
}

// part describes the way for the weights of a state-dict key: it reads x and them, and
// writes the result.
func (w way) part(key string, axis model.Axis, x [4]int, out, k int) graph.PartTime {
	in, result := product(x[:]...), x
	result[axis] = out
	return graph.PartTime{Label: key, Way: w.name, MACs: w.macs, Bytes: 4 * int64(in+product(result[:]...)+x[axis]*out*k*k)}
}

// Probe measures what the backend reaches.
func (r *Runner) Probe() (graph.Peaks, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	side, count := 1024, 1<<24
	if r.backend.GPU {
		side, count = 8192, 1<<28
	}
	product, err := r.best("probe product", func(in []*gomlx.Node) *gomlx.Node {
		return gomlx.Dot(in[0], in[1]).MatMul()
	}, side, side)
	if err != nil {
		return graph.Peaks{}, err
	}
	sum, err := r.best("probe sum", func(in []*gomlx.Node) *gomlx.Node { return gomlx.Add(in[0], in[1]) }, count)
	if err != nil {
		return graph.Peaks{}, err
	}
	n := float64(side)
	return graph.Peaks{FLOPS: 2 * n * n * n / product, Bytes: 12 * float64(count) / sum}, nil
}

// best is the shortest time of an operation on two tensors of a shape, in seconds.
func (r *Runner) best(name string, build func([]*gomlx.Node) *gomlx.Node, shape ...int) (float64, error) {
	j := job{Runner: r}
	args := make([]any, 2)
	for i := range args {
		values := make([]float32, product(shape...))
		for k := range values {
			values[k] = float32(k%7) - 3
		}
		t, err := j.upload(values, shape...)
		if err != nil {
			return 0, err
		}
		defer free(t)
		args[i] = t
	}
	shortest := math.Inf(1)
	for range 4 { // the first one compiles
		begin := time.Now()
		y, err := r.run(operation{name: name}, build, args...)
		if err != nil {
			return 0, err
		}
		err = tensors.ConstFlatData(y, func([]float32) {})
		shortest = min(shortest, time.Since(begin).Seconds())
		free(y)
		if err != nil {
			return 0, fmt.Errorf("infer: %s: %w", name, err)
		}
	}
	return shortest, nil
}
