// Package tune finds by measuring how a device convolves fastest: for each shape, it times
// direct summation with each of its tiles and the likeliest plans in the frequency domain on
// the device itself, and takes none whose result is not that of direct summation as planned.
//
// What it finds is a list of choices for a graph.Tuning, kept in a file for each device
// (Load, Save). It knows no model and no GPU: shapes come from the caller, and a
// graph.Executor measures.
package tune

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
)

const (
	// tried is how many plans in the frequency domain are timed, the cheapest by the
	// planner's model.
	tried = 4
	// A shape is measured on a piece of at most so many channels, outputs, rows and columns.
	// More of them change a convolution's speed little, and its time much.
	pieceIn, pieceOut, pieceSide = 512, 32, 48
	// Where a piece takes less than measureTime, up to maxRepeats of it are timed in a row.
	// The fastest of runs counts: other work on the machine only ever makes one slower.
	measureTime = 20 * time.Millisecond
	maxRepeats  = 64
	runs        = 3
	// tolerance is the largest relative difference, root mean square, from direct summation.
	tolerance = 1e-5
)

// Result is what was measured for a shape.
type Result struct {
	Shape graph.ConvShape `json:"shape"`
	// Way is the fastest, Model what the planner takes by itself.
	Way   graph.ConvWay `json:"way"`
	Model graph.ConvWay `json:"model"`
	// Seconds are estimates for the whole shape: a piece's time by the ratio of the model's
	// costs.
	Seconds       float64 `json:"seconds"`
	ModelSeconds  float64 `json:"model_seconds"`
	DirectSeconds float64 `json:"direct_seconds"`
	// Rejected says which ways were not taken, and why.
	Rejected []string `json:"rejected,omitempty"`
}

// Choices are the results as a graph.Tuning lists them.
func Choices(results []Result) []graph.ConvChoice {
	choices := make([]graph.ConvChoice, len(results))
	for i, r := range results {
		choices[i] = graph.ConvChoice{Shape: r.Shape, Way: r.Way}
	}
	return choices
}

// Measure finds the fastest way for each shape. report, which may be nil, is called after
// each.
func Measure(ctx context.Context, exec graph.Executor, shapes []graph.ConvShape, report func(done int)) ([]Result, error) {
	m := &meter{exec: exec, limits: exec.Limits(), timed: map[graph.ConvShape]map[graph.ConvWay]timing{}}
	m.limits.Tuning = nil
	results := make([]Result, len(shapes))
	for i, s := range shapes {
		var err error
		if results[i], err = m.shape(ctx, s); err != nil {
			return nil, fmt.Errorf("tune: %+v: %w", s, err)
		}
		if report != nil {
			report(i + 1)
		}
	}
	return results, nil
}

type meter struct {
	exec   graph.Executor
	limits graph.Limits
	timed  map[graph.ConvShape]map[graph.ConvWay]timing // of pieces
}

// timing is a piece's time in a way, or why it is of no use.
type timing struct {
	took     time.Duration
	values   []float32
	rejected string
}

func piece(s graph.ConvShape) graph.ConvShape {
	return graph.ConvShape{Batch: 1, In: min(s.In, pieceIn), Out: min(s.Out, pieceOut),
		Rows: min(s.Rows, pieceSide), Columns: min(s.Columns, pieceSide), Kernel: s.Kernel}
}

func (m *meter) shape(ctx context.Context, s graph.ConvShape) (Result, error) {
	r := Result{Shape: s, Seconds: math.Inf(1)}
	whole, err := graph.Candidates(m.limits, s)
	if err != nil {
		return r, err
	}
	small := piece(s)
	part, err := graph.Candidates(m.limits, small)
	if err != nil {
		return r, err
	}
	// Direct summation comes first, as planned before other tiles: the others are held to it.
	slices.SortStableFunc(whole, func(a, b graph.Candidate) int { return direct(b) - direct(a) })
	r.Model = graph.Planned(m.limits, s)
	for _, c := range whole[:min(1+len(graph.Tiles())+tried, len(whole))] {
		at := slices.IndexFunc(part, func(p graph.Candidate) bool { return p.Way == c.Way })
		if at < 0 {
			r.Rejected = append(r.Rejected, fmt.Sprintf("%s: does not fit the piece that is measured", c.Way))
			continue
		}
		t, err := m.time(ctx, small, c.Way)
		if err != nil {
			return r, err
		}
		if t.rejected != "" {
			r.Rejected = append(r.Rejected, fmt.Sprintf("%s: %s", c.Way, t.rejected))
			continue
		}
		seconds := t.took.Seconds() * c.Cost / part[at].Cost
		if seconds < r.Seconds {
			r.Way, r.Seconds = c.Way, seconds
		}
		if c.Way == planned {
			r.DirectSeconds = seconds
		}
		if c.Way == r.Model {
			r.ModelSeconds = seconds
		}
	}
	if r.Way.Method == "" {
		return r, errors.New("no way could be measured")
	}
	return r, nil
}

