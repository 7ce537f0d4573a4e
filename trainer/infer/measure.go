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

// Work is the number of multiply-accumulates that Decode does, by the ways that it chooses.
func (r *Runner) Work(c decoder.Config, batch int) int64 {
	d := decoding{job: job{Runner: r}, config: c}
	if d.small(batch) {
		return c.MACs(batch)
	}
	sum := c.MACs(batch)
	for i := range len(c.Features) - 1 {
		from, to := c.Features[i], c.Features[i+1]
		n, h, w := from[0], from[1], from[2]
		for _, v := range []struct {
			axis  model.Axis
			shape [4]int
			out   int
		}{
			{model.AxisW, [4]int{batch, n, h, w}, to[2]},
			{model.AxisH, [4]int{batch, n, h, to[2]}, to[1]},
			{model.AxisH, [4]int{batch, n, h, w}, to[1]},
			{model.AxisW, [4]int{batch, n, to[1], w}, to[2]},
			{model.AxisN, [4]int{batch, n, to[1], to[2]}, to[0]},
		} {
			all := newPlan(r.limits, true, v.axis, v.shape, v.out, c.KernelSize).macs()
			sum += r.choose(v.axis, v.shape, v.out, c.KernelSize).macs - all
		}
	}
	return sum
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
