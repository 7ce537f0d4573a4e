package fit

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Plan is what a run takes, computed from its configuration alone.
type Plan struct {
	Parameters int64 `json:"parameters"`
	Steps      int   `json:"steps"`
	Batch      int   `json:"batch"`
	// Part is the number of pairs that a device computes at a time.
	Part    int     `json:"pairs_at_a_time"`
	Devices int     `json:"devices"`
	DType   string  `json:"dtype"`
	StepOps float64 `json:"flop_per_step"`
	RunOps  float64 `json:"flop"`

	Memory Memory `json:"device_memory_bytes"`
	// Prompt is the host's memory for the condition of one prompt, Target for the weight
	// tokens of one checkpoint, Checkpoint the disk's for the run; beside it lies Standard, what an Affine
	// decoder's targets are standardised by, and the basis.
	Prompt     int64 `json:"host_bytes_per_prompt"`
	Target     int64 `json:"host_bytes_per_checkpoint"`
	Checkpoint int64 `json:"disk_bytes"`
	Standard   int64 `json:"standard_bytes,omitempty"`

	Times []Time `json:"times,omitempty"`
}

// Memory is one device's, in bytes.
type Memory struct {
	Weights   int64 `json:"weights"`
	Gradients int64 `json:"gradients"` // twice the weights' with accumulation: sums, old and new
	Moments   int64 `json:"optimizer"` // both of Adam's, and the mean with Config.Average
	Inputs    int64 `json:"inputs"`    // conditions and targets of a part, and the basis of weight tokens
	// Activations are those that the backward pass needs, and the largest that are made
	// there at a time.
	Activations int64 `json:"activations"`
	// Reordered are copies of weights in the order that convolutions take, and in Config.DType.
	Reordered int64 `json:"reordered_weights"`
	// Updated is the state that an update writes beside the old one.
	Updated int64 `json:"updated_state"`
	// Peak is the larger one of the two phases' sums: passes (all but Updated) and update
	// (state, Updated and gradients).
	Peak int64 `json:"peak"`
}

// Time is how long a run takes at a measured rate.
type Time struct {
	Rate
	SecondsPerStep float64 `json:"seconds_per_step"`
	Hours          float64 `json:"hours"`
}

// NewPlan plans a run on a number of devices.
func NewPlan(c *Config, devices int) (*Plan, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if devices < 1 || c.Batch/c.Accumulate%devices != 0 {
		return nil, fmt.Errorf("%d pairs computed together do not divide over %d devices", c.Batch/c.Accumulate, devices)
	}
	p := &Plan{Steps: c.Steps, Batch: c.Batch, Part: c.Batch / c.Accumulate / devices, Devices: devices, DType: c.DType}
	for _, t := range c.fitted() {
		p.Parameters += volume(t.Shape...)
	}
	// Backward takes a convolution's work twice, for its input's gradient and its weight's.
	p.StepOps = 2 * 3 * float64(c.Decoder.MACs(1)) * float64(c.Batch)
	p.RunOps = p.StepOps * float64(c.Steps)

	in, out := c.Decoder.Condition(), c.Decoder.Output()
	w := 4 * p.Parameters
	m := Memory{Weights: w, Gradients: w, Moments: 2 * w, Reordered: w,
		Inputs:      4 * (int64(p.Part)*(volume(in[:]...)+volume(out[:]...)) + int64(c.Decoder.Rank())*volume(out[:]...)),
		Activations: activations(c, p.Part)}
	if c.Accumulate > 1 {
		m.Gradients = 2 * w
	}
	if c.Average > 0 {
		m.Moments += w
	}
	m.Updated = m.Weights + m.Moments
	m.Peak = max(m.Weights+m.Gradients+m.Moments+m.Inputs+m.Activations+m.Reordered, m.Weights+m.Moments+m.Updated+w)
	p.Memory = m
	p.Prompt, p.Target = 4*volume(in[1:]...), 4*volume(out[:]...)
	p.Checkpoint = m.Updated
	if c.Decoder.Affine {
		p.Standard = 4 * (int64(2+c.Decoder.Rank())*volume(out[:]...) + 2*int64(out[0]))
	}
	return p, nil
}

// Add adds the time at a rate, which is taken to grow with the number of devices.
func (p *Plan) Add(r Rate) {
	seconds := p.StepOps / r.FLOPS / float64(p.Devices)
	p.Times = append(p.Times, Time{r, seconds, seconds * float64(p.Steps) / 3600})
}

func volume(dims ...int) int64 {
	n := int64(1)
	for _, d := range dims {
		n *= int64(d)
	}
	return n
}

// activations is the most that a part's passes hold at a time, in bytes: of every layer
// its input as it came and, in float32, normalised; the results of its first
// convolutions, both branches, and its output; and the gradients of the largest layer.
func activations(c *Config, items int) int64 {
	size := int64(4)
	if c.DType == BF16 {
		size = 2
	}
	kept, most := int64(0), int64(0)
	f := c.Decoder.Features
	for i := range len(f) - 1 {
		n, h, w := int64(f[i][0]), int64(f[i][1]), int64(f[i][2])
		no, ho, wo := int64(f[i+1][0]), int64(f[i+1][1]), int64(f[i+1][2])
		x, u, v, z, y := n*h*w, n*h*wo, n*ho*w, n*ho*wo, no*ho*wo
		kept += 4*x + size*(x+u+v+2*z+y)
		most = max(most, size*(2*x+max(u, v)+z+y))
	}
	if c.Decoder.Rank() > 0 {
		out := c.Decoder.Output()
		kept += 4 * volume(out[:]...)
	}
	return int64(items) * (kept + most)
}

// Print writes the plan for people.
func (p *Plan) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("parameters", "%s", count(float64(p.Parameters), ""))
	row("run", "%d steps of %d pairs, %d at a time on each of %d devices, convolutions in %s", p.Steps, p.Batch, p.Part, p.Devices, p.DType)
	row("work", "%s a step, %s in all", count(p.StepOps, "FLOP"), count(p.RunOps, "FLOP"))
	m := &p.Memory
	row("memory of a device", "%s at the peak", byteCount(m.Peak))
	for _, x := range []struct {
		name  string
		bytes int64
	}{{"weights", m.Weights}, {"gradients", m.Gradients}, {"optimizer", m.Moments}, {"activations", m.Activations}, {"inputs", m.Inputs},
		{"reordered weights", m.Reordered}, {"updated state", m.Updated}} {
		row("  "+x.name, "%s", byteCount(x.bytes))
	}
	row("memory of the host", "%s a prompt, %s a checkpoint", byteCount(p.Prompt), byteCount(p.Target))
	row("disk", "%s", byteCount(p.Checkpoint+p.Standard))
	for _, x := range p.Times {
		row("time", "%.3g s a step, %.3g hours on %d × %s at %s/s (%s)", x.SecondsPerStep, x.Hours, p.Devices, x.Device, count(x.FLOPS, "FLOP"), x.Source)
	}
	if len(p.Times) == 0 {
		row("time", "no rate was measured for %s: --measure does it on this device", p.DType)
	}
	t.Flush()
}

// count prints a number with a decimal prefix.
func count(v float64, unit string) string {
	prefixes := []string{"", "k", "M", "G", "T", "P", "E", "Z", "Y"}
	i := 0
	for v >= 1000 && i < len(prefixes)-1 {
		v, i = v/1000, i+1
	}
	digits := max(0, 2-int(math.Log10(max(v, 1))))
	return fmt.Sprintf("%.*f %s%s", digits, v, prefixes[i], unit)
}

func byteCount(n int64) string { return count(float64(n), "B") }
