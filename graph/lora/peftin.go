package lora

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// The files of a PEFT adapter.
const (
	ConfigName  = "adapter_config.json"
	WeightsName = "adapter_model.safetensors"
)

// maxConfig bounds adapter_config.json: real ones have about a kilobyte.
const maxConfig = 1 << 20

// prefix is what PEFT puts before the names of the base model's modules.
const prefix = "base_model.model."

// ReadPEFT reads an adapter: a folder as PEFT saves it, or a safetensors file by itself
// (whose alpha is then assumed, see Adapter). Only LoRA of the seven linear modules of a
// layer is taken; ranks, names, shapes and values are checked. Modules with ranks and
// alphas of their own (rank_pattern, alpha_pattern) get the largest rank of all, padded
// with zeros, and B takes up what their scale differs; under rank-stabilised scaling
// (use_rslora, alpha/√rank) alpha becomes the plain one that does the same. Errors name the
// file, and the tensor if it is one's.
func ReadPEFT(path string) (*Adapter, error) {
	config, file, err := openPEFT(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	a, err := DecodePEFT(config, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// DescribeBase is the Base that an adapter (folder or file, as for ReadPEFT) was made
// for: rank, alpha, and the targets in order. The values are not read.
func DescribeBase(path string) (Base, error) {
	config, file, err := openPEFT(path)
	if err != nil {
		return Base{}, err
	}
	defer file.Close()
	a, _, err := describe(config, file)
	if err != nil {
		return Base{}, fmt.Errorf("%s: %w", path, err)
	}
	return a.Base, nil
}

// openPEFT opens the weights, and reads the config's text: nil for a file by itself.
func openPEFT(path string) ([]byte, *safetensors.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !st.IsDir() {
		file, err := safetensors.Open(path)
		return nil, file, err
	}
	name := filepath.Join(path, ConfigName)
	config, err := readSmall(name)
	if err != nil {
		return nil, nil, err
	}
	file, err := safetensors.Open(filepath.Join(path, WeightsName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, bin := os.Stat(filepath.Join(path, "adapter_model.bin")); bin == nil {
			return nil, nil, fmt.Errorf("%s: weights in adapter_model.bin are not read: save the adapter again with safe_serialization=True", path)
		}
	}
	return config, file, err
}

// readSmall reads a text file of at most maxConfig bytes.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%s: more than %d bytes, expected a small JSON file", path, maxConfig)
	}
	return text, nil
}

// DecodePEFT is ReadPEFT for files that are open already. config is the text of
// adapter_config.json, nil if there is none.
func DecodePEFT(config []byte, file *safetensors.File) (*Adapter, error) {
	a, stored, err := describe(config, file)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, t := range file.Tensors {
		names[strings.ReplaceAll(t.Name, prefix, "")] = t.Name
	}
	read := func(name string) ([]float32, error) {
		values, err := file.Float32s(names[name])
		if err != nil {
			return nil, err
		}
		return values, finite(names[name], values)
	}
	a.Pairs = make([]Pair, len(a.Base.Targets))
	for i, t := range a.Base.Targets {
		p := &a.Pairs[i]
		if p.A, err = read(t.Name + suffixA); err != nil {
			return nil, err
		}
		if p.B, err = read(t.Name + suffixB); err != nil {
			return nil, err
		}
		p.widen(t, stored[i], a.Base.Rank)
		if err := finite(names[t.Name+suffixB], p.B); err != nil {
			return nil, err
		}
	}
	return a, nil
}

const (
	suffixA = ".lora_A.weight"
	suffixB = ".lora_B.weight"
)

// describe makes an Adapter without Pairs from a config and the table of tensors. stored
// says how the modules' matrices are in the file, in the order of the targets.
func describe(text []byte, file *safetensors.File) (a *Adapter, stored []inFile, err error) {
	var c *peftConfig
	if text != nil {
		if c, err = parseConfig(text); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", ConfigName, err)
		}
	}
	a = &Adapter{}
	ranks, err := a.Base.collect(file.Tensors, c)
	if err != nil {
		return nil, nil, err
	}
	gain := 2.0
	if c == nil {
		a.AlphaAssumed = true
	} else {
		a.Base.Model = c.model
		gain = c.gain(c.rank, c.alpha)
		if err := c.covers(a.Base.Targets); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", ConfigName, err)
		}
	}
	for i, t := range a.Base.Targets {
		o := inFile{rank: ranks[i], factor: 1}
		if c != nil {
			o.factor = c.gain(o.rank, c.alphaOf(t.Name)) / gain
		}
		stored = append(stored, o)
		a.Base.Rank = max(a.Base.Rank, o.rank)
	}
	a.Base.Alpha = gain * float64(a.Base.Rank)
	if c != nil && !c.stabilised && a.Base.Rank == c.rank {
		a.Base.Alpha = c.alpha // to the bit
	}
	if err := bounded(a.Base, stored); err != nil {
		return nil, nil, err
	}
	a.Base.recognize()
	return a, stored, a.Base.Validate()
}

