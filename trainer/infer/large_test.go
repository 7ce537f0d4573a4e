package infer_test

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// madeUp gives small weights, the same for the same range, without holding any.
type madeUp struct{}

func (madeUp) ReadWeights(name, _ string, off int64, p []byte) error {
	scale := float32(0.01)
	if strings.HasSuffix(name, "norm.weight") {
		scale = 1
	}
	state := uint32(off/4)*2654435761 + uint32(len(name))
	for ; len(p) >= 4; p = p[4:] {
		state = state*1664525 + 1013904223
		binary.LittleEndian.PutUint32(p, math.Float32bits(scale*(float32(state>>8)/(1<<23)-1)))
	}
	return nil
}

// reference05B is the shape of the reference's decoder for Qwen2.5-0.5B: 1.113 G
// parameters, 4.45 GB in float32, 4.1 TMAC (section b.4).
var reference05B = decoder.Config{
	Class: decoder.FullCond,
	Features: [][3]int{{128, 384, 384}, {128, 200, 300}, {128, 100, 256}, {256, 50, 200}, {512, 50, 200},
		{1024, 25, 200}, {1024, 10, 200}, {2048, 10, 200}, {4296, 10, 130}},
	KernelSize: 9,
}

// BenchmarkDecode05B runs the whole reference decoder and reports the peak of the
// process's memory.
func BenchmarkDecode05B(b *testing.B) {
	for _, name := range backend.Names {
		b.Run(name, func(b *testing.B) {
			be, err := backend.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			defer be.Finalize()
			r := infer.New(be)
			defer r.Close()
			condition := make([]float32, 128*384*384)
			for i := range condition {
				condition[i] = float32(i%17) - 8
			}
			slowest, last := time.Duration(0), time.Now()
			for b.Loop() {
				_, err := r.Decode(context.Background(), reference05B, madeUp{}, condition, 1, func(p graph.Progress) {
					slowest, last = max(slowest, time.Since(last)), time.Now()
					if b.N == 1 && os.Getenv("DND_VERBOSE") != "" {
						b.Logf("%.1f%% peak %.0f MB", 100*float64(p.Done)/float64(p.Total), peakMB())
					}
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(2*4128.97*float64(b.N)/b.Elapsed().Seconds(), "GFLOPS")
			b.ReportMetric(slowest.Seconds(), "s/tile-max")
			b.ReportMetric(peakMB(), "MB-peak")
		})
	}
}

// peakMB is the process's peak resident memory, 0 where that cannot be told.
func peakMB() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kb / 1024
		}
	}
	return 0
}
