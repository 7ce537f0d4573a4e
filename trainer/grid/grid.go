// Package grid is a file that says how tasks are composed and what each is for: training,
// choosing, or the final measurement. A task's name is CONTENT-FORMAT.
package grid

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/trainer/collect"
)

// Grid is such a file.
type Grid struct {
	Contents []string `json:"contents"`
	Formats  []string `json:"formats"`
	// Systems are system prompts that spell formats out, for the instructed base.
	Systems    map[string]string `json:"systems,omitempty"`
	Train      []string          `json:"train"`
	Validation []string          `json:"validation"` // never trained on, for every choice
	HeldOut    []string          `json:"held_out"`   // never looked at before the final measurement
	Seed       uint64            `json:"seed"`
}

// Read reads and checks a grid file.
func Read(path string) (*Grid, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var g Grid
	if err := json.Unmarshal(raw, &g); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &g, nil
}

// Validate returns all that is wrong, joined: a task in two lists would let the generator
// see what it is measured on.
func (g *Grid) Validate() error {
	var all []error
	if len(g.Train) == 0 {
		all = append(all, errors.New(`no data sets under "train"`))
	}
	in := map[string]string{}
	for _, list := range []struct {
		name  string
		tasks []string
	}{{"train", g.Train}, {"validation", g.Validation}, {"held_out", g.HeldOut}} {
		for _, task := range list.tasks {
			if there := in[task]; there != "" {
				all = append(all, fmt.Errorf("task %s is in %s and in %s", task, there, list.name))
			}
			in[task] = list.name
			if len(g.Contents) > 0 && g.Attributes(task) == nil {
				all = append(all, fmt.Errorf("task %s of %s is not CONTENT-FORMAT of the lists %v and %v", task, list.name, g.Contents, g.Formats))
			}
		}
	}
	return errors.Join(all...)
}

// Attributes are a task's content and format; nil of a name that is not composed of them.
func (g *Grid) Attributes(task string) []string {
	content, format, _ := strings.Cut(task, "-")
	if !slices.Contains(g.Contents, content) || !slices.Contains(g.Formats, format) {
		return nil
	}
	return []string{content, format}
}

// System spells the format of a task out, "" where the grid does not.
func (g *Grid) System(task string) string {
	_, format, _ := strings.Cut(task, "-")
	return g.Systems[format]
}

// Records reads a task's records of a part, "train" or "test", of a data folder.
func Records(data, part, task string) ([]collect.Record, error) {
	sets, err := collect.ReadDataSets([]string{filepath.Join(data, part)}, []string{task})
	if err != nil {
		return nil, err
	}
	return sets[0].Records, nil
}
