package eval

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// cell is a method's outcome on a task's records.
type cell struct {
	Method string    `json:"method"`
	Task   string    `json:"task"`
	Of     string    `json:"of,omitempty"`     // a draw, a training task, or "" where there is one
	Exact  string    `json:"exact"`            // of each record, 1 or 0
	NLL    []float64 `json:"nll"`              // of each record, nats an answer
	Option string    `json:"option,omitempty"` // of each record, 1 where the right one of the task's answers is likeliest
}

func (k *cell) key() string { return k.Method + "\x00" + k.Task + "\x00" + k.Of }

func (k *cell) score() lm.Score {
	s := lm.Score{Exact: share(k.Exact)}
	for _, v := range k.NLL {
		s.NLL += v / float64(len(k.NLL))
	}
	return s
}

func share(ones string) float64 {
	return float64(strings.Count(ones, "1")) / float64(max(len(ones), 1))
}

// cell gives a cell of the store, or scores it.
func (e *evaluation) cell(ctx context.Context, s *cells, k cell, t *Task) (cell, error) {
	if there, ok := s.list[k.key()]; ok {
		return there, nil
	}
	if err := ctx.Err(); err != nil {
		return k, err
	}
	a, err := e.adapter(ctx, k, t)
	if err != nil {
		return k, fmt.Errorf("eval: %s, %s: %w", t.Name, k.Method, err)
	}
	if a != nil && e.c.Scale > 0 && k.Method != Own {
		if a, err = combine.Scale(a, e.c.Scale); err != nil {
			return k, err
		}
	}
	records, options := t.Records, t.options()
	if e.c.Records > 0 {
		records = records[:min(e.c.Records, len(records))]
	}
	if k.Of != "" && k.Of != "0" {
		options = nil // options take as long again each: those of the first draw will do
	}
	if k.Method == TrainMean {
		records, options = records[:min(e.c.Cross, len(records))], nil
	}
	var choices []lm.Choice
	for _, r := range records {
		var c lm.Choice
		for _, answer := range append([]string{r.Response}, others(options, r.Response)...) {
			r.Response = answer
			x, err := e.example(k.Method, t, r)
			if err != nil {
				return k, err
			}
			c.Prompt, c.Answers = x.Prompt, append(c.Answers, x.Answer)
		}
		choices = append(choices, c)
	}
	outcomes, err := e.in.Model.Choices(ctx, choices, a)
	if err != nil {
		return k, err
	}
	for _, each := range outcomes {
		o := each[0]
		if math.IsNaN(o.NLL) || math.IsInf(o.NLL, 0) {
			return k, fmt.Errorf("eval: %s, %s: %w", t.Name, k.Method, errFinite)
		}
		k.NLL = append(k.NLL, math.Round(o.NLL*1e6)/1e6)
		k.Exact += bit(o.Exact)
		if len(each) > 1 {
			k.Option += bit(!slices.ContainsFunc(each[1:], func(x lm.Outcome) bool { return x.NLL <= o.NLL }))
		}
	}
	return k, s.add(k)
}

func bit(yes bool) string {
	if yes {
		return "1"
	}
	return "0"
}

// maxOptions is the most answers that a task chooses from; with more, it is a free one.
const maxOptions = 8

// options are the answers that a task's records choose from; nil if they are free.
func (t *Task) options() []string {
	var list []string
	for _, r := range t.Records {
		if !slices.Contains(list, r.Response) {
			if len(list) == maxOptions {
				return nil
			}
			list = append(list, r.Response)
		}
	}
	slices.Sort(list)
	return list
}

func others(options []string, response string) []string {
	return slices.DeleteFunc(slices.Clone(options), func(o string) bool { return o == response })
}

