package memory_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/memory"
)

func TestCheck(t *testing.T) {
	has := func(n int64, ok bool) func() (int64, bool) { return func() (int64, bool) { return n, ok } }
	for _, c := range []struct {
		name      string
		bytes     int64
		available func() (int64, bool)
		want      string // part of the error
	}{
		{"enough", 10e9, has(10e9, true), ""},
		{"one byte too many", 10e9 + 1, has(10e9, true), "too little memory: 10.00 GB are needed, 10.00 GB are available"},
		{"far too many", 64e9, has(8e9, true), "64.00 GB are needed, 8.00 GB are available"},
		{"a system that does not tell", 64e9, has(0, false), ""},
		{"nothing", 0, has(0, true), ""},
	} {
		err := memory.CheckOf(c.bytes, c.available)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, memory.ErrFull) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, expected %q", c.name, err, c.want)
		}
	}
	if err := memory.Check(1 << 20); err != nil {
		t.Errorf("one MiB on this machine: %v", err)
	}
	if err := memory.Check(1 << 60); runtime.GOOS == "linux" && !errors.Is(err, memory.ErrFull) {
		t.Errorf("an EiB on this machine: %v", err)
	}
}
