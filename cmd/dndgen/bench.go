package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// benchResult is what bench measured; bench/pytorch.py prints the same keys. Times are of
// the fastest run, "first" ones of the first, which also compiles.
type benchResult struct {
	Tool    string `json:"tool"`
	Shape   string `json:"shape"`
	Backend string `json:"backend"`
	Device  string `json:"device"`
	DType   string `json:"dtype"`
	Batch   int    `json:"batch"`
	CPUs    int    `json:"cpus"`

	EncodeSeconds      float64 `json:"encode_seconds,omitempty"`
	EncodeFirstSeconds float64 `json:"encode_first_seconds,omitempty"`
	EncodeCPUSeconds   float64 `json:"encode_cpu_seconds,omitempty"`
	EncodeMACs         int64   `json:"encode_macs,omitempty"`

	DecodeSeconds      float64 `json:"decode_seconds,omitempty"`
	DecodeFirstSeconds float64 `json:"decode_first_seconds,omitempty"`
	DecodeCPUSeconds   float64 `json:"decode_cpu_seconds,omitempty"`
	// DecodeMACs is direct summation's work, DecodeWorkMACs what this backend does instead.
	DecodeMACs     int64 `json:"decode_macs"`
	DecodeWorkMACs int64 `json:"decode_work_macs"`
	// DecodeFLOPS is DecodeMACs in floating-point operations a second; Efficiency is that of
	// DecodeWorkMACs over the probe's.
	DecodeFLOPS float64 `json:"decode_flops_per_second,omitempty"`
	Efficiency  float64 `json:"decode_efficiency,omitempty"`

	Parameters  int64       `json:"parameters"`
	PeakBytes   int64       `json:"peak_bytes"`   // the process's, most so far
	DeviceBytes int64       `json:"device_bytes"` // 0 where a device has no memory of its own
	Probe       *benchProbe `json:"probe,omitempty"`
	Kernels     []benchPart `json:"kernels,omitempty"`
}

type benchProbe struct {
	FLOPS float64 `json:"flops_per_second"`
	Bytes float64 `json:"bytes_per_second"`
}

// benchPart is one part of the fastest decoding.
type benchPart struct {
	Name    string  `json:"name"`
	Way     string  `json:"way"`
	Seconds float64 `json:"seconds"`
	MACs    int64   `json:"macs"`
}

func (r *benchResult) key() string {
	return fmt.Sprintf("%s, %s, %s, batch %d", r.Shape, r.Backend, r.DType, r.Batch)
}

type benchOptions struct {
	*backendFlags
	shape, stage, compare, out               string
	against, theirDevice, theirDType, python string
	convolution                              string
	batch, runs                              int
	count                                    bool
}

func bench(flags *pflag.FlagSet) cli.Run {
	o := benchOptions{backendFlags: addBackendFlags(flags)}
	flags.StringVar(&o.shape, "shape", "", "the generator's shape: "+strings.Join(generator.Shapes(), ", "))
	flags.StringVar(&o.stage, "stage", "all", "encode, decode or all")
	cli.Values(flags, "stage", "encode", "decode", "all")
	flags.IntVar(&o.batch, "batch", 1, "conditions to decode at a time")
	flags.IntVar(&o.runs, "runs", 1, "runs of each stage; the fastest counts")
	flags.BoolVar(&o.count, "count", false, "only count the work")
	flags.StringVar(&o.convolution, "convolution", convolutionAuto, "how a WebGPU device convolves: auto (as planned), tuned (as dndgen tune found), direct or fourier")
	cli.Values(flags, "convolution", convolutionAuto, convolutionTuned, string(graph.Direct), string(graph.Fourier))
	flags.BoolVar(&o.Profile, "kernels", false, "time every kernel, which makes a WebGPU device slower")
	flags.StringVar(&o.out, "out", "", "file of results to add this one to, in place of one of the same shape and backend")
	flags.StringVar(&o.compare, "compare", "", "file of results that this one must not be worse than, in work and efficiency")
	flags.StringVar(&o.against, "against", "", "script to run by turns with this, in processes of their own: bench/pytorch.py")
	flags.StringVar(&o.theirDevice, "against-device", "cpu", "what the script runs on: cpu or cuda")
	flags.StringVar(&o.theirDType, "against-dtype", "f32", "what it computes in: f32, tf32 or bf16")
	flags.StringVar(&o.python, "python", "", "Python to run it with (default: $DND_PYTHON, else build/deps/venv, else python3)")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := o.check(flags); err != nil {
			return err
		}
		if o.against != "" {
			return o.runAgainst(ctx, e)
		}
		result, err := o.measure(ctx, e)
		if err != nil {
			return err
		}
		if err := e.Result(result, result.print); err != nil {
			return err
		}
		if o.compare != "" {
			if err := compareResults(o.compare, result); err != nil {
				return err
			}
		}
		if o.out != "" {
			return saveResult(o.out, result)
		}
		return nil
	}
}

