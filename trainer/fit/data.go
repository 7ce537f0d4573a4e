package fit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/standard"
)

// DataSet is one training data set as package collect leaves it.
type DataSet struct {
	Name        string
	Prompts     []string
	Checkpoints []string // paths of adapter files, in order
	config      []byte   // adapter_config.json
}

// Data is all that a run is fitted on. Its tokens are read when they are needed.
type Data struct {
	Base   lora.Base
	Sets   []DataSet
	layout *lora.Layout
	joint  []float32 // weight tokens (T,h,w) of SetJoint's adapter, nil without
	digest string    // SHA-256 of the file they are from
}

// OpenData reads the folder that collect wrote: for each data set named (all, if none
// is) its prompts.json, adapter_config.json and checkpoints/. It checks every checkpoint
// against the first one's base; all that is wrong comes back joined in one error.
func OpenData(dir string, names []string, field string, tiling lora.Tiling) (*Data, error) {
	names, err := setNames(dir, names)
	if err != nil {
		return nil, err
	}
	d := &Data{}
	var all []error
	for _, name := range names {
		set, err := openSet(filepath.Join(dir, name), field)
		if err != nil {
			all = append(all, fmt.Errorf("data set %s: %w", name, err))
			continue
		}
		d.Sets = append(d.Sets, *set)
		for _, path := range set.Checkpoints {
			a, err := set.read(path)
			if err != nil {
				all = append(all, fmt.Errorf("data set %s: %w", name, err))
				continue
			}
			if d.layout == nil {
				d.Base = a.Base
				if err := collect.Complete(filepath.Join(dir, name), &d.Base); err != nil {
					all = append(all, fmt.Errorf("data set %s: %w", name, err))
				}
				if d.layout, err = lora.NewLayout(d.Base, tiling); err != nil {
					return nil, err
				}
				continue
			}
			if err := same(d.Base, a.Base); err != nil {
				all = append(all, fmt.Errorf("data set %s: %s: %w", name, filepath.Base(path), err))
			}
		}
	}
	return d, errors.Join(all...)
}

// setNames are names or, if there are none, those of all data sets in a folder.
func setNames(dir string, names []string) ([]string, error) {
	if len(names) > 0 {
		return names, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("fit: no data set in %s: run `dndtrain collect` first", dir)
	}
	return names, nil
}

func openSet(dir, field string) (*DataSet, error) {
	set := &DataSet{Name: filepath.Base(dir)}
	var err error
	if set.Prompts, err = text.ReadPrompts(filepath.Join(dir, "prompts.json"), nil, field); err != nil {
		return nil, err
	}
	if set.config, err = collect.ReadConfig(dir); err != nil {
		return nil, err
	}
	if set.Checkpoints, err = collect.Checkpoints(dir); err != nil {
		return nil, err
	}
	return set, nil
}

func (s *DataSet) read(path string) (*lora.Adapter, error) {
	return collect.ReadCheckpoint(s.config, path)
}

func same(want, got lora.Base) error {
	if want.Rank != got.Rank || want.Alpha != got.Alpha {
		return fmt.Errorf("rank %d and alpha %v, the first checkpoint has %d and %v", got.Rank, got.Alpha, want.Rank, want.Alpha)
	}
	if len(want.Targets) != len(got.Targets) {
		return fmt.Errorf("%d modules, the first checkpoint has %d", len(got.Targets), len(want.Targets))
	}
	for i := range want.Targets {
		if want.Targets[i] != got.Targets[i] {
			return fmt.Errorf("module %+v where the first checkpoint has %+v", got.Targets[i], want.Targets[i])
		}
	}
	return nil
}

// tokens reads a checkpoint as weight tokens (T,h,w).
func (d *Data) tokens(set, checkpoint int) ([]float32, error) {
	s := &d.Sets[set]
	a, err := s.read(s.Checkpoints[checkpoint])
	if err != nil {
		return nil, err
	}
	return d.encode(a)
}

func (d *Data) encode(a *lora.Adapter) ([]float32, error) {
	t, h, w := d.layout.Shape()
	out := make([]float32, t*h*w)
	return out, d.layout.Encode(a, lora.Float32, out)
}

