package loadtest_test

import (
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/internal/server/loadtest"
)

func TestFlat(t *testing.T) {
	soak := func(change func(i int, s *loadtest.Sample)) []loadtest.Sample {
		list := make([]loadtest.Sample, 20)
		for i := range list {
			// The first have yet to fill their caches; then there is noise.
			list[i] = loadtest.Sample{Adapters: i, Resident: 200<<20 + int64(min(i, 4))*20<<20 + int64(i*7%5)<<20, Heap: 50<<20 + int64(i*3%4)<<20, Goroutines: 20 + i%3, Files: 15 + i%2}
			change(i, &list[i])
		}
		return list
	}
	if err := loadtest.Flat(soak(func(int, *loadtest.Sample) {})); err != nil {
		t.Error(err)
	}
	for word, change := range map[string]func(i int, s *loadtest.Sample){
		"resident":   func(i int, s *loadtest.Sample) { s.Resident += int64(i) * 3 << 20 },
		"heap":       func(i int, s *loadtest.Sample) { s.Heap += int64(i) * 2 << 20 },
		"goroutines": func(i int, s *loadtest.Sample) { s.Goroutines += 2 * i },
		"open files": func(i int, s *loadtest.Sample) { s.Files += i },
	} {
		if err := loadtest.Flat(soak(change)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s grows: %v", word, err)
		}
	}
	if err := loadtest.Flat(soak(func(int, *loadtest.Sample) {})[:5]); err == nil {
		t.Error("five samples pass")
	}
}
