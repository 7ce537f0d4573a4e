package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
)

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

// args are the flags that choose the backend, for a process of one's own.
func (b *backendFlags) args() []string {
	return []string{"--backend", b.Backend, "--device", strconv.Itoa(b.Device), "--weights", b.Weights, "--memory", strconv.FormatInt(b.Memory, 10)}
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
	ours := append(append([]string{"bench", "--quiet", "--convolution", o.convolution}, o.args()...), common...)
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
