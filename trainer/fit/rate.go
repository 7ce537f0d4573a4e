package fit

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/model"
)

// Rate is what a device reached in the convolutions of a training step.
type Rate struct {
	Device string  `json:"device"`
	DType  string  `json:"dtype"`
	FLOPS  float64 `json:"flop_per_second"`
	Source string  `json:"source"` // what was measured, and when
}

//go:embed rates.json
var knownRates []byte

// Rates are the measured rates in a file that AddRate made, or for "" those that come
// with the program.
func Rates(path string) ([]Rate, error) {
	raw := knownRates
	if path != "" {
		var err error
		if raw, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	var list []Rate
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: expected a list of rates: %w", path, err)
	}
	for i, r := range list {
		if !(r.FLOPS > 0) || math.IsInf(r.FLOPS, 0) || r.Device == "" || r.DType == "" {
			return nil, fmt.Errorf("%s: rate %d: expected device, dtype and a positive flop_per_second", path, i+1)
		}
	}
	return list, nil
}

// AddRate puts a rate into a file, in place of one of the same device and dtype.
func AddRate(path string, r Rate) error {
	var list []Rate
	if _, err := os.Stat(path); err == nil {
		if list, err = Rates(path); err != nil {
			return err
		}
	}
	kept := list[:0]
	for _, other := range list {
		if other.Device != r.Device || other.DType != r.DType {
			kept = append(kept, other)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, atomicfile.JSON(append(kept, r)))
}

// piece is a convolution, or as much of one as is timed.
type piece struct {
	axis  model.Axis
	shape [4]int // of x
	out   int    // channels
	k     int
}

func (p *piece) macs() float64 {
	v := float64(p.out * p.k * p.k)
	for _, d := range p.shape {
		v *= float64(d)
	}
	return v
}

// convolutions are a layer's five.
func convolutions(c decoder.Config, i int) []piece {
	n, h, w := c.Features[i][0], c.Features[i][1], c.Features[i][2]
	no, ho, wo := c.Features[i+1][0], c.Features[i+1][1], c.Features[i+1][2]
	k := c.KernelSize
	return []piece{
		{model.AxisW, [4]int{1, n, h, w}, wo, k}, {model.AxisH, [4]int{1, n, h, wo}, ho, k},
		{model.AxisH, [4]int{1, n, h, w}, ho, k}, {model.AxisW, [4]int{1, n, ho, w}, wo, k},
		{model.AxisN, [4]int{1, n, ho, wo}, no, k},
	}
}

// cut halves the longest plane axis, or where both are short the channels, until at most
// limit multiply-accumulates are left.
func (p piece) cut(limit float64) piece {
	const side, channels = 32, 64
	for p.macs() > limit {
		rows, columns := &p.shape[p.axis.Rows()], &p.shape[p.axis.Columns()]
		longest := rows
		if *columns > *rows {
			longest = columns
		}
		in := &p.shape[p.axis]
		switch {
		case *longest > side:
			*longest = (*longest + 1) / 2
		case p.out > channels && p.out >= *in:
			p.out = (p.out + 1) / 2
		case *in > channels:
			*in = (*in + 1) / 2
		default:
			return p
		}
	}
	return p
}

// The multiply-accumulates of a timed piece: tenths of a second on two cores, and on a
// GPU enough to fill it.
const (
	pieceCPU = 6e9
	pieceGPU = 3e11
)

// MeasureRate times the forward and backward pass of a piece of every convolution of the
// decoder, one item a batch, and gives the rate of all of them by their shares of the
// whole work. Other work of a step (normalisation, update) is not in it.
func MeasureRate(ctx context.Context, c *Config, b backend.Backend, what string, report func(done, total int)) (Rate, error) {
	limit := pieceCPU
	if b.GPU {
		limit = pieceGPU
	}
	seconds, work := 0.0, 0.0
	known := map[piece]float64{}
	total := len(c.Decoder.Features) - 1
	for i := range total {
		for _, whole := range convolutions(c.Decoder, i) {
			if err := ctx.Err(); err != nil {
				return Rate{}, err
			}
			p := whole.cut(limit)
			took, ok := known[p]
			if !ok {
				var err error
				if took, err = p.time(b, c.DType); err != nil {
					return Rate{}, fmt.Errorf("fit: time a convolution of layer %d: %w", i, err)
				}
				known[p] = took
			}
			seconds += took * whole.macs() / p.macs()
			work += 6 * whole.macs()
		}
		report(i+1, total)
	}
	device := b.Device
	if !b.GPU {
		device = fmt.Sprintf("%s, %d threads of %s", device, runtime.GOMAXPROCS(0), processor())
	}
	return Rate{Device: device, DType: c.DType, FLOPS: work / seconds,
		Source: fmt.Sprintf("convolutions of %s, %s", what, time.Now().UTC().Format(time.DateOnly))}, nil
}

// processor is the CPU's name as Linux tells it, else the architecture's.
func processor() string {
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// timings is how often a piece is timed; the shortest counts.
const timings = 3

// time is the shortest time of a forward and backward pass, in seconds.
func (p *piece) time(b backend.Backend, dtype string) (float64, error) {
	exec, err := graph.NewExec(b.Backend, func(x, w *graph.Node) []*graph.Node {
		if dtype == BF16 {
			x, w = graph.ConvertDType(x, dtypes.BFloat16), graph.ConvertDType(w, dtypes.BFloat16)
		}
		y := graph.ConvertDType(model.Convolve(x, w, p.axis, b.NativeConvolution()), dtypes.Float32)
		// The square makes the gradient of y a tensor, as a layer's is.
		grads := graph.Gradient(graph.ReduceAllSum(graph.Square(y)), x, w)
		return []*graph.Node{graph.ConvertDType(graph.ReduceAllSum(grads[0]), dtypes.Float32), grads[1]}
	})
	if err != nil {
		return 0, err
	}
	defer exec.Finalize()
	x := ramp(p.shape[:]...)
	w := ramp(p.out, p.shape[p.axis], p.k, p.k)
	defer backend.Free([]*tensors.Tensor{x, w})
	shortest := math.Inf(1)
	for range 1 + timings { // the first one compiles
		begin := time.Now()
		out, err := exec.Call(x, w)
		if err != nil {
			return 0, err
		}
		tensors.ToScalar[float32](out[0]) // waits for the result
		shortest = min(shortest, time.Since(begin).Seconds())
		backend.Free(out)
	}
	return shortest, nil
}

// ramp is a tensor of small values.
func ramp(dims ...int) *tensors.Tensor {
	v := make([]float32, volume(dims...))
	for i := range v {
		v[i] = float32(i%7)/7 - 0.4
	}
	return tensors.FromFlatDataAndDimensions(v, dims...)
}
