package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// peftConfig is what adapter_config.json says that matters here.
type peftConfig struct {
	rank       int
	alpha      float64
	stabilised bool     // the gain is alpha/√rank
	model      string   // empty if it is not a hub id
	targets    []string // nil if the config has a pattern
	excluded   []string
	layers     []int // nil: all
	// ranks and alphas are those of modules that have their own.
	ranks  []pattern
	alphas []pattern
}

// refused are settings of PEFT under which B·A, scaled, is not what the adapter adds.
// fan_in_fan_out is not among them: it is for layers that store W transposed, and PEFT
// ignores it for linear ones.
var refused = []struct{ key, reason string }{
	{"use_dora", "DoRA adds magnitudes"},
	{"use_qalora", "QA-LoRA pools the inputs"},
	{"use_bdlora", "block-diagonal LoRA has other shapes"},
	{"lora_bias", "B has a bias"},
	{"modules_to_save", "it replaces whole modules"},
	{"trainable_token_indices", "it changes embeddings"},
	{"target_parameters", "it adapts parameters outside linear layers"},
	{"layer_replication", "it repeats layers of the base model"},
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
	}{{"peft_type", &kind}, {"r", &c.rank}, {"lora_alpha", &c.alpha}, {"bias", &bias}, {"base_model_name_or_path", &model},
		{"use_rslora", &c.stabilised}} {
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
	var err error
	if c.ranks, err = parsePatterns("rank_pattern", fields["rank_pattern"]); err != nil {
		return nil, err
	}
	for _, p := range c.ranks {
		if p.value < 1 || p.value > maxAxis || p.value != math.Trunc(p.value) {
			return nil, fmt.Errorf("rank_pattern gives %q the rank %g, expected a whole number of 1 or more", p.key, p.value)
		}
	}
	if c.alphas, err = parsePatterns("alpha_pattern", fields["alpha_pattern"]); err != nil {
		return nil, err
	}
	for _, p := range c.alphas {
		if !(p.value > 0) {
			return nil, fmt.Errorf("alpha_pattern gives %q the alpha %g, expected a positive number", p.key, p.value)
		}
	}
	// Both may also be a word: all modules that a regular expression matches, a single layer.
	if json.Unmarshal(fields["exclude_modules"], new(string)) != nil {
		if err := get("exclude_modules", &c.excluded); err != nil {
			return nil, err
		}
	}
	if one := 0; !isEmpty(fields["layers_to_transform"]) && json.Unmarshal(fields["layers_to_transform"], &one) == nil {
		c.layers = []int{one}
	} else if err := get("layers_to_transform", &c.layers); err != nil {
		return nil, err
	}
	if json.Unmarshal(fields["target_modules"], new(string)) == nil {
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

// covers checks that the config and the tensors name the same modules: PEFT would leave
// tensors of others out.
func (c *peftConfig) covers(targets []Target) error {
	if c.targets == nil {
		return nil
	}
	used := map[string]bool{}
	for _, t := range targets {
		found := false
		for _, name := range c.targets {
			if names(name, t.Name) {
				used[name], found = true, true
			}
		}
		if !found {
			return fmt.Errorf("target_modules %q do not name module %s, which has tensors", c.targets, t.Name)
		}
		for _, name := range c.excluded {
			if names(name, t.Name) {
				return fmt.Errorf("exclude_modules name %q, but module %s has tensors", name, t.Name)
			}
		}
		m, err := parseModule(t.Name)
		if err != nil {
			return err
		}
		if len(c.layers) > 0 && !slices.Contains(c.layers, m.layer) && !slices.Contains(c.targets, t.Name) {
			return fmt.Errorf("layers_to_transform %v do not name layer %d, but module %s has tensors", c.layers, m.layer, t.Name)
		}
	}
	for _, name := range c.targets {
		if !used[name] && len(c.excluded) == 0 {
			return fmt.Errorf("target_modules name %q, which has no tensors", name)
		}
	}
	return nil
}

// names says whether PEFT finds a module under a name: its whole, or its last parts.
func names(name, module string) bool { return module == name || strings.HasSuffix(module, "."+name) }
