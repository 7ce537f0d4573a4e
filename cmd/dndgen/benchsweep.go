package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/picture"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
)

// sweepBase is the decoder that sweeps start from: small enough that a processor takes a
// second for the largest of them, and not for its parts to be all start-up.
var sweepBase = sweepPoint{prompts: 16, length: 64, tokens: 512, batch: 1}

type sweepPoint struct{ prompts, length, tokens, batch int }

func (p sweepPoint) config() decoder.Config {
	return decoder.Config{Class: decoder.FullCond, KernelSize: 5, Features: [][3]int{
		{p.prompts, p.length, 384}, {32, 16, 128}, {64, 10, 128}, {p.tokens, 10, 128}}}
}

// sweep is a quantity that grows while the others stay.
type sweep struct {
	name   string
	values []int
	set    func(p *sweepPoint, v int)
	encode bool // whether the text encoder's work depends on it
}

var allSweeps = []sweep{
	{"parameters", []int{256, 1024, 4096, 8192, 16384}, func(p *sweepPoint, v int) { p.tokens = v }, false},
	{"prompts", []int{4, 8, 16, 32, 64}, func(p *sweepPoint, v int) { p.prompts = v }, true},
	{"length", []int{32, 64, 128, 256, 512}, func(p *sweepPoint, v int) { p.length = v }, true},
	{"batch", []int{1, 2, 4, 8, 16}, func(p *sweepPoint, v int) { p.batch = v }, false},
}

func sweeps() []string {
	names := make([]string, len(allSweeps))
	for i, s := range allSweeps {
		names[i] = s.name
	}
	return names
}

// swept is the result of --sweep.
type swept struct {
	Backend string `json:"backend"`
	Device  string `json:"device"`
	// Processor says that times are the processors', which other programs hardly disturb.
	Processor bool         `json:"processor_time"`
	Curves    []sweptCurve `json:"curves"`
}

// onProcessor says whether what computed is the processor.
func (r *benchResult) onProcessor() bool {
	return r.Backend == backends.CPU || strings.HasPrefix(r.Device, "XLA on cpu") || strings.Contains(r.Device, "software")
}

// sweptCurve is Y = A + B·X^Exponent, fitted to what was measured.
type sweptCurve struct {
	Against  string    `json:"against"`
	Measure  string    `json:"measure"` // encode_seconds, decode_seconds or peak_bytes
	X        []float64 `json:"x"`
	Y        []float64 `json:"y"`
	A        float64   `json:"a"`
	B        float64   `json:"b"`
	Exponent float64   `json:"exponent"`
	R2       float64   `json:"r2"`
	// Arithmetic and Traffic are the shares of the device's peaks that the largest point
	// reached, for decode_seconds.
	Arithmetic float64 `json:"arithmetic_share,omitempty"`
	Traffic    float64 `json:"traffic_share,omitempty"`
}

