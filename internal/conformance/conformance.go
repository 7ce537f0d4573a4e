// Package conformance is the one table of cases that every executor of Programs must
// pass: each kernel against a plain Go reference at awkward sizes, and whole networks
// against outputs of the official implementation (package golden).
//
// A case is a Program, the tensors and inputs that it names, and what it must read back.
// RunAll runs the table natively; a browser's test serves the same Programs. Before a
// Program runs, its temporary memory is filled with NaN and fenced with guards: a kernel
// that reads what nobody wrote, or writes outside of its buffer, fails. Only tests import
// this package.
package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Case is one run of a Program.
type Case struct {
	Name    string
	Program *graph.Program
	Weights Tensors
	Inputs  []graph.Input
	Want    []Want
	// Slow cases are left out of short runs.
	Slow bool
}

// Want is what a read must give, within Tolerance of every value.
type Want struct {
	Name      string
	Values    []float32
	Tolerance float64
	// Rows, when not nil, are the rows of Width values that Values holds; the rest of the
	// read is not compared.
	Rows  []int
	Width int
	// Map is applied to what was read before it is compared.
	Map func(float64) float64
}

// Tensors are weights in memory. It implements graph.Weights.
type Tensors map[string][]float32

// ReadWeights delivers a range of a tensor as dtype.
func (w Tensors) ReadWeights(name, dtype string, off int64, p []byte) error {
	values, ok := w[name]
	if quant.BlockBytes(dtype) > 0 {
		all := make([]byte, quant.Size(dtype, int64(len(values))))
		if err := quant.Encode(dtype, values, all); err != nil {
			return err
		}
		if !ok || off+int64(len(p)) > int64(len(all)) {
			return fmt.Errorf("tensor %s has %d values, asked for %d bytes of %s at %d", name, len(values), len(p), dtype, off)
		}
		copy(p, all[off:])
		return nil
	}
	size := safetensors.DType(dtype).Size()
	if !ok || size == 0 || off%size != 0 || int64(len(p))%size != 0 || (off+int64(len(p)))/size > int64(len(values)) {
		return fmt.Errorf("tensor %s has %d values, asked for %d bytes of %s at %d", name, len(values), len(p), dtype, off)
	}
	return safetensors.EncodeFloats(safetensors.DType(dtype), values[off/size:(off+int64(len(p)))/size], p)
}

// Floats are the bytes of an input or of a read.
func Floats(values []float32) []byte {
	raw := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	return raw
}

// Words are the bytes of an input of words.
func Words(values []uint32) []byte {
	raw := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(raw[4*i:], v)
	}
	return raw
}

// groups are the parts of the table; a case's name begins with its group's.
var groups = []struct {
	name  string
	cases func() ([]Case, error)
}{
	{"conv", convolutions},
	{"planes", planeCases},
	{"tokens", tokenCases},
	{"rows", rowsCases},
	{"decoder", decoderCases},
	{"encoder", encoderCases},
}

// RunAll runs every case on exec, planned for WebGPU's default limits or less, and logs
// the largest error of each. backend is what records call it.
func RunAll(t *testing.T, exec graph.Executor, backend string) {
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			cases, err := g.cases()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				t.Run(c.Name, func(t *testing.T) {
					if why := skipped(c, exec.Limits()); why != "" {
						Save(t, Record{Backend: backend, Case: g.name + "/" + c.Name, Skipped: why})
						t.Skip(why)
					}
					errs, err := Run(context.Background(), exec, c)
					if err != nil {
						t.Error(err)
					}
					for i, w := range c.Want {
						t.Logf("%s: largest error %.3g, allowed %.3g", w.Name, errs[i], w.Tolerance)
						Save(t, Record{Backend: backend, Case: g.name + "/" + c.Name, Error: errs[i], Allowed: w.Tolerance})
					}
				})
			}
		})
	}
}

// skipped says why an executor of these limits does not run a case; empty if it does.
func skipped(c Case, have graph.Limits) string {
	need := c.Program.Requires
	switch {
	case c.Slow && testing.Short():
		return "slow"
	case need.ShaderF16 && !have.ShaderF16:
		return "the executor offers no shader-f16"
	case need.Subgroups && !have.Subgroups:
		return "the executor offers no subgroups"
	}
	return ""
}

// Cases is the whole table, names with their group's before them.
func Cases() ([]Case, error) {
	var all []Case
	for _, g := range groups {
		cases, err := g.cases()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		for _, c := range cases {
			c.Name = g.name + "/" + c.Name
			all = append(all, c)
		}
	}
	return all, nil
}