// Values of --convolution besides the methods.
const (
	convolutionAuto  = "auto"
	convolutionTuned = "tuned"
)

func (o *benchOptions) check(flags *pflag.FlagSet) error {
	if err := cli.Required(flags, "shape"); err != nil {
		return err
	}
	o.shape = strings.ToLower(o.shape)
	if err := cli.OneOf("shape", o.shape, generator.Shapes()...); err != nil {
		return err
	}
	if o.batch < 1 || o.runs < 1 {
		return cli.Usagef("--batch %d and --runs %d: expected positive numbers", o.batch, o.runs)
	}
	if o.against != "" && (o.count || o.compare != "" || o.out != "") {
		return cli.Usagef("--against goes with none of --count, --compare and --out")
	}
	switch o.convolution {
	case convolutionAuto:
		o.Tuning = &graph.Tuning{}
	case convolutionTuned:
	default:
		o.Tuning = &graph.Tuning{All: graph.ConvWay{Method: graph.Method(o.convolution)}}
	}
	return o.backendFlags.check()
}

// measure runs the stages in this process.
func (o *benchOptions) measure(ctx context.Context, e *cli.Env) (*benchResult, error) {
	p, err := generator.MadeUpPackage(o.shape, 0)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	runner, err := o.open(e)
	if err != nil {
		return nil, err
	}
	defer runner.Close()
	measured, ok := runner.(backends.Measured)
	if !ok {
		return nil, fmt.Errorf("backend %s cannot be measured", runner.Name())
	}
	r := &benchResult{Tool: "dndgen", Shape: o.shape, Backend: runner.Name(), Device: runner.Device(), DType: "f32", Batch: o.batch,
		CPUs: runtime.GOMAXPROCS(0), DecodeMACs: p.Manifest.Decoder.MACs(o.batch), Parameters: parameters(p.Manifest.Decoder)}
	if runner.Name() == backends.WebGPU {
		r.DType = o.Weights
	}
	if r.DecodeWorkMACs, err = measured.Work(p, o.batch); err != nil || o.count {
		return r, err
	}
	if o.stage != "decode" {
		if err := o.encode(ctx, e, p, runner, r); err != nil {
			return nil, err
		}
	}
	if o.stage != "encode" {
		if err := o.decode(ctx, e, p, runner, measured, r); err != nil {
			return nil, err
		}
	}
	r.PeakBytes, r.DeviceBytes = peakBytes(), measured.PeakBytes()
	peaks, err := measured.Probe(ctx)
	if err != nil {
		return nil, err
	}
	r.Probe = &benchProbe{peaks.FLOPS, peaks.Bytes}
	if r.DecodeSeconds > 0 {
		r.DecodeFLOPS = 2 * float64(r.DecodeMACs) / r.DecodeSeconds
		r.Efficiency = 2 * float64(r.DecodeWorkMACs) / r.DecodeSeconds / peaks.FLOPS
	}
	return r, nil
}

func parameters(c decoder.Config) int64 {
	var sum int64
	for _, t := range c.Tensors() {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		sum += n
	}
	return sum
}

// times runs work o.runs times and tells the times of the first and the fastest, and the
// processor time of the fastest. done is called after each with whether it is the fastest.
func (o *benchOptions) times(e *cli.Env, stage string, work func(report func(graph.Progress)) error, done func(fastest bool)) (first, best, cpu float64, err error) {
	best = math.Inf(1)
	for i := range o.runs {
		bar := e.Bar()
		begin, used := time.Now(), cpuSeconds()
		err := work(func(p graph.Progress) { bar.Set(stage, p.Done, p.Total, "") })
		bar.Done()
		if err != nil {
			return 0, 0, 0, err
		}
		took := time.Since(begin).Seconds()
		if i == 0 {
			first = took
		}
		if took < best {
			best, cpu = took, cpuSeconds()-used
		}
		done(took == best)
	}
	return first, best, cpu, nil
}

