package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
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

type benchOptions struct {
	*backendFlags
	shape, layout, stage                     string
	compare, out, plot, sweep                string
	against, theirDevice, theirDType, python string
	convolution                              string
	batch, runs                              int
	count, start                             bool
	roof                                     []float64 // FLOP/s and bytes/s
}

func bench(flags *pflag.FlagSet) cli.Run {
	o := benchOptions{backendFlags: addBackendFlags(flags)}
	flags.StringVar(&o.shape, "shape", "", "the generator's shape: "+strings.Join(generator.Shapes(), ", "))
	flags.StringVar(&o.layout, "layout", "", "layout file of a decoder to measure instead of a shape's")
	flags.StringVar(&o.stage, "stage", "all", "encode, decode or all")
	cli.Values(flags, "stage", "encode", "decode", "all")
	flags.IntVar(&o.batch, "batch", 1, "conditions to decode at a time")
	flags.IntVar(&o.runs, "runs", 1, "runs of each stage; the fastest counts")
	flags.BoolVar(&o.count, "count", false, "only count the work and the device's memory")
	flags.Float64SliceVar(&o.roof, "roof", nil, "also say what a device of these rates would take at best, as FLOP/s,bytes/s: a model of the counted work")
	flags.StringVar(&o.convolution, "convolution", convolutionAuto, "how a WebGPU device convolves: auto (as planned), tuned (as dndgen tune found), direct or fourier")
	cli.Values(flags, "convolution", convolutionAuto, convolutionTuned, string(graph.Direct), string(graph.Fourier))
	flags.BoolVar(&o.Profile, "kernels", false, "time every kernel: by the device's timestamps where it has them; by waiting for each elsewhere on WebGPU, which makes it slower")
	flags.StringVar(&o.plot, "plot", "", "PNG file: every kernel under the device's roofline, or the curves of --sweep")
	flags.StringVar(&o.sweep, "sweep", "", "measure time and memory against one of "+strings.Join(sweeps(), ", ")+", or all, of a small decoder, and fit curves")
	cli.Values(flags, "sweep", append(sweeps(), "all")...)
	flags.BoolVar(&o.start, "start", false, "time whole calls of dndgen generate: with empty caches, with full ones, and one of many tasks")
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
		switch {
		case o.against != "":
			return o.runAgainst(ctx, e)
		case o.sweep != "":
			return o.runSweep(ctx, e)
		case o.start:
			return o.runStart(ctx, e)
		}
		result, err := o.measure(ctx, e)
		if err != nil {
			return err
		}
		var worse error
		if o.compare != "" {
			worse = compareResults(o.compare, result)
		}
		if err := e.Result(result, result.print); err != nil {
			return err
		}
		if worse != nil {
			return worse
		}
		if o.plot != "" {
			if err := plotRoofline(o.plot, result); err != nil {
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
	modes := 0
	for _, on := range []bool{o.shape != "", o.layout != "", o.sweep != "", o.start} {
		if on {
			modes++
		}
	}
	if modes != 1 {
		return cli.Usagef("expected one of --shape, --layout, --sweep and --start")
	}
	o.shape = strings.ToLower(o.shape)
	if o.shape != "" {
		if err := cli.OneOf("shape", o.shape, generator.Shapes()...); err != nil {
			return err
		}
	}
	if o.batch < 1 || o.runs < 1 {
		return cli.Usagef("--batch %d and --runs %d: expected positive numbers", o.batch, o.runs)
	}
	if o.against != "" && (o.shape == "" || o.count || o.compare != "" || o.out != "" || o.plot != "") {
		return cli.Usagef("--against goes with --shape, and with none of --count, --compare, --out and --plot")
	}
	if (o.sweep != "" || o.start) && (o.count || o.compare != "" || o.out != "") || o.start && o.plot != "" || o.count && o.plot != "" {
		return cli.Usagef("--sweep and --start go with none of --count, --compare and --out, --start and --count not with --plot")
	}
	if len(o.roof) != 0 && (len(o.roof) != 2 || !(o.roof[0] > 0) || !(o.roof[1] > 0) || math.IsInf(o.roof[0]+o.roof[1], 0)) {
		return cli.Usagef("--roof %v: expected two positive numbers, FLOP/s and bytes/s", o.roof)
	}
	if o.plot != "" {
		o.Profile = true
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
	p, err := o.madeUp()
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
	count, err := measured.Count(p, o.batch)
	if err != nil {
		return nil, err
	}
	r.DecodeWorkMACs, r.DeviceNeed, r.WeightBytes = count.MACs, count.Memory.Peak, count.Memory.Weights
	counted := parts(nil)
	for _, t := range count.Parts {
		counted.add(t)
	}
	if len(o.roof) == 2 {
		r.Roof = newRoof(benchProbe{o.roof[0], o.roof[1]}, counted)
	}
	if o.count {
		if o.Profile {
			r.Kernels = counted
		}
		return r, nil
	}
	if o.stage != "decode" {
		if err := o.encode(ctx, e, p, runner, measured, r); err != nil {
			return nil, err
		}
	}
	if o.stage != "encode" {
		if err := o.decode(ctx, e, p, runner, measured, r); err != nil {
			return nil, err
		}
	}
	r.PeakBytes, r.DeviceBytes = peakBytes(), measured.PeakBytes()
	r.UploadedBytes, r.HiddenBytes = measured.Uploads()
	r.Timestamps = measured.Timestamps()
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

// madeUp is the package to measure.
func (o *benchOptions) madeUp() (*generator.Package, error) {
	if o.layout == "" {
		return generator.MadeUpPackage(o.shape, 0)
	}
	l, err := generator.ReadLayout(o.layout)
	if err != nil {
		return nil, err
	}
	o.shape = strings.TrimSuffix(filepath.Base(o.layout), filepath.Ext(o.layout))
	return generator.MadeUpDecoder(o.shape, l.Decoder, 0), nil
}

// parts are what a run was measured in. A part may be several dispatches with others
// between them.
type parts []benchPart

func (p *parts) add(t graph.PartTime) {
	for i := range *p {
		if k := &(*p)[i]; k.Stage == t.Stage && k.Name == t.Label && k.Way == t.Way {
			k.Seconds += t.Duration.Seconds()
			k.MACs += t.MACs
			k.Bytes += t.Bytes
			return
		}
	}
	*p = append(*p, benchPart{t.Stage, t.Label, t.Way, t.Duration.Seconds(), t.MACs, t.Bytes})
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

func (o *benchOptions) encode(ctx context.Context, e *cli.Env, p *generator.Package, runner generator.Runner, measured backends.Measured, r *benchResult) error {
	if p.Manifest.Encoder == nil {
		return fmt.Errorf("conditions of width %d are not the text encoder's: use --stage decode", p.Manifest.Condition.Width)
	}
	c := p.Manifest.Condition
	batch := text.Batch{Texts: c.Texts, Length: c.Length, IDs: make([]uint32, c.Texts*c.Length), Mask: make([]uint32, c.Texts*c.Length)}
	random := rand.New(rand.NewPCG(1, 0))
	for i := range batch.IDs {
		batch.IDs[i], batch.Mask[i] = random.Uint32N(30000), 1
	}
	var list, fastest parts
	measured.Trace(func(t graph.PartTime) { list.add(t) })
	defer measured.Trace(nil)
	var err error
	r.EncodeFirstSeconds, r.EncodeSeconds, r.EncodeCPUSeconds, err = o.times(e, "encode", func(report func(graph.Progress)) error {
		list = nil
		_, err := runner.Encode(ctx, p, batch, func(p graph.Progress) {
			r.EncodeMACs = p.Total
			report(p)
		})
		return err
	}, func(best bool) {
		if best {
			fastest = list
		}
	})
	r.Kernels = append(r.Kernels, fastest...)
	r.EncodeFLOPS = 2 * float64(r.EncodeMACs) / r.EncodeSeconds
	return err
}

func (o *benchOptions) decode(ctx context.Context, e *cli.Env, p *generator.Package, runner generator.Runner, measured backends.Measured, r *benchResult) error {
	c := p.Manifest.Decoder.Condition()
	random := rand.New(rand.NewPCG(2, 0))
	condition := make([]float32, o.batch*c[0]*c[1]*c[2])
	for i := range condition {
		condition[i] = float32(math.Sqrt(3)) * (2*random.Float32() - 1)
	}
	var list, fastest parts
	measured.Trace(func(t graph.PartTime) { list.add(t) })
	defer measured.Trace(nil)
	var err error
	r.DecodeFirstSeconds, r.DecodeSeconds, r.DecodeCPUSeconds, err = o.times(e, "decode", func(report func(graph.Progress)) error {
		list = nil
		values, err := runner.Decode(ctx, p, condition, o.batch, report)
		for i, v := range values {
			if v-v != 0 {
				return fmt.Errorf("value %d of the result is %v: the device computes wrongly", i, v)
			}
		}
		return err
	}, func(best bool) {
		if best {
			fastest = list
		}
	})
	r.Kernels = append(r.Kernels, fastest...)
	return err
}