// Run runs one case and compares: the largest error of each of c.Want, math.MaxFloat64
// for what did not come or is no number.
func Run(ctx context.Context, exec graph.Executor, c Case) (errs []float64, err error) {
	errs = make([]float64, len(c.Want))
	for i := range errs {
		errs[i] = math.MaxFloat64
	}
	p, poison, guards := Fence(c.Program)
	if err := p.Validate(); err != nil {
		return errs, err
	}
	result, err := exec.Run(ctx, p, c.Weights, append([]graph.Input{poison}, c.Inputs...), nil)
	if err != nil {
		return errs, err
	}
	var bad []error
	for _, g := range guards {
		raw, _ := result.Output(g)
		for i := 0; i+4 <= len(raw); i += 4 {
			if binary.LittleEndian.Uint32(raw[i:]) != poisonWord {
				bad = append(bad, fmt.Errorf("%s: word %d was overwritten", g, i/4))
				break
			}
		}
		if len(raw) == 0 {
			bad = append(bad, fmt.Errorf("%s: nothing was read", g))
		}
	}
	for i, w := range c.Want {
		worst, err := w.compare(result)
		if err != nil {
			bad = append(bad, err)
		}
		errs[i] = worst
	}
	return errs, errors.Join(bad...)
}

func (w *Want) compare(result *graph.Result) (worst float64, err error) {
	raw, ok := result.Output(w.Name)
	if !ok {
		return math.MaxFloat64, fmt.Errorf("%s: no such result", w.Name)
	}
	rows, width := w.Rows, w.Width
	if rows == nil {
		rows, width = []int{0}, len(w.Values)
		if len(raw) != 4*width {
			return math.MaxFloat64, fmt.Errorf("%s: %d bytes, want %d values", w.Name, len(raw), width)
		}
	}
	if len(rows)*width != len(w.Values) {
		return math.MaxFloat64, fmt.Errorf("%s: %d rows of %d for %d values", w.Name, len(rows), width, len(w.Values))
	}
	worstAt := 0
	for i, want := range w.Values {
		at := (rows[i/width]*width + i%width) * 4
		got := float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[at:])))
		if w.Map != nil {
			got = w.Map(got)
		}
		// Written so that NaN counts as wrong.
		if d := math.Abs(got - float64(want)); !(d <= worst) {
			worst, worstAt = d, i
			if math.IsNaN(d) {
				return math.MaxFloat64, fmt.Errorf("%s: value %d is %v, want %v", w.Name, i, got, want)
			}
		}
	}
	if worst > w.Tolerance {
		return worst, fmt.Errorf("%s: value %d is off by %g, allowed %g", w.Name, worstAt, worst, w.Tolerance)
	}
	return worst, nil
}

const (
	poisonInput = "conformance.poison"
	poisonWord  = 0x7fc0dead // a NaN
	guardBytes  = 256
)

// Fence is a copy of p whose zero buffers begin as NaN, with guards before and behind
// them that are read back under the names in guards.
func Fence(p *graph.Program) (fenced *graph.Program, poison graph.Input, guards []string) {
	q := *p
	q.Buffers = append([]graph.Buffer(nil), p.Buffers...)
	q.Dispatches = append([]graph.Dispatch(nil), p.Dispatches...)
	q.Reads = append([]graph.Read(nil), p.Reads...)
	moved := map[int]int64{} // buffer to its size before
	var most int64
	for i := range q.Buffers {
		b := &q.Buffers[i]
		if b.Source.Kind != graph.SourceZero {
			continue
		}
		moved[i] = b.Bytes
		b.Bytes += 2 * guardBytes
		b.Source = graph.Source{Kind: graph.SourceInput, Name: poisonInput, Bytes: b.Bytes}
		most = max(most, b.Bytes)
	}
	q.Requires.MaxBufferSize = max(q.Requires.MaxBufferSize, most)
	for i := range q.Dispatches {
		d := &q.Dispatches[i]
		d.Binds = append([]graph.Bind(nil), d.Binds...)
		for j := range d.Binds {
			if _, ok := moved[d.Binds[j].Buffer]; ok {
				d.Binds[j].Offset += guardBytes
			}
		}
	}
	for i := range q.Reads {
		if _, ok := moved[q.Reads[i].Buffer]; ok {
			q.Reads[i].Offset += guardBytes
		}
	}
	for i := range q.Buffers {
		bytes, ok := moved[i]
		if !ok {
			continue
		}
		for _, g := range []struct {
			name   string
			offset int64
		}{{"before", 0}, {"behind", guardBytes + bytes}} {
			name := fmt.Sprintf("guard %s buffer %d (%s)", g.name, i, q.Buffers[i].Label)
			guards = append(guards, name)
			q.Reads = append(q.Reads, graph.Read{Name: name, Buffer: i, Offset: g.offset, Bytes: guardBytes})
		}
	}
	words := make([]uint32, most/4)
	for i := range words {
		words[i] = poisonWord
	}
	return &q, graph.Input{Name: poisonInput, Data: Words(words)}, guards
}
