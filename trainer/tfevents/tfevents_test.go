package tfevents_test

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drag-and-drop-lora/dnd/trainer/tfevents"
)

// written is a folder of a run that was resumed at step 3, after steps 1 to 4.
func written(t *testing.T) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	for _, steps := range [][]int{{1, 2, 3, 4}, {3, 4, 5}} {
		w, err := tfevents.Create(dir, steps[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range steps {
			if err := w.Add(i, tfevents.Scalar{Tag: "loss", Value: float64(i) / 3}, tfevents.Scalar{Tag: "rate", Value: 1e-5}); err != nil {
				t.Fatal(err)
			}
		}
		files = append(files, w.Path())
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(files) {
		t.Errorf("files %q are not in order", files)
	}
	return dir, files
}

// records are the messages of a file, whose checksums are checked.
func records(t *testing.T, path string) [][]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(data []byte) uint32 {
		v := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
		return v>>15 + v<<17 + 0xa282ead8
	}
	var list [][]byte
	for len(raw) > 0 {
		n := int(binary.LittleEndian.Uint64(raw))
		if binary.LittleEndian.Uint32(raw[8:]) != sum(raw[:8]) || binary.LittleEndian.Uint32(raw[12+n:]) != sum(raw[12:12+n]) {
			t.Fatalf("%s: a checksum is wrong", path)
		}
		list, raw = append(list, raw[12:12+n]), raw[16+n:]
	}
	return list
}

// fields are a message's, the last one of each number.
func fields(t *testing.T, message []byte) map[protowire.Number][]byte {
	t.Helper()
	out := map[protowire.Number][]byte{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		out[number], message = message[n:n+size], message[n+size:]
	}
	return out
}

func TestRecords(t *testing.T) {
	_, files := written(t)
	list := records(t, files[1])
	if len(list) != 5 {
		t.Fatalf("%d records, want version, start and three steps", len(list))
	}
	if v, _ := protowire.ConsumeString(fields(t, list[0])[3]); v != "brain.Event:2" {
		t.Errorf("file version %q", v)
	}
	step := func(i int) uint64 { v, _ := protowire.ConsumeVarint(fields(t, list[i])[2]); return v }
	if _, ok := fields(t, list[1])[7]; !ok || step(1) != 3 {
		t.Errorf("the second record is no start at step 3")
	}
	summary, _ := protowire.ConsumeBytes(fields(t, list[4])[5])
	value, _ := protowire.ConsumeBytes(fields(t, summary)[1])
	tag, _ := protowire.ConsumeString(fields(t, value)[1])
	bits, _ := protowire.ConsumeFixed32(fields(t, value)[2])
	if step(4) != 5 || tag != "rate" || math.Float32frombits(bits) != 1e-5 {
		t.Errorf("step %d, tag %q, value %v", step(4), tag, math.Float32frombits(bits))
	}
}

const reader = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1])
a.Reload()
print(json.dumps({t: [[e.step, e.value] for e in a.Scalars(t)] for t in a.Tags()["scalars"]}))
`

// TensorBoard's own reader sees each step once, as the resumed run wrote it.
func TestTensorBoardReads(t *testing.T) {
	python := os.Getenv("DND_PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", "build", "deps", "venv", "bin", "python")
	}
	if exec.Command(python, "-c", "import tensorboard").Run() != nil {
		t.Skipf("%s has no package tensorboard: `make deps` installs it", python)
	}
	dir, _ := written(t)
	out, err := exec.Command(python, "-c", reader, dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][][2]float64
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if len(got) != 2 || len(got["loss"]) != 5 {
		t.Fatalf("TensorBoard reads %v", got)
	}
	for i, e := range got["loss"] {
		if e[0] != float64(i+1) || math.Abs(e[1]-e[0]/3) > 1e-6 {
			t.Errorf("step %d: TensorBoard reads %v", i+1, e)
		}
	}
}