// SetJoint reads the adapter that Config.JointShare averages with: the last checkpoint of
// the folder dir, as collect leaves it of the LoRA that it tuned on all data sets together.
func (d *Data) SetJoint(dir string) error {
	a, path, err := collect.Last(dir)
	if err != nil {
		return fmt.Errorf("joint LoRA: %w", err)
	}
	if d.layout == nil {
		return nil // no checkpoint could be read, as OpenData said
	}
	if err := same(d.Base, a.Base); err != nil {
		return fmt.Errorf("joint LoRA: %s: %w", path, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	d.digest = hex.EncodeToString(sum[:])
	d.joint, err = d.encode(a)
	return err
}

// Importance is the plain reference's criterion_weight: the mean of the data sets'
// importance weights (d.2).
func (d *Data) Importance(tiling lora.Tiling) ([]float32, error) {
	var vectors [][]float32
	for i := range d.Sets {
		s := &d.Sets[i]
		var adapters iter.Seq2[*lora.Adapter, error] = func(yield func(*lora.Adapter, error) bool) {
			for _, path := range s.Checkpoints {
				if !yield(s.read(path)) {
					return
				}
			}
		}
		v, err := lora.ImportanceWeights(d.Base, tiling, adapters)
		if err != nil {
			return nil, fmt.Errorf("data set %s: %w", s.Name, err)
		}
		vectors = append(vectors, v)
	}
	return lora.MeanImportance(vectors...)
}

// Standard is how an Affine decoder's targets are standardised, by data set's checkpoints, then over
// data sets, and what its output y stands for: the weight tokens y·Scale + Offset. With a share s of a
// joint LoRA J that is s·J + (1-s)·(Mean + y·Spread), without it is Mean + y·Spread.
type Standard struct {
	standard.Standard
	Scale, Offset []float32 // (T), (T,h,w): output.scale and output.offset
	// Basis is output.basis.weight (T·h·w,r), nil without: the r directions in which the data sets' means,
	// standardised, differ most, or that fit coordinates of theirs best. The data sets' coordinates in
	// each have a mean square of 1.
	Basis []float32
	start *regression // with Config.LinearStart
}

// Standardise computes it over all checkpoints, with a share of SetJoint's adapter and a
// basis of rank directions, 0 for none: those in which the data sets differ most, or, with
// coordinates of the data sets (rank values each), those that fit them best.
func (d *Data) Standardise(jointShare float64, rank int, coordinates [][]float64) (*Standard, error) {
	t, h, w := d.layout.Shape()
	sums := standard.NewSums(t, h, w)
	var means [][]float32 // of each data set, for the basis
	for i, s := range d.Sets {
		var mean []float32
		if rank > 0 {
			mean = make([]float32, t*h*w)
			means = append(means, mean)
		}
		for j := range s.Checkpoints {
			tokens, err := d.tokens(i, j)
			if err != nil {
				return nil, err
			}
			sums.Add(tokens, len(s.Checkpoints)*len(d.Sets))
			for k := range mean {
				mean[k] += tokens[k] / float32(len(s.Checkpoints))
			}
		}
	}
	s := &Standard{Standard: sums.Standard()}
	if rank > 0 {
		for _, mean := range means {
			s.Apply(mean)
		}
		var err error
		if s.Basis, err = standard.Basis(means, rank, coordinates); err != nil {
			return nil, err
		}
	}
	s.Scale, s.Offset = s.Spread, s.Mean
	if jointShare == 0 {
		return s, nil
	}
	s.Scale, s.Offset = make([]float32, t), make([]float32, t*h*w)
	for i, v := range s.Spread {
		s.Scale[i] = float32((1 - jointShare) * float64(v))
	}
	mean := sums.Mean()
	for k, v := range d.joint {
		if math.IsNaN(mean[k]) {
			continue
		}
		if i := k / (h * w); s.Spread[i] == 0 && math.Abs(float64(v)-mean[k]) > standard.MinSpread {
			return nil, fmt.Errorf("the joint LoRA differs from the checkpoints in weight token %d, which is the same in all of them: tune it with the seed of their lora_A", i)
		}
		s.Offset[k] = float32(jointShare*float64(v) + (1-jointShare)*mean[k])
	}
	return s, nil
}

// pick is what one item of a batch is made of.
type pick struct {
	set, checkpoint int
	prompts         []int
	records         []int  // of the loss on answers
	drop            uint64 // seed of Config.TokenDrop
}

// picks are the items of a step: any checkpoint of any data set, and fresh prompts of
// that data set, without repetition while there are enough (d.4). pools are the numbers of
// each data set's prompts; records, of its records, are nil in steps without the loss on
// answers.
func (d *Data) picks(c *Config, step int, pools, records []int) []pick {
	rng := rand.New(rand.NewPCG(uint64(c.Seed), uint64(step)))
	items := make([]pick, c.Batch)
	for i := range items {
		set := rng.IntN(len(d.Sets))
		p := pick{set: set, checkpoint: rng.IntN(len(d.Sets[set].Checkpoints))}
		for len(p.prompts) < c.Texts {
			p.prompts = append(p.prompts, rng.Perm(pools[set])[:min(pools[set], c.Texts-len(p.prompts))]...)
		}
		if records != nil {
			for range c.Task.Records {
				p.records = append(p.records, rng.IntN(records[set]))
			}
		}
		if c.TokenDrop > 0 {
			p.drop = rng.Uint64()
		}
		items[i] = p
	}
	return items
}