// example tokenises a record as a method asks it.
func (e *evaluation) example(method string, t *Task, r collect.Record) (x lm.Example, err error) {
	switch method {
	case Instructed:
		r.System = t.System
	case FewShot:
		var b strings.Builder
		for _, shot := range t.Examples[:e.c.Shots] {
			fmt.Fprintf(&b, "%s\n%s\n\n", shot.Question(), shot.Response)
		}
		r.Input = b.String() + r.Question()
	}
	list, dropped, err := collect.Examples(e.in.Model, []collect.Record{r}, maxTokens)
	if err == nil && dropped > 0 {
		err = fmt.Errorf("eval: task %s: a record has more than %d tokens: leave it out", t.Name, maxTokens)
	}
	if err != nil {
		return x, err
	}
	return list[0], nil
}

// cells are those that are there already, and the file that they are added to.
type cells struct {
	list     map[string]cell
	file     *os.File // nil where nothing is kept
	strength float64  // chosen for the ridge
}

const (
	recordName = "eval.json"
	cellsName  = "cells.jsonl"
)

// record identifies what cells depend on: inputs and configuration, but neither what other methods
// are scored nor how many draws, so that a run may go on with more of both.
type record struct {
	Inputs string `json:"inputs"` // SHA-256 of what every method may depend on
	// Rivals are those of the LoRAs that their own rows alone depend on, by "own-task LoRA of TASK" and
	// "joint LoRA": more may come.
	Rivals map[string]string `json:"rivals"`
}

func (e *evaluation) record() record {
	h := sha256.New()
	write := func(v any) {
		raw, _ := json.Marshal(v) // of strings and numbers
		h.Write(raw)
	}
	collected := func(t *Trained) []byte {
		raw, _ := os.ReadFile(filepath.Join(t.Dir, "collect.json"))
		return raw
	}
	c := *e.c
	c.Methods, c.Draws = nil, 0
	write(c)
	write(e.in.Package.SHA256)
	write(e.in.Model.Config)
	write(e.in.Tasks)
	write(e.in.Validation)
	for i := range e.in.Training {
		t := &e.in.Training[i]
		write(t.Name)
		h.Write(collected(t))
	}
	r := record{hex.EncodeToString(h.Sum(nil)), map[string]string{}}
	rival := func(name string, t *Trained) {
		sum := sha256.Sum256(collected(t))
		r.Rivals[name] = hex.EncodeToString(sum[:])
	}
	for i := range e.in.Own {
		rival(Own+" of "+e.in.Own[i].Name, &e.in.Own[i])
	}
	if e.in.Joint != nil {
		rival(Joint, e.in.Joint)
	}
	return r
}

// keep holds a folder to the record of its run, and adds the rivals that are new.
func (r record) keep(dir string) error {
	path := filepath.Join(dir, recordName)
	there := record{Inputs: r.Inputs, Rivals: map[string]string{}}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(raw, &there); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	other := there.Inputs != r.Inputs || there.Rivals == nil // nil in a run of before they were told apart
	for name, sum := range r.Rivals {
		if have, ok := there.Rivals[name]; ok && have != sum {
			other = true
		}
	}
	if other {
		return fmt.Errorf("eval: %s holds a run of other inputs or another configuration: choose another folder, or remove it", dir)
	}
	maps.Copy(there.Rivals, r.Rivals)
	return atomicfile.Write(path, atomicfile.JSON(there))
}

// openCells opens a run's folder. What a killed run wrote half is cut off.
func openCells(dir string, r record) (*cells, error) {
	s := &cells{list: map[string]cell{}}
	if dir == "" {
		return s, nil
	}
	if err := r.keep(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, cellsName)
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	whole := raw[:bytes.LastIndexByte(raw, '\n')+1]
	lines := bufio.NewScanner(bytes.NewReader(whole))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var k cell
		if err := json.Unmarshal(lines.Bytes(), &k); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		s.list[k.key()] = k
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(s.file.Truncate(int64(len(whole))), seekEnd(s.file)); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}

func (s *cells) add(k cell) error {
	s.list[k.key()] = k
	if s.file == nil {
		return nil
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return err
	}
	_, err = s.file.Write(append(raw, '\n'))
	return err
}

func (s *cells) close() {
	if s.file != nil {
		s.file.Close()
	}
}
