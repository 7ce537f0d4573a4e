package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

const (
	// moreWork is by how much a count may grow before it is a regression.
	moreWork = 1.01
	// leastEfficiency is what must be left of the baseline's efficiency. Both are ratios to
	// the same device at the same time, but other processes disturb them all the same.
	leastEfficiency = 0.5
	maxResults      = 1 << 20
)

// readResults reads a file of results.
func readResults(path string) ([]*benchResult, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []*benchResult
	if err := json.NewDecoder(io.LimitReader(f, maxResults)).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: expected a list of results of dndgen bench: %w", path, err)
	}
	for i, r := range list {
		if r == nil {
			return nil, fmt.Errorf("%s: result %d is null", path, i)
		}
	}
	return list, nil
}

// saveResult puts a result into a file of them.
func saveResult(path string, r *benchResult) error {
	list, err := readResults(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := range list {
		if list[i].key() == r.key() {
			list[i] = r
			r = nil
			break
		}
	}
	if r != nil {
		list = append(list, r)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		return enc.Encode(list)
	})
}

// compareResults returns an error if r is worse than the result of its key in the file.
func compareResults(path string, r *benchResult) error {
	list, err := readResults(path)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.key() != r.key() {
			continue
		}
		var worse []string
		if float64(r.DecodeWorkMACs) > moreWork*float64(b.DecodeWorkMACs) {
			worse = append(worse, fmt.Sprintf("%d multiply-accumulates, were %d", r.DecodeWorkMACs, b.DecodeWorkMACs))
		}
		if r.Efficiency > 0 && r.Efficiency < leastEfficiency*b.Efficiency {
			worse = append(worse, fmt.Sprintf("%.0f %% of what the device reaches, were %.0f %%", 100*r.Efficiency, 100*b.Efficiency))
		}
		if len(worse) > 0 {
			return fmt.Errorf("%s: worse than in %s: %s", r.key(), path, strings.Join(worse, "; "))
		}
		return nil
	}
	return fmt.Errorf("%s: has no result for %s: add it with --out", path, r.key())
}

// rival is what --against runs and how.
type rival struct{ python, script string }

func (o *benchOptions) rival() rival {
	python := o.python
	if python == "" {
		python = os.Getenv("DND_PYTHON")
	}
	if venv := filepath.Join("build", "deps", "venv", "bin", "python"); python == "" {
		python = "python3"
		if _, err := os.Stat(venv); err == nil {
			python = venv
		}
	}
	return rival{python, o.against}
}

// pair is the result of --against: both sides' fastest runs, and the other's over ours.
type pair struct {
	Ours   *benchResult       `json:"ours"`
	Theirs *benchResult       `json:"theirs"`
	Ratios map[string]float64 `json:"ratios"` // theirs over ours: above 1 is faster or smaller here
}

// runAgainst measures both sides by turns, each in a process of its own.
func (o *benchOptions) runAgainst(ctx context.Context, e *cli.Env) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	common := []string{"--shape", o.shape, "--stage", o.stage, "--batch", strconv.Itoa(o.batch), "--json"}
	ours := append([]string{"bench", "--quiet", "--backend", o.Backend, "--device", strconv.Itoa(o.Device), "--weights", o.Weights,
		"--memory", strconv.FormatInt(o.Memory, 10), "--convolution", o.convolution}, common...)
	other := o.rival()
	var p pair
	for i := range o.runs {
		e.Message("run %d of %d: %s", i+1, o.runs, other.script)
		if err := measureProcess(ctx, &p.Theirs, other.python, append([]string{other.script, "--device", o.theirDevice, "--dtype", o.theirDType}, common...)); err != nil {
			return err
		}
		e.Message("run %d of %d: dndgen", i+1, o.runs)
		if err := measureProcess(ctx, &p.Ours, self, ours); err != nil {
			return err
		}
	}
	p.Ratios = map[string]float64{}
	ratio := func(name string, theirs, ours float64) {
		if theirs > 0 && ours > 0 {
			p.Ratios[name] = theirs / ours
		}
	}
	a, b := p.Theirs, p.Ours
	ratio("decode_seconds", a.DecodeSeconds, b.DecodeSeconds)
	ratio("decode_cpu_seconds", a.DecodeCPUSeconds, b.DecodeCPUSeconds)
	ratio("encode_seconds", a.EncodeSeconds, b.EncodeSeconds)
	ratio("encode_cpu_seconds", a.EncodeCPUSeconds, b.EncodeCPUSeconds)
	ratio("peak_bytes", float64(a.PeakBytes), float64(b.PeakBytes))
	ratio("device_bytes", float64(a.DeviceBytes), float64(b.DeviceBytes))
	return e.Result(p, p.print)
}

// measureProcess runs a program that prints a result, and keeps it in *best if it is
// faster than that.
func measureProcess(ctx context.Context, best **benchResult, program string, args []string) error {
	var out, problems bytes.Buffer
	c := exec.CommandContext(ctx, program, args...)
	c.Stdout, c.Stderr = &out, &problems
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, oneLine(problems.String(), 500))
	}
	var r benchResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("%s %s printed no result: %w", program, strings.Join(args, " "), err)
	}
	if *best == nil || r.DecodeSeconds+r.EncodeSeconds < (*best).DecodeSeconds+(*best).EncodeSeconds {
		*best = &r
	}
	return nil
}

func (p *pair) print(w io.Writer) {
	fmt.Fprintf(w, "%s, batch %d: %s (%s) and %s (%s, %s)\n\n", p.Ours.Shape, p.Ours.Batch, p.Theirs.Device, p.Theirs.Tool, p.Ours.Device, p.Ours.Tool, p.Ours.Backend)
	fmt.Fprintf(w, "| | %s, %s | %s, %s | ratio |\n|---|---|---|---|\n", p.Theirs.Tool, p.Theirs.DType, p.Ours.Tool, p.Ours.DType)
	row := func(key, name, format string, theirs, ours any) {
		if r, ok := p.Ratios[key]; ok {
			fmt.Fprintf(w, "| %s | "+format+" | "+format+" | %.2f |\n", name, theirs, ours, r)
		}
	}
	row("decode_seconds", "decode", "%.2f s", p.Theirs.DecodeSeconds, p.Ours.DecodeSeconds)
	row("decode_cpu_seconds", "decode, processor time", "%.2f s", p.Theirs.DecodeCPUSeconds, p.Ours.DecodeCPUSeconds)
	row("encode_seconds", "encode", "%.2f s", p.Theirs.EncodeSeconds, p.Ours.EncodeSeconds)
	row("encode_cpu_seconds", "encode, processor time", "%.2f s", p.Theirs.EncodeCPUSeconds, p.Ours.EncodeCPUSeconds)
	row("peak_bytes", "peak host memory", "%s", size(p.Theirs.PeakBytes), size(p.Ours.PeakBytes))
	row("device_bytes", "peak device memory", "%s", size(p.Theirs.DeviceBytes), size(p.Ours.DeviceBytes))
}
