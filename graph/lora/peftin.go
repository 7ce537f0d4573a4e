package lora

import (
	"bytes"
	"encoding/json"
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
// (whose alpha is then assumed, see Adapter). Only plain LoRA of the seven linear
// modules of a layer is taken; rank, names, shapes and values are checked. Errors name
// the file, and the tensor if it is one's.
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
	a, err := describe(config, file)
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
	a, err := describe(config, file)
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
		if a.Pairs[i].A, err = read(t.Name + suffixA); err != nil {
			return nil, err
		}
		if a.Pairs[i].B, err = read(t.Name + suffixB); err != nil {
			return nil, err
		}
	}
	return a, nil
}

const (
	suffixA = ".lora_A.weight"
	suffixB = ".lora_B.weight"
)

// describe makes an Adapter without Pairs from a config and the table of tensors.
func describe(text []byte, file *safetensors.File) (*Adapter, error) {
	var c *peftConfig
	if text != nil {
		var err error
		if c, err = parseConfig(text); err != nil {
			return nil, fmt.Errorf("%s: %w", ConfigName, err)
		}
	}
	a := &Adapter{}
	if c != nil {
		a.Base.Rank = c.rank
	}
	if err := a.Base.collect(file.Tensors); err != nil {
		return nil, err
	}
	if c == nil {
		a.Base.Alpha, a.AlphaAssumed = 2*float64(a.Base.Rank), true
	} else {
		a.Base.Alpha, a.Base.Model = c.alpha, c.model
		if err := c.covers(a.Base.Targets); err != nil {
			return nil, fmt.Errorf("%s: %w", ConfigName, err)
		}
	}
	a.Base.recognize()
	return a, a.Base.Validate()
}

