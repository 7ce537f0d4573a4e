package fit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/gofrs/flock"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/disk"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// Record is run.json: what a run was started with, and what export needs beside the
// weights.
type Record struct {
	Config   Config    `json:"config"`
	Base     lora.Base `json:"base"`
	DataSets []string  `json:"data_sets"`
	Pairs    []int     `json:"checkpoints"` // of each data set
	// Joint is the SHA-256 of the adapter of Data.SetJoint, "" without.
	Joint string `json:"joint"`
}

// The files of a run's folder.
const (
	recordName     = "run.json"
	checkpointName = "checkpoint.safetensors"
	standardName   = "standard.safetensors"
	coverageName   = "coverage.json"
)

// folder is an open run.
type folder struct {
	dir      string
	record   Record
	step     int
	state    *state
	standard *Standard // nil unless the decoder is Affine
	curve    curve
}

// lock has the folder for this process alone: two that save by turns would lose each other's
// steps. A process that ends, however it does, gives it back.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, ".lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("fit: lock %s: %w", l.Path(), err)
	}
	if !ok {
		return nil, fmt.Errorf("fit: another process is working on %s: wait for it, or choose another folder", dir)
	}
	// What a killed run was writing: a checkpoint may be large.
	atomicfile.Sweep(dir)
	return func() { l.Unlock() }, nil
}

// open opens the folder of a run that is to start, whose state is nil, or of one that is there.
func open(dir string, c *Config, d *Data) (*folder, error) {
	r := &folder{dir: dir, record: Record{Config: *c, Base: d.Base, Joint: d.digest}}
	for _, s := range d.Sets {
		r.record.DataSets = append(r.record.DataSets, s.Name)
		r.record.Pairs = append(r.record.Pairs, len(s.Checkpoints))
	}
	there, err := ReadRecord(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, nil
	case err != nil:
		return nil, err
	default:
		if diff := r.record.difference(there); diff != "" {
			return nil, fmt.Errorf("fit: %s holds a run of another configuration (%s): choose another folder, or remove it", dir, diff)
		}
	}
	if c.Decoder.Affine {
		if r.standard, err = readStandard(filepath.Join(dir, standardName), c.Decoder); err != nil {
			return nil, err
		}
		if x := r.standard.start; c.LeaveOut && (x == nil || x.coordinates == nil) {
			return nil, fmt.Errorf("fit: leave_out: the run in %s was begun by an older version, which left data sets out in another way: begin another", dir)
		}
	}
	return r, r.load(c)
}

// begin starts a run with the data sets' encoded prompts, which only Config.LinearStart needs.
func (r *folder) begin(c *Config, d *Data, encoded [][][]float32) error {
	// Before the record: what is refused here must not stand in the next try's way.
	if err := r.standardise(c, d, encoded); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(r.dir, recordName), atomicfile.JSON(r.record)); err != nil {
		return err
	}
	return r.load(c)
}

// standardise computes an Affine decoder's standard and writes it.
func (r *folder) standardise(c *Config, d *Data, encoded [][][]float32) (err error) {
	if !c.Decoder.Affine {
		return nil
	}
	var start *regression
	var coordinates [][]float64
	if c.LinearStart {
		if start, coordinates, err = regress(c, encoded); err != nil {
			return err
		}
		if c.LeaveOut {
			if err := start.separable(d); err != nil {
				return err
			}
		}
	}
	if r.standard, err = d.Standardise(c.JointShare, c.Decoder.Rank(), coordinates); err != nil {
		return err
	}
	r.standard.start = start
	return writeStandard(filepath.Join(r.dir, standardName), r.standard, c.Decoder)
}

// CheckFolder is an error where the folder of a run holds one of another configuration, or
// has no room for its checkpoints: the one that is there, and the next beside it.
func CheckFolder(dir string, c *Config) error {
	there, err := ReadRecord(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		r := *there
		r.Config = *c
		if diff := r.difference(there); diff != "" {
			return fmt.Errorf("fit: %s holds a run of another configuration (%s): choose another folder, or remove it", dir, diff)
		}
	}
	p, err := NewPlan(c, 1)
	if err != nil {
		return err
	}
	if err := disk.Check(dir, 2*p.Checkpoint+p.Standard); err != nil {
		return fmt.Errorf("fit: two checkpoints, and what they are standardised by: %w", err)
	}
	return nil
}

