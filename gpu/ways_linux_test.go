package gpu_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/gpu"
	"github.com/drag-and-drop-lora/dnd/internal/conformance"
)

// BenchmarkWays is each of the layers by direct summation and in the frequency domain, by
// turns.
func BenchmarkWays(b *testing.B) {
	d := open(b, gpu.Options{Device: -1})
	for _, c := range conformance.Layers {
		b.Run(c.Name, func(b *testing.B) {
			direct, fourier, err := c.Compare(b.Context(), d, b.N, processor)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(direct.Wall.Seconds(), "direct-s")
			b.ReportMetric(fourier.Wall.Seconds(), "fourier-s")
			b.ReportMetric(direct.Wall.Seconds()/fourier.Wall.Seconds(), "gain")
			b.ReportMetric(direct.Processor.Seconds(), "direct-cpu-s")
			b.ReportMetric(fourier.Processor.Seconds(), "fourier-cpu-s")
			b.ReportMetric(direct.Processor.Seconds()/fourier.Processor.Seconds(), "cpu-gain")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// processor is the time that this process's threads have computed for.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