func (o *benchOptions) encode(ctx context.Context, e *cli.Env, p *generator.Package, runner generator.Runner, r *benchResult) error {
	c := p.Manifest.Condition
	batch := text.Batch{Texts: c.Texts, Length: c.Length, IDs: make([]uint32, c.Texts*c.Length), Mask: make([]uint32, c.Texts*c.Length)}
	random := rand.New(rand.NewPCG(1, 0))
	for i := range batch.IDs {
		batch.IDs[i], batch.Mask[i] = random.Uint32N(30000), 1
	}
	var err error
	r.EncodeFirstSeconds, r.EncodeSeconds, r.EncodeCPUSeconds, err = o.times(e, "encode", func(report func(graph.Progress)) error {
		_, err := runner.Encode(ctx, p, batch, func(p graph.Progress) {
			r.EncodeMACs = p.Total
			report(p)
		})
		return err
	}, func(bool) {})
	return err
}

func (o *benchOptions) decode(ctx context.Context, e *cli.Env, p *generator.Package, runner generator.Runner, measured backends.Measured, r *benchResult) error {
	c := p.Manifest.Decoder.Condition()
	random := rand.New(rand.NewPCG(2, 0))
	condition := make([]float32, o.batch*c[0]*c[1]*c[2])
	for i := range condition {
		condition[i] = float32(math.Sqrt(3)) * (2*random.Float32() - 1)
	}
	var parts []benchPart
	measured.Trace(func(t graph.PartTime) {
		// A part may be several dispatches with others between them.
		for i := range parts {
			if parts[i].Name == t.Label && parts[i].Way == t.Way {
				parts[i].Seconds += t.Duration.Seconds()
				parts[i].MACs += t.MACs
				return
			}
		}
		parts = append(parts, benchPart{t.Label, t.Way, t.Duration.Seconds(), t.MACs})
	})
	defer measured.Trace(nil)
	var err error
	r.DecodeFirstSeconds, r.DecodeSeconds, r.DecodeCPUSeconds, err = o.times(e, "decode", func(report func(graph.Progress)) error {
		parts = nil
		values, err := runner.Decode(ctx, p, condition, o.batch, report)
		for i, v := range values {
			if v-v != 0 {
				return fmt.Errorf("value %d of the result is %v: the device computes wrongly", i, v)
			}
		}
		return err
	}, func(fastest bool) {
		if fastest {
			r.Kernels = parts
		}
	})
	return err
}

func (r *benchResult) print(w io.Writer) {
	fmt.Fprintf(w, "%s on %s, %d CPUs, %d parameters\n", r.key(), r.Device, r.CPUs, r.Parameters)
	fmt.Fprintf(w, "%-10s  %.1f GMAC of direct summation, %.1f done\n", "work", float64(r.DecodeMACs)/1e9, float64(r.DecodeWorkMACs)/1e9)
	for _, k := range r.Kernels {
		fmt.Fprintf(w, "%-48s %-17s %8.3f s %9.2f GMAC %9.1f GFLOPS\n", k.Name, k.Way, k.Seconds, float64(k.MACs)/1e9, 2e-9*float64(k.MACs)/k.Seconds)
	}
	if r.EncodeSeconds > 0 {
		fmt.Fprintf(w, "%-10s  %.2f s, the first time %.2f s, %.2f s of processors\n", "encode", r.EncodeSeconds, r.EncodeFirstSeconds, r.EncodeCPUSeconds)
	}
	if r.DecodeSeconds > 0 {
		fmt.Fprintf(w, "%-10s  %.2f s, the first time %.2f s, %.2f s of processors; like %.1f GFLOPS of direct summation\n", "decode",
			r.DecodeSeconds, r.DecodeFirstSeconds, r.DecodeCPUSeconds, r.DecodeFLOPS/1e9)
	}
	if r.Probe != nil {
		fmt.Fprintf(w, "%-10s  %.1f GFLOPS, %.1f GB/s; decoding reached %.0f %% of the former\n", "device", r.Probe.FLOPS/1e9, r.Probe.Bytes/1e9, 100*r.Efficiency)
		fmt.Fprintf(w, "%-10s  %s of the host's, %s of the device's\n", "memory", size(r.PeakBytes), size(r.DeviceBytes))
	}
}