// difference names the first field in which two records differ, "" if none does. The
// number of steps between checkpoints may change.
func (r Record) difference(there *Record) string {
	a, b := r, *there
	a.Config.SaveEvery, b.Config.SaveEvery = 0, 0
	for _, pair := range [][2]any{{a.Config, b.Config}, {a, b}} {
		x, y := reflect.ValueOf(pair[0]), reflect.ValueOf(pair[1])
		for i := range x.NumField() {
			if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
				return fmt.Sprintf("%s is %v, there it is %v", x.Type().Field(i).Tag.Get("json"), x.Field(i).Interface(), y.Field(i).Interface())
			}
		}
	}
	return ""
}

// ReadRecord reads a run's run.json.
func ReadRecord(dir string) (*Record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	// What a run of before these settings did.
	r := Record{Config: Config{Accumulate: 1, DType: F32, Loss: LossWeights}}
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, recordName), err)
	}
	if r.Config.Loss != LossWeights && r.Config.Task.BaseDType == "" {
		r.Config.Task.BaseDType = lm.F32
	}
	if err := r.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, recordName), err)
	}
	return &r, nil
}

// ReadCoverage reads where a run's data sets lie; nil for a run of before that was noted.
func ReadCoverage(dir string) (*generator.Coverage, error) {
	path := filepath.Join(dir, coverageName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c generator.Coverage
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// weight is the loss's weight a token: importance weights, or, for an Affine decoder,
// 1 where the token varies at all.
func (r *folder) weight(c *Config, d *Data) ([]float32, error) {
	if r.standard == nil {
		return d.Importance(c.Tiling)
	}
	w := make([]float32, len(r.standard.Spread))
	for i, s := range r.standard.Spread {
		if s > 0 {
			w[i] = 1
		}
	}
	return w, nil
}

// load reads the checkpoint, or draws initial weights.
func (r *folder) load(c *Config) error {
	f, err := safetensors.Open(filepath.Join(r.dir, checkpointName))
	if errors.Is(err, fs.ErrNotExist) {
		r.state = initialState(c, r.standard)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r.state = &state{}
	for _, part := range r.state.parts(c) {
		for _, t := range c.fitted() {
			v, err := f.Shaped(part.prefix+t.Name, t.Shape...)
			if err != nil {
				return err
			}
			*part.list = append(*part.list, tensors.FromFlatDataAndDimensions(v, t.Shape...))
		}
	}
	if err := json.Unmarshal([]byte(f.Metadata["curve"]), &r.curve); err != nil {
		return fmt.Errorf("%s: curve: %w", f.Path, err)
	}
	r.step = len(r.curve.Points)
	return nil
}

// save writes the checkpoint, the curve and its picture, each whole or not at all.
func (r *folder) save(c *Config) error {
	list := c.fitted()
	var out []safetensors.Tensor
	for _, part := range r.state.parts(c) {
		for i, t := range list {
			x := (*part.list)[i]
			out = append(out, safetensors.Tensor{Name: part.prefix + t.Name, DType: safetensors.F32, Shape: t.Shape, Data: func(w io.Writer) error {
				v, err := tensors.CopyFlatData[float32](x)
				if err != nil {
					return err
				}
				return safetensors.FromFloat32s("", safetensors.F32, v, t.Shape...).Data(w)
			}})
		}
	}
	points, err := json.Marshal(r.curve)
	if err != nil {
		return err
	}
	if err := safetensors.WriteFile(filepath.Join(r.dir, checkpointName), out, map[string]string{"curve": string(points)}); err != nil {
		return err
	}
	return r.curve.write(r.dir)
}

// Fitted is the decoder of a run after so many steps, for export: the tensors in the order of
// Config.Tensors. basisShare is how much stays of what Config.BasisRate changed in the basis of
// weight tokens; 1 is all of it, and all that a run without that rate can say.
//
// Of several runs, which differ in their seeds alone and began with the same weights (LinearStart), it is
// the mean: what each learned of the noise of its own steps goes, what all learned stays.
func Fitted(basisShare float64, dirs ...string) (*Record, []safetensors.Tensor, int, error) {
	first, mean, steps, err := fitted(dirs[0], basisShare)
	if err != nil {
		return nil, nil, 0, err
	}
	seeds := map[int64]bool{first.Config.Seed: true}
	for _, dir := range dirs[1:] {
		record, values, n, err := fitted(dir, basisShare)
		if err != nil {
			return nil, nil, 0, err
		}
		same := *record
		same.Config.Seed = first.Config.Seed
		switch diff := same.difference(first); {
		case diff != "":
			return nil, nil, 0, fmt.Errorf("fit: %s is of another configuration than %s (%s): a mean is of runs that differ in their seeds alone", dir, dirs[0], diff)
		case !record.Config.LinearStart:
			return nil, nil, 0, fmt.Errorf("fit: %s and %s began with other weights each, without linear_start: they have no mean", dirs[0], dir)
		case n != steps:
			return nil, nil, 0, fmt.Errorf("fit: %s is after %d steps, %s after %d", dir, n, dirs[0], steps)
		case seeds[record.Config.Seed]:
			return nil, nil, 0, fmt.Errorf("fit: %s has seed %d, as another run: a mean is of runs of different seeds", dir, record.Config.Seed)
		}
		seeds[record.Config.Seed] = true
		for i := range mean {
			for k, v := range values[i] {
				mean[i][k] += v
			}
		}
	}
	var out []safetensors.Tensor
	for i, t := range first.Config.Decoder.Tensors() {
		for k := range mean[i] {
			mean[i][k] /= float32(len(dirs))
		}
		out = append(out, safetensors.FromFloat32s(t.Name, safetensors.F32, mean[i], t.Shape...))
	}
	return first, out, steps, nil
}

// fitted are the values of one run's tensors, in the order of Config.Tensors.
func fitted(dir string, basisShare float64) (*Record, [][]float32, int, error) {
	record, err := ReadRecord(dir)
	if err != nil {
		return nil, nil, 0, err
	}
	if err := record.Config.CheckBasisShare(basisShare); err != nil {
		return nil, nil, 0, fmt.Errorf("fit: %s: %w", dir, err)
	}
	r := &folder{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, checkpointName)); err != nil {
		return nil, nil, 0, fmt.Errorf("fit: %s has no checkpoint yet: %w", dir, err)
	}
	if err := r.load(&record.Config); err != nil {
		return nil, nil, 0, err
	}
	var out [][]float32
	params := r.state.params
	if record.Config.Average > 0 {
		params = r.state.average
	}
	var change []float32
	for i, t := range record.Config.fitted() {
		v, err := tensors.CopyFlatData[float32](params[i])
		if err != nil {
			return nil, nil, 0, err
		}
		if t.Name == changeKey {
			change = v
			continue
		}
		out = append(out, v)
	}
	if record.Config.Decoder.Affine {
		s, err := readStandard(filepath.Join(dir, standardName), record.Config.Decoder)
		if err != nil {
			return nil, nil, 0, err
		}
		for i, v := range change {
			s.Basis[i] += float32(basisShare*record.Config.basisUnit()) * v
		}
		if s.Basis != nil {
			out = append(out, s.Basis)
		}
		out = append(out, s.Scale, s.Offset)
	}
	return record, out, r.step, nil
}

func writeStandard(path string, s *Standard, c decoder.Config) error {
	shape := c.Output()
	list := []safetensors.Tensor{
		safetensors.FromFloat32s("mean", safetensors.F32, s.Mean, shape[:]...),
		safetensors.FromFloat32s("spread", safetensors.F32, s.Spread, shape[0]),
		safetensors.FromFloat32s("scale", safetensors.F32, s.Scale, shape[0]),
		safetensors.FromFloat32s("offset", safetensors.F32, s.Offset, shape[:]...),
	}
	if r := c.Rank(); r > 0 {
		list = append(list, safetensors.FromFloat32s("basis", safetensors.F32, s.Basis, len(s.Basis)/r, r))
	}
	if x := s.start; x != nil {
		list = append(list, x.tensors()...)
	}
	return safetensors.WriteFile(path, list, nil)
}

func readStandard(path string, c decoder.Config) (*Standard, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, shape := &Standard{}, c.Output()
	if s.Scale, err = f.Shaped("scale", shape[0]); err != nil {
		return nil, err
	}
	if s.Offset, err = f.Shaped("offset", shape[:]...); err != nil {
		return nil, err
	}
	if r := c.Rank(); r > 0 {
		if s.Basis, err = f.Shaped("basis", shape[0]*shape[1]*shape[2], r); err != nil {
			return nil, err
		}
	}
	if s.start, err = readRegression(f, c); err != nil {
		return nil, err
	}
	if _, ok := f.Lookup("mean"); !ok {
		// A run of before SetJoint.
		s.Mean, s.Spread = s.Offset, s.Scale
		return s, nil
	}
	if s.Mean, err = f.Shaped("mean", shape[:]...); err != nil {
		return nil, err
	}
	s.Spread, err = f.Shaped("spread", shape[0])
	return s, err
}
