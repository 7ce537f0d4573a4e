// Package merge writes a base model with a LoRA adapter merged into its weights, as a
// Hugging Face folder or a GGUF file, for runtimes that take no adapters. It streams: at
// most one tensor is in memory, and all others are copied byte for byte.
//
// Merging rounds W + (alpha/rank)·B·A to what the file stores, where base and adapter side
// by side round nothing. What that costs is measured for every tensor and returned as a
// Report, which also lies beside the weights as merge.json. Adapters come from package
// lora; nothing of this project reads what comes out.
package merge

import (
	"context"
	"fmt"
	"io"
	"math"
	"path/filepath"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// ReportName is the file beside the merged weights.
const ReportName = "merge.json"

// Report says what was merged and what it cost.
type Report struct {
	FormatVersion int     `json:"format_version"` // 1
	Kind          string  `json:"kind"`           // "dnd merged model"
	Model         string  `json:"base_model,omitempty"`
	Rank          int     `json:"rank"`
	Alpha         float64 `json:"alpha"`
	// Lost is the error of all tensors together, as a part of what the adapter adds.
	Lost    float64  `json:"lost"`
	Tensors []Tensor `json:"tensors"`
}

// Tensor is a weight W to which D = (alpha/rank)·B·A was added. Norms are Frobenius's.
type Tensor struct {
	Name   string  `json:"name"`
	From   string  `json:"from"`   // type in the base
	To     string  `json:"to"`     // type as stored
	Change float64 `json:"change"` // ‖D‖/‖W‖
	Error  float64 `json:"error"`  // ‖stored-(W+D)‖/‖W+D‖
	Lost   float64 `json:"lost"`   // ‖stored-(W+D)‖/‖D‖
}

// Progress is told how many of all bytes are written.
type Progress func(done, total int64)

// merger adds one adapter to the tensors of one base, in the order of the file.
type merger struct {
	ctx     context.Context
	a       *lora.Adapter
	changes []float64 // ‖D‖ of every target
	report  *Report
	squares [2]float64 // of all errors and changes
	tell    Progress
	done    int64
	total   int64
}

func newMerger(ctx context.Context, a *lora.Adapter, spec *lora.Spec, tell Progress) (*merger, error) {
	own := *a
	if err := spec.Fit(&own.Base); err != nil {
		return nil, err
	}
	if err := own.Check(); err != nil {
		return nil, err
	}
	norms, _, err := own.Norms()
	if err != nil {
		return nil, err
	}
	m := &merger{ctx: ctx, a: &own, tell: tell, report: &Report{
		FormatVersion: 1, Kind: "dnd merged model", Model: own.Base.Model, Rank: own.Base.Rank, Alpha: own.Base.Alpha, Tensors: []Tensor{}}}
	for _, n := range norms {
		m.changes = append(m.changes, n.Value)
	}
	return m, nil
}

// target is a weight to be merged: a place in the adapter's targets, its B in the order
// of rows of the file, and the types before and after.
type target struct {
	index int
	name  string
	b     []float32
	from  string
	to    gguf.TensorType
}

// block is how many values are worked on at a time.
const block = 1 << 20

// merge writes a tensor's merged rows. read fills values with the weight's rows from row
// on, in float32.
func (m *merger) merge(w io.Writer, t target, read func(row int, values []float32) error) error {
	size := m.a.Base.Targets[t.index]
	in, rank := size.In, m.a.Base.Rank
	gain := float32(m.a.Base.Alpha / float64(rank))
	right := blas32.General{Rows: rank, Cols: in, Stride: in, Data: m.a.Pairs[t.index].A}
	step := min(size.Out, max(1, block/in))
	values, exact := make([]float32, step*in), make([]float32, step*in)
	bytes, err := gguf.Size(t.to, len(values))
	if err != nil {
		return err
	}
	raw := make([]byte, bytes)
	var before, after, wrong float64 // squares
	for row := 0; row < size.Out; row += step {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		n := min(step, size.Out-row)
		v, e := values[:n*in], exact[:n*in]
		if err := read(row, v); err != nil {
			return err
		}
		for _, x := range v {
			before += float64(x) * float64(x)
		}
		left := blas32.General{Rows: n, Cols: rank, Stride: rank, Data: t.b[row*rank : (row+n)*rank]}
		blas32.Gemm(blas.NoTrans, blas.NoTrans, gain, left, right, 1, blas32.General{Rows: n, Cols: in, Stride: in, Data: v})
		copy(e, v)
		bytes, err := gguf.Size(t.to, len(v))
		if err != nil {
			return err
		}
		for i, x := range e {
			if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
				return fmt.Errorf("value %d becomes %v", row*in+i, x)
			}
		}
		if err := gguf.Encode(t.to, v, raw[:bytes]); err != nil {
			return err
		}
		for i, x := range e {
			if math.IsInf(float64(v[i]), 0) || v[i] != v[i] {
				return fmt.Errorf("value %v is too large for %s: store it as another type", x, t.to)
			}
			after += float64(x) * float64(x)
			d := float64(v[i]) - float64(x)
			wrong += d * d
		}
		if err := m.write(w, raw[:bytes]); err != nil {
			return err
		}
	}
	change := m.changes[t.index]
	m.squares[0], m.squares[1] = m.squares[0]+wrong, m.squares[1]+change*change
	m.report.Tensors = append(m.report.Tensors, Tensor{Name: t.name, From: t.from, To: t.to.String(),
		Change: part(change, math.Sqrt(before)), Error: part(math.Sqrt(wrong), math.Sqrt(after)), Lost: part(math.Sqrt(wrong), change)})
	return nil
}

// part is x/whole, 0 of nothing.
func part(x, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return x / whole
}

func (m *merger) write(w io.Writer, raw []byte) error {
	if _, err := w.Write(raw); err != nil {
		return err
	}
	m.done += int64(len(raw))
	if m.tell != nil {
		m.tell(m.done, m.total)
	}
	return nil
}

// copy writes bytes bytes as they are.
func (m *merger) copy(w io.Writer, bytes int64, read func(off int64, p []byte) error) error {
	raw := make([]byte, min(bytes, 4*block))
	for off := int64(0); off < bytes; {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		p := raw[:min(int64(len(raw)), bytes-off)]
		if err := read(off, p); err != nil {
			return err
		}
		if err := m.write(w, p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// finish writes the report into the folder.
func (m *merger) finish(dir string) error {
	m.report.Lost = part(math.Sqrt(m.squares[0]), math.Sqrt(m.squares[1]))
	return atomicfile.Write(filepath.Join(dir, ReportName), atomicfile.JSON(m.report))
}
