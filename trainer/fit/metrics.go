package fit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/trainer/tfevents"
)

// Metrics is a line of metrics.jsonl.
type Metrics struct {
	Step     int     `json:"step"` // from 1
	Loss     float64 `json:"loss"`
	Smoothed float64 `json:"smoothed"` // exponential mean of the loss
	// Weights and Answers are the losses on weights and answers that Loss is made of;
	// Answers is absent in steps without it.
	Weights float64 `json:"loss_on_weights"`
	Answers float64 `json:"loss_on_answers,omitempty"`

	Norm    float64 `json:"gradient_norm"` // before clipping
	Rate    float64 `json:"learning_rate"`
	Seconds float64 `json:"seconds"` // that the step took
}

const metricsName = "metrics.jsonl"

// metrics writes a run's metrics as they come: a line of JSON and TensorBoard's events a
// step.
type metrics struct {
	lines  *os.File
	events *tfevents.Writer
}

// openMetrics goes on after a step: what a killed run wrote of later ones is dropped.
func openMetrics(dir string, step int) (*metrics, error) {
	path := filepath.Join(dir, metricsName)
	if err := trimMetrics(path, step); err != nil {
		return nil, err
	}
	m := &metrics{}
	var err error
	if m.lines, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	if m.events, err = tfevents.Create(dir, step+1); err != nil {
		m.lines.Close()
		return nil, err
	}
	return m, nil
}

// trimMetrics keeps the lines of the first steps.
func trimMetrics(path string, steps int) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var kept []byte
	for line := range bytes.Lines(raw) {
		var m Metrics
		// The last line may be cut short.
		if json.Unmarshal(line, &m) != nil || m.Step > steps {
			break
		}
		kept = append(kept, line...)
	}
	if len(kept) > 0 && !bytes.HasSuffix(kept, []byte("\n")) {
		kept = append(kept, '\n')
	}
	if bytes.Equal(kept, raw) {
		return nil
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		_, err := w.Write(kept)
		return err
	})
}

func (m *metrics) add(x Metrics) error {
	line, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if _, err := m.lines.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("fit: %w", err)
	}
	scalars := []tfevents.Scalar{{Tag: "loss", Value: x.Loss}, {Tag: "loss_on_weights", Value: x.Weights}, {Tag: "gradient_norm", Value: x.Norm},
		{Tag: "learning_rate", Value: x.Rate}, {Tag: "seconds", Value: x.Seconds}}
	if x.Answers != 0 {
		scalars = append(scalars, tfevents.Scalar{Tag: "loss_on_answers", Value: x.Answers})
	}
	return m.events.Add(x.Step, scalars...)
}
func (m *metrics) close() error { return errors.Join(m.lines.Close(), m.events.Close()) }