// collect finds the targets among the tensors, pairs them, and puts them in order. A
// rank of 0 is taken from the first lora_A.
func (b *Base) collect(tensors []safetensors.Info) error {
	shapes := map[string][]int{}
	var targets []Target
	for _, t := range tensors {
		name := strings.ReplaceAll(t.Name, prefix, "")
		if _, twice := shapes[name]; twice {
			return fmt.Errorf("tensor %q: occurs twice but for the prefix %s", t.Name, prefix)
		}
		target, isA := strings.CutSuffix(name, suffixA)
		if !isA {
			var isB bool
			if target, isB = strings.CutSuffix(name, suffixB); !isB {
				return fmt.Errorf("tensor %q: expected a name that ends in %s or %s", t.Name, suffixA, suffixB)
			}
		}
		if _, err := parseModule(target); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		switch t.DType {
		case safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F64:
		default:
			return fmt.Errorf("tensor %q: type %s, expected F32, F16, BF16 or F64", t.Name, t.DType)
		}
		if len(t.Shape) != 2 || t.Shape[0] < 1 || t.Shape[1] < 1 {
			return fmt.Errorf("tensor %q: shape %v, expected a matrix", t.Name, t.Shape)
		}
		rank := t.Shape[1]
		if isA {
			rank = t.Shape[0]
			targets = append(targets, Target{Name: target, In: t.Shape[1]})
			if b.Rank == 0 {
				b.Rank = rank
			}
		}
		shapes[name] = t.Shape
		if isA && rank != b.Rank {
			return fmt.Errorf("tensor %q: shape %v, expected rank %d in the first place", t.Name, t.Shape, b.Rank)
		}
	}
	for i, t := range targets {
		shape, ok := shapes[t.Name+suffixB]
		if !ok {
			return fmt.Errorf("tensor %q: its partner lora_B is missing", t.Name+suffixA)
		}
		if shape[1] != b.Rank {
			return fmt.Errorf("tensor %q: shape %v, expected rank %d in the second place", t.Name+suffixB, shape, b.Rank)
		}
		targets[i].Out = shape[0]
	}
	if len(shapes) != 2*len(targets) {
		for _, t := range tensors {
			target, isB := strings.CutSuffix(strings.ReplaceAll(t.Name, prefix, ""), suffixB)
			if _, ok := shapes[target+suffixA]; isB && !ok {
				return fmt.Errorf("tensor %q: its partner lora_A is missing", t.Name)
			}
		}
	}
	b.Targets = targets
	return SortTargets(b.Targets)
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

// peftConfig is what adapter_config.json says that matters here.
type peftConfig struct {
	rank    int
	alpha   float64
	model   string   // empty if it is not a hub id
	targets []string // nil if the config has a pattern
}

// refused are settings of PEFT under which (alpha/r)·B·A is not what the adapter adds.
var refused = []struct{ key, reason string }{
	{"use_rslora", "rank-stabilised LoRA scales by alpha/√r"},
	{"use_dora", "DoRA adds magnitudes"},
	{"use_qalora", "QA-LoRA pools the inputs"},
	{"use_bdlora", "block-diagonal LoRA has other shapes"},
	{"lora_bias", "B has a bias"},
	{"modules_to_save", "it replaces whole modules"},
	{"trainable_token_indices", "it changes embeddings"},
	{"target_parameters", "it adapts parameters outside linear layers"},
	{"rank_pattern", "modules have ranks of their own"},
	{"alpha_pattern", "modules have alphas of their own"},
	{"layer_replication", "it repeats layers of the base model"},
	{"fan_in_fan_out", "matrices are stored transposed"},
	{"alora_invocation_tokens", "it is active behind certain tokens only"},
	{"arrow_config", "it routes between adapters"},
	{"kasa_config", "KaSA adds singular values"},
	{"monteclora_config", "MonteCLoRA adds noise"},
}

// changedBase are initialisations that also change the base model's own weights.
var changedBase = []string{"pissa", "olora", "corda", "loftq", "lora_ga"}

func parseConfig(text []byte) (*peftConfig, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	get := func(key string, into any) error {
		if isEmpty(fields[key]) {
			return nil
		}
		if err := json.Unmarshal(fields[key], into); err != nil {
			return fmt.Errorf("%s is %s, which has the wrong type", key, clip(fields[key]))
		}
		return nil
	}
	var kind, bias, model string
	c := &peftConfig{}
	for _, f := range []struct {
		key  string
		into any
	}{{"peft_type", &kind}, {"r", &c.rank}, {"lora_alpha", &c.alpha}, {"bias", &bias}, {"base_model_name_or_path", &model}} {
		if err := get(f.key, f.into); err != nil {
			return nil, err
		}
	}
	if kind != "LORA" {
		return nil, fmt.Errorf("peft_type is %q, expected \"LORA\"", kind)
	}
	if c.rank < 1 || c.rank > maxAxis {
		return nil, fmt.Errorf("r is %s, expected a whole number of 1 or more", clip(fields["r"]))
	}
	if !(c.alpha > 0) {
		return nil, fmt.Errorf("lora_alpha is %s, expected a positive number", clip(fields["lora_alpha"]))
	}
	if bias != "" && bias != "none" {
		return nil, fmt.Errorf("bias is %q, expected \"none\": biases are not carried", bias)
	}
	for _, f := range refused {
		if !isEmpty(fields[f.key]) {
			return nil, fmt.Errorf("%s is %s: only plain LoRA is read (%s)", f.key, clip(fields[f.key]), f.reason)
		}
	}
	var init string
	if json.Unmarshal(fields["init_lora_weights"], &init) == nil {
		for _, name := range changedBase {
			if strings.HasPrefix(strings.ToLower(init), name) {
				return nil, fmt.Errorf("init_lora_weights is %q: the adapter belongs to a changed base model; convert it to plain LoRA with PEFT first", init)
			}
		}
	}
	if isHubID(model) {
		c.model = model
	}
	if isEmpty(fields["target_modules"]) {
		return nil, errors.New("target_modules is missing")
	}
	var pattern string
	if json.Unmarshal(fields["target_modules"], &pattern) == nil {
		return c, nil
	}
	return c, get("target_modules", &c.targets)
}

// isEmpty says that a setting is absent or off.
func isEmpty(v json.RawMessage) bool {
	switch string(bytes.Join(bytes.Fields(v), nil)) {
	case "", "null", "false", `""`, "[]", "{}":
		return true
	}
	return false
}

// clip keeps a value short enough for an error of one line.
func clip(v json.RawMessage) string {
	text := string(bytes.Join(bytes.Fields(v), []byte(" ")))
	switch {
	case text == "":
		return "missing"
	case len(text) > 60:
		return strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}

// isHubID tells "Qwen/Qwen2.5-0.5B-Instruct" from a path on somebody's disk.
func isHubID(name string) bool {
	if name == "" || len(name) > 200 || strings.HasPrefix(name, ".") || strings.Count(name, "/") > 1 {
		return false
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return false
		}
	}
	return true
}

// covers checks that the config and the tensors name the same modules.
func (c *peftConfig) covers(targets []Target) error {
	if c.targets == nil {
		return nil
	}
	used := map[string]bool{}
	for _, t := range targets {
		found := false
		for _, name := range c.targets {
			if t.Name == name || strings.HasSuffix(t.Name, "."+name) {
				used[name], found = true, true
			}
		}
		if !found {
			return fmt.Errorf("target_modules %q do not name module %s, which has tensors", c.targets, t.Name)
		}
	}
	for _, name := range c.targets {
		if !used[name] {
			return fmt.Errorf("target_modules name %q, which has no tensors", name)
		}
	}
	return nil
}