// planned is direct summation with the planner's tile.
var planned = graph.ConvWay{Method: graph.Direct}

func direct(c graph.Candidate) int {
	switch {
	case c.Way == planned:
		return 2
	case c.Way.Method == graph.Direct:
		return 1
	}
	return 0
}

// time times a piece in a way, once for all shapes that have it.
func (m *meter) time(ctx context.Context, s graph.ConvShape, way graph.ConvWay) (timing, error) {
	known := m.timed[s]
	if known == nil {
		known = map[graph.ConvWay]timing{}
		m.timed[s] = known
	}
	if t, ok := known[way]; ok {
		return t, nil
	}
	t, err := m.measure(ctx, s, way)
	switch {
	case err != nil && (ctx.Err() != nil || !errors.Is(err, graph.ErrMemory)):
		return t, err
	case err != nil:
		t.rejected = err.Error()
	default:
		want := known[planned].values
		if way != planned {
			if e := relative(t.values, want); !(e <= tolerance) {
				t.rejected = fmt.Sprintf("its result is off by %.1e, relative to direct summation's: the device or its driver computes wrongly", e)
			}
			t.values = nil
		}
	}
	known[way] = t
	return t, nil
}

func (m *meter) measure(ctx context.Context, s graph.ConvShape, way graph.ConvWay) (timing, error) {
	t, err := m.run(ctx, s, way, 1)
	if err != nil {
		return t, err
	}
	repeats := int(min(measureTime/max(t.took, time.Microsecond)+1, maxRepeats))
	for range runs - 1 {
		again, err := m.run(ctx, s, way, repeats)
		if err != nil {
			return t, err
		}
		t.took = min(t.took, again.took/time.Duration(repeats))
	}
	return t, nil
}

const firstStage, timedStage = "first", "timed"

// run convolves once, which uploads, and then repeats times on the clock.
func (m *meter) run(ctx context.Context, s graph.ConvShape, way graph.ConvWay, repeats int) (timing, error) {
	limits := m.limits
	limits.Tuning = &graph.Tuning{All: way}
	b := graph.NewBuilder(limits)
	x := b.Input("x", [4]int{s.Batch, s.In, s.Rows, s.Columns})
	conv := graph.Conv{Label: "conv", Weight: "w", DType: "F32", Axis: graph.AxisN, Out: s.Out, K: s.Kernel}
	b.Stage(firstStage)
	b.Release(b.Conv(x, conv))
	b.Stage(timedStage)
	for range repeats - 1 {
		b.Release(b.Conv(x, conv))
	}
	b.Read("y", b.Conv(x, conv))
	p, err := b.Program()
	if err != nil {
		return timing{}, err
	}
	taps := s.In * s.Kernel * s.Kernel
	w := weights(uniform(1, s.Out*taps, 1/math.Sqrt(float64(taps))))
	in := uniform(2, s.Batch*s.In*s.Rows*s.Columns, 1)
	result, err := m.exec.Run(ctx, p, w, []graph.Input{{Name: "x", Data: encode(in)}}, nil)
	if err != nil {
		return timing{}, err
	}
	var t timing
	for _, stage := range result.Stages {
		if stage.Stage == timedStage {
			t.took = stage.Duration
		}
	}
	raw, _ := result.Output("y")
	t.values = make([]float32, len(raw)/4)
	for i := range t.values {
		t.values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return t, nil
}

func uniform(seed uint64, n int, scale float64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(scale) * (2*r.Float32() - 1)
	}
	return v
}

func encode(v []float32) []byte {
	raw := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	return raw
}

// weights are the one tensor of a measured Program. It implements graph.Weights.
type weights []float32

func (w weights) ReadWeights(name, dtype string, off int64, p []byte) error {
	if dtype != "F32" || off < 0 || off+int64(len(p)) > int64(len(w))*4 {
		return fmt.Errorf("tune: tensor %s has no bytes %d to %d as %s", name, off, off+int64(len(p)), dtype)
	}
	copy(p, encode(w[off/4:off/4+int64(len(p))/4]))
	return nil
}

// relative is the root mean square of the difference over that of want.
func relative(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var diff, norm float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		diff += d * d
		norm += float64(w) * float64(w)
	}
	return math.Sqrt(diff / norm)
}
