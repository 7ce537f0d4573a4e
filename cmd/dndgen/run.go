package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

// backendFlags are the flags of all commands that compute.
type backendFlags struct{ backends.Options }

func addBackendFlags(flags *pflag.FlagSet) *backendFlags {
	b := &backendFlags{}
	flags.StringVar(&b.Backend, "backend", backends.Auto, "auto, webgpu, pjrt or cpu")
	cli.Values(flags, "backend", backends.Names()...)
	flags.IntVar(&b.Device, "device", -1, "number of the WebGPU device, see dndgen devices (default: the best)")
	flags.StringVar(&b.Weights, "weights", "f32", "type of the weights on a WebGPU device: f32, f16, q8 or q4 (other backends compute in f32)")
	cli.Values(flags, "weights", "f32", "f16", "q8", "q4")
	flags.Int64Var(&b.Memory, "memory", 0, "most bytes of device memory to use at a time (default: what the device has)")
	return b
}

// mostResident is how many bytes of weights and what is computed with them stay on a device
// whose memory nobody has told, WebGPU least of all.
const mostResident = 2 << 30

// resident is how many bytes may stay on the device from one adapter to the next.
func (b *backendFlags) resident() int64 {
	if b.Memory > 0 {
		return b.Memory
	}
	return mostResident
}

func (b *backendFlags) check() error {
	if b.Memory < 0 {
		return cli.Usagef("--memory %d: expected a number of bytes", b.Memory)
	}
	return nil
}

// open opens the backend and says which it is.
func (b *backendFlags) open(e *cli.Env) (generator.Runner, error) {
	r, err := backends.Open(b.Options, func(note string) { e.Message("note: %s", note) })
	if err != nil {
		return nil, err
	}
	e.Message("backend %s: %s", r.Name(), r.Device())
	if b.Weights != "f32" && r.Name() != backends.WebGPU {
		e.Message("note: --weights %s is for WebGPU devices, backend %s computes in f32", b.Weights, r.Name())
	}
	return r, nil
}

// stopwatch times the stages of a command.
type stopwatch struct {
	e      *cli.Env
	Stages []stage
}

type stage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// time runs one stage with a progress bar.
func (s *stopwatch) time(name string, work func(report func(graph.Progress)) error) error {
	bar := s.e.Bar()
	begin := time.Now()
	err := work(func(p graph.Progress) { bar.Set(name, p.Done, p.Total, "") })
	bar.Done()
	s.add(name, time.Since(begin))
	return err
}

// add counts a stage that comes once a draw as one.
func (s *stopwatch) add(name string, d time.Duration) {
	for i := range s.Stages {
		if s.Stages[i].Name == name {
			s.Stages[i].Seconds += d.Seconds()
			return
		}
	}
	s.Stages = append(s.Stages, stage{name, d.Seconds()})
}

// The tensors that encode writes and decode reads and writes.
const (
	conditionTensor = "condition" // (B,N,L,C)
	outputTensor    = "output"    // (B,T,h,w)
)

// tensorResult is what encode and decode print.
type tensorResult struct {
	Out     string  `json:"out"`
	Tensor  string  `json:"tensor"`
	Shape   []int   `json:"shape"`
	Backend string  `json:"backend"`
	Device  string  `json:"device"`
	Stages  []stage `json:"stages"`
}

func (r *tensorResult) print(e *cli.Env) error {
	return e.Result(r, func(w io.Writer) {
		fmt.Fprintf(w, "%s: tensor %q %v, on %s (%s)\n", r.Out, r.Tensor, r.Shape, r.Device, r.Backend)
		printStages(w, r.Stages)
	})
}

func printStages(w io.Writer, stages []stage) {
	for _, s := range stages {
		fmt.Fprintf(w, "%-10s  %.2f s\n", s.Name, s.Seconds)
	}
}

