package infer_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/internal/golden"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/infer"
)

// BenchmarkEncode reports how many times as long the same texts take without a word of
// padding, which is what each takes that is computed at its whole length.
func BenchmarkEncode(b *testing.B) {
	dir := golden.Path("..", "..", "..", "build", "deps", "minilm")
	p, err := generator.OpenEncoder(dir, 1, 512)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	c := p.Manifest.Encoder.Config
	mixed := make([]int, 128)
	for i := range mixed {
		mixed[i] = 9 + i*i/280
	}
	same := func(n, count int) (list []int) {
		for range count {
			list = append(list, n)
		}
		return list
	}
	for _, name := range backend.Names {
		for _, test := range []struct {
			name    string
			length  int
			lengths []int
			pads    string
		}{
			{"16 of 9 in 64, zero", 64, same(9, 16), generator.PadsZero},
			{"16 of 9 in 64, encoded", 64, same(9, 16), generator.PadsEncoded},
			{"128 of 9 to 66 in 128, zero", 128, mixed, generator.PadsZero},
			{"4 of 64 in 512, zero", 512, same(64, 4), generator.PadsZero},
			{"4 of 64 in 512, encoded", 512, same(64, 4), generator.PadsEncoded},
		} {
			b.Run(name+"/"+test.name, func(b *testing.B) {
				k, err := backend.Open(name)
				if err != nil {
					b.Fatal(err)
				}
				defer k.Finalize()
				r := infer.New(k)
				defer r.Close()
				var times, processors [2]time.Duration
				var least, works [2]time.Duration
				for i := range 2 * (b.N + 1) {
					lengths := test.lengths
					if i%2 == 1 {
						lengths = same(test.length, len(lengths))
					}
					ids, mask := texts(c, test.length, lengths)
					used, begin := processor(b), time.Now()
					if _, err := r.Encode(b.Context(), c, p.Weights(), ids, mask, len(lengths), test.length, test.pads, nil); err != nil {
						b.Fatal(err)
					}
					took, work := time.Since(begin), processor(b)-used
					if i < 2 { // compiles
						times[i], processors[i] = took, work
						continue
					}
					if i < 4 || took < least[i%2] {
						least[i%2] = took
					}
					if i < 4 || work < works[i%2] {
						works[i%2] = work
					}
				}
				b.ReportMetric(least[0].Seconds(), "s")
				b.ReportMetric(least[1].Seconds()/least[0].Seconds(), "times-whole")
				b.ReportMetric(works[1].Seconds()/works[0].Seconds(), "times-whole-processor")
				b.ReportMetric(times[1].Seconds()/times[0].Seconds(), "times-whole-first")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// processor is the processor time that the process has used so far.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