// runSweep measures every point in a process of its own: a process's peak memory never goes
// down.
func (o *benchOptions) runSweep(ctx context.Context, e *cli.Env) error {
	dir, err := os.MkdirTemp("", "dnd-sweep-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var r swept
	for _, s := range allSweeps {
		if o.sweep != s.name && o.sweep != "all" {
			continue
		}
		if err := o.sweepOne(ctx, e, dir, s, &r); err != nil {
			return fmt.Errorf("sweep of %s: %w", s.name, err)
		}
	}
	if o.plot != "" {
		if err := r.plot(o.plot); err != nil {
			return err
		}
	}
	return e.Result(r, r.print)
}

func (o *benchOptions) sweepOne(ctx context.Context, e *cli.Env, dir string, s sweep, r *swept) error {
	curves := map[string]*sweptCurve{}
	measures := []string{"decode_seconds", "peak_bytes"}
	if s.encode {
		measures = append([]string{"encode_seconds"}, measures...)
	}
	for _, m := range measures {
		curves[m] = &sweptCurve{Against: s.name, Measure: m}
	}
	for i, v := range s.values {
		e.Message("%s: point %d of %d", s.name, i+1, len(s.values))
		p := sweepBase
		s.set(&p, v)
		got, err := o.sweepMeasure(ctx, dir, s, p)
		if err != nil {
			return err
		}
		r.Backend, r.Device = got.Backend, got.Device
		x := float64(v)
		if s.name == "parameters" {
			x = float64(got.Parameters)
		}
		memory := got.PeakBytes
		if got.DeviceBytes > 0 {
			memory = got.DeviceBytes
		}
		r.Processor = got.onProcessor()
		encode, decode := got.EncodeSeconds, got.DecodeSeconds
		if r.Processor {
			encode, decode = got.EncodeCPUSeconds, got.DecodeCPUSeconds
		}
		for m, y := range map[string]float64{"encode_seconds": encode, "decode_seconds": decode, "peak_bytes": float64(memory)} {
			if c := curves[m]; c != nil {
				c.X, c.Y = append(c.X, x), append(c.Y, y)
			}
		}
		traffic := 0.0
		for _, k := range got.Kernels {
			if k.Stage == decoder.Stage {
				traffic += float64(k.Bytes)
			}
		}
		d := curves["decode_seconds"]
		d.Arithmetic, d.Traffic = got.Efficiency, traffic/got.DecodeSeconds/got.Probe.Bytes
	}
	for _, m := range measures {
		c := curves[m]
		c.A, c.B, c.Exponent, c.R2 = fitPower(c.X, c.Y)
		r.Curves = append(r.Curves, *c)
	}
	return nil
}

func (o *benchOptions) sweepMeasure(ctx context.Context, dir string, s sweep, p sweepPoint) (*benchResult, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(p.config())
	if err != nil {
		return nil, err
	}
	layout := filepath.Join(dir, "sweep.json")
	if err := os.WriteFile(layout, raw, 0o600); err != nil {
		return nil, err
	}
	stage := "decode"
	if s.encode {
		stage = "all"
	}
	args := append([]string{"bench", "--quiet", "--json", "--kernels", "--convolution", o.convolution, "--layout", layout, "--stage", stage, "--batch", strconv.Itoa(p.batch), "--runs", strconv.Itoa(o.runs)}, o.args()...)
	var r *benchResult
	return r, measureProcess(ctx, &r, self, args)
}

// fitPower fits y = a + b·x^p, a and b not negative, with the least relative errors; r2 is
// how much of y's variance it explains.
func fitPower(x, y []float64) (a, b, p, r2 float64) {
	best := math.Inf(1)
	for step := range 121 {
		try := 0.025 * float64(step)
		// Weighted least squares in the two unknowns, weights 1/y².
		var s, sx, sxx, sy, sxy float64
		for i := range x {
			w, u := 1/(y[i]*y[i]), math.Pow(x[i], try)
			s, sx, sxx, sy, sxy = s+w, sx+w*u, sxx+w*u*u, sy+w*y[i], sxy+w*u*y[i]
		}
		for _, c := range [][2]float64{
			{(sxx*sy - sx*sxy) / (s*sxx - sx*sx), (s*sxy - sx*sy) / (s*sxx - sx*sx)}, {0, sxy / sxx}, {sy / s, 0},
		} {
			if !(c[0] >= 0 && c[1] >= 0) {
				continue
			}
			e := 0.0
			for i := range x {
				d := (c[0] + c[1]*math.Pow(x[i], try) - y[i]) / y[i]
				e += d * d
			}
			if e < best*(1-1e-9) {
				best, a, b, p = e, c[0], c[1], try
			}
		}
	}
	mean, total, left := 0.0, 0.0, 0.0
	for _, v := range y {
		mean += v / float64(len(y))
	}
	for i, v := range y {
		d := a + b*math.Pow(x[i], p) - v
		total, left = total+(v-mean)*(v-mean), left+d*d
	}
	if total == 0 {
		return a, b, p, 1
	}
	return a, b, p, 1 - left/total
}

// unit is a measure's name and the number that makes its values readable.
func (r *swept) unit(c *sweptCurve) (name string, scale float64) {
	switch {
	case c.Measure == "peak_bytes":
		return "memory, MB", 1e-6
	case r.Processor:
		return strings.TrimSuffix(c.Measure, "_seconds") + ", processor s", 1
	}
	return strings.TrimSuffix(c.Measure, "_seconds") + ", s", 1
}

// limit says what bounds a curve's time at its largest point.
func (c *sweptCurve) limit() string {
	switch {
	case c.Measure != "decode_seconds":
		return ""
	case max(c.Arithmetic, c.Traffic) < 0.25:
		return fmt.Sprintf("neither peak (%.0f %% of arithmetic, %.0f %% of traffic): small parts", 100*c.Arithmetic, 100*c.Traffic)
	case c.Arithmetic >= c.Traffic:
		return fmt.Sprintf("arithmetic (%.0f %% of the peak)", 100*c.Arithmetic)
	}
	return fmt.Sprintf("memory traffic (%.0f %% of the peak)", 100*c.Traffic)
}

func (r *swept) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s); a decoder of %v\n\n", r.Device, r.Backend, sweepBase.config().Features)
	fmt.Fprintf(w, "| against | measure | smallest | largest | curve | R² | bound at the largest by |\n|---|---|---|---|---|---|---|\n")
	for i := range r.Curves {
		c := &r.Curves[i]
		name, scale := r.unit(c)
		last := len(c.X) - 1
		fmt.Fprintf(w, "| %s | %s | %.3g at %.4g | %.3g at %.4g | %.3g + %.3g·x^%.2f | %.3f | %s |\n", c.Against, name,
			scale*c.Y[0], c.X[0], scale*c.Y[last], c.X[last], scale*c.A, scale*c.B, c.Exponent, c.R2, c.limit())
	}
}

func (r *swept) plot(path string) error {
	var curves []picture.Curve
	for i := range r.Curves {
		c := &r.Curves[i]
		name, scale := r.unit(c)
		y := make([]float64, len(c.Y))
		for k, v := range c.Y {
			y[k] = scale * v
		}
		curves = append(curves, picture.Curve{X: c.X, Y: y, XLabel: c.Against, YLabel: name,
			Fit: func(x float64) float64 { return scale * (c.A + c.B*math.Pow(x, c.Exponent)) }, Legend: fmt.Sprintf("~ x^%.2f", c.Exponent)})
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		return picture.Curves(w, r.Device+" ("+r.Backend+")", curves)
	})
}

// plotRoofline draws a result's kernels under its device's peaks.
func plotRoofline(path string, r *benchResult) error {
	var points []picture.Kernel
	for _, k := range r.Kernels {
		points = append(points, picture.Kernel{Name: k.Name, Group: k.Way, Seconds: k.Seconds, FLOP: 2 * float64(k.MACs), Bytes: float64(k.Bytes)})
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		return picture.Roofline(w, r.key()+" on "+r.Device, points, r.Probe.FLOPS, r.Probe.Bytes)
	})
}