func encode(flags *pflag.FlagSet) cli.Run {
	dir := flags.String("encoder", "", "text encoder (Hugging Face folder)")
	prompts := flags.String("prompts", "", "file of prompts: .txt, .json, .jsonl or .csv; - for standard input")
	field := flags.String("field", "", "key of a record's prompt (default: prompt)")
	count := flags.Int("count", 0, "prompts in the condition (default: as many as there are)")
	length := flags.Int("length", 384, "tokens of a prompt")
	out := flags.String("out", "", "file for the tensor \"condition\", (1,N,L,width)")
	b := addBackendFlags(flags)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "encoder", "prompts", "out"); err != nil {
			return err
		}
		if *count < 0 || *length < 1 {
			return cli.Usagef("--count %d and --length %d: expected positive numbers", *count, *length)
		}
		if err := b.check(); err != nil {
			return err
		}
		list, err := readPrompts(*prompts, *field)
		if err != nil {
			return err
		}
		if *count == 0 {
			*count = len(list)
		}
		if len(list) < *count {
			e.Message("note: %d prompts for %d places: they are repeated", len(list), *count)
		}
		// In the file's order: what is encoded can be told from its place.
		texts := make([]string, *count)
		for i := range texts {
			texts[i] = list[i%len(list)]
		}
		p, err := generator.OpenEncoder(*dir, *count, *length)
		if err != nil {
			return err
		}
		defer p.Close()
		tokenizer, err := p.Tokenizer()
		if err != nil {
			return err
		}
		batch, err := tokenizer.Encode(texts, *length)
		if err != nil {
			return err
		}
		r, err := b.open(e)
		if err != nil {
			return err
		}
		defer r.Close()
		watch := stopwatch{e: e}
		var values []float32
		err = watch.time("encode", func(report func(graph.Progress)) (err error) {
			values, err = r.Encode(ctx, p, batch, report)
			return err
		})
		if err != nil {
			return err
		}
		shape := []int{1, *count, *length, p.Manifest.Condition.Width}
		return writeTensor(ctx, e, *out, conditionTensor, values, shape, r, watch)
	}
}

func decode(flags *pflag.FlagSet) cli.Run {
	name := flags.String("generator", "", generators.Usage+" (default: the one that comes with dnd)")
	keys := generators.AddKeys(flags)
	condition := flags.String("condition", "", "file with a tensor \"condition\", (B,N,L,width) or (N,L,width)")
	out := flags.String("out", "", "file for the tensor \"output\", (B,T,h,w)")
	b := addBackendFlags(flags)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "condition", "out"); err != nil {
			return err
		}
		if err := b.check(); err != nil {
			return err
		}
		p, err := openPackage(ctx, e, *name, keys)
		if err != nil {
			return err
		}
		defer p.Close()
		values, batch, err := readCondition(*condition, p.Manifest.Condition)
		if err != nil {
			return err
		}
		r, err := b.open(e)
		if err != nil {
			return err
		}
		defer r.Close()
		watch := stopwatch{e: e}
		err = watch.time("decode", func(report func(graph.Progress)) (err error) {
			values, err = r.Decode(ctx, p, values, batch, report)
			return err
		})
		if err != nil {
			return err
		}
		o := p.Manifest.Decoder.Output()
		return writeTensor(ctx, e, *out, outputTensor, values, []int{batch, o[0], o[1], o[2]}, r, watch)
	}
}

func writeTensor(ctx context.Context, e *cli.Env, path, name string, values []float32, shape []int, r generator.Runner, watch stopwatch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := safetensors.WriteFile(path, []safetensors.Tensor{safetensors.FromFloat32s(name, safetensors.F32, values, shape...)}, nil); err != nil {
		return err
	}
	result := tensorResult{Out: path, Tensor: name, Shape: shape, Backend: r.Name(), Device: r.Device(), Stages: watch.Stages}
	return result.print(e)
}

// readCondition reads a condition and the number of draws in it.
func readCondition(path string, c generator.Condition) ([]float32, int, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	t, ok := f.Lookup(conditionTensor)
	if !ok {
		return nil, 0, fmt.Errorf("%s: has no tensor %q", path, conditionTensor)
	}
	s := t.Shape
	if len(s) == 3 {
		s = append([]int{1}, s...)
	}
	if len(s) != 4 || s[0] < 1 || s[1] != c.Texts || s[2] != c.Length || s[3] != c.Width {
		return nil, 0, fmt.Errorf("%s: tensor %q has shape %v, expected (B,%d,%d,%d)", path, conditionTensor, t.Shape, c.Texts, c.Length, c.Width)
	}
	values, err := f.Float32s(conditionTensor)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	for i, v := range values {
		if v-v != 0 { // NaN or infinite
			return nil, 0, fmt.Errorf("%s: tensor %q: value %d is %v, expected finite numbers", path, conditionTensor, i, v)
		}
	}
	return values, s[0], nil
}

func readPrompts(path, field string) ([]string, error) { return text.ReadPrompts(path, stdin, field) }