// collect finds the targets among the tensors, pairs them, and puts them in order. It gives
// the rank of each: the one that c says, or without c that of the first lora_A.
func (b *Base) collect(tensors []safetensors.Info, c *peftConfig) ([]int, error) {
	shapes := map[string][]int{}
	expected := map[string]int{}
	first := 0
	for _, t := range tensors {
		name := strings.ReplaceAll(t.Name, prefix, "")
		if _, twice := shapes[name]; twice {
			return nil, fmt.Errorf("tensor %q: occurs twice but for the prefix %s", t.Name, prefix)
		}
		target, isA := strings.CutSuffix(name, suffixA)
		if !isA {
			var isB bool
			if target, isB = strings.CutSuffix(name, suffixB); !isB {
				return nil, fmt.Errorf("tensor %q: expected a name that ends in %s or %s: embeddings, output heads, magnitudes and biases are not read", t.Name, suffixA, suffixB)
			}
		}
		if _, err := parseModule(target); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		switch t.DType {
		case safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F64:
		default:
			return nil, fmt.Errorf("tensor %q: type %s, expected F32, F16, BF16 or F64", t.Name, t.DType)
		}
		if len(t.Shape) != 2 || t.Shape[0] < 1 || t.Shape[1] < 1 {
			return nil, fmt.Errorf("tensor %q: shape %v, expected a matrix", t.Name, t.Shape)
		}
		shapes[name] = t.Shape
		if !isA {
			continue
		}
		b.Targets = append(b.Targets, Target{Name: target, In: t.Shape[1]})
		if first == 0 {
			first = t.Shape[0]
		}
		want := first
		if c != nil {
			want = c.rankOf(target)
		}
		if t.Shape[0] != want {
			return nil, fmt.Errorf("tensor %q: shape %v, expected rank %d in the first place", t.Name, t.Shape, want)
		}
		expected[target] = want
	}
	for i, t := range b.Targets {
		shape, ok := shapes[t.Name+suffixB]
		if !ok {
			return nil, fmt.Errorf("tensor %q: its partner lora_B is missing", t.Name+suffixA)
		}
		if shape[1] != expected[t.Name] {
			return nil, fmt.Errorf("tensor %q: shape %v, expected rank %d in the second place", t.Name+suffixB, shape, expected[t.Name])
		}
		b.Targets[i].Out = shape[0]
	}
	if len(shapes) != 2*len(b.Targets) {
		for _, t := range tensors {
			target, isB := strings.CutSuffix(strings.ReplaceAll(t.Name, prefix, ""), suffixB)
			if _, ok := shapes[target+suffixA]; isB && !ok {
				return nil, fmt.Errorf("tensor %q: its partner lora_A is missing", t.Name)
			}
		}
	}
	if err := SortTargets(b.Targets); err != nil {
		return nil, err
	}
	ranks := make([]int, len(b.Targets))
	for i, t := range b.Targets {
		ranks[i] = expected[t.Name]
	}
	return ranks, nil
}

// recognize fills in what an adapter's files do not say, if its matrices are those of a
// base model of the reference.
func (b *Base) recognize() {
	for _, c := range reference {
		known, _, err := ReferenceBase(c.kind)
		if err != nil || len(known.Targets) != len(b.Targets) {
			continue
		}
		same := true
		for i := range known.Targets {
			same = same && known.Targets[i] == b.Targets[i]
		}
		if same {
			b.Architecture, b.Heads, b.KVHeads = known.Architecture, known.Heads, known.KVHeads
			if b.Model == "" {
				b.Model = known.Model
			}
		}
	}
}
