package lora

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
)

// inFile is how a module's matrices are stored: their rank, and what their scale is times that
// of the whole adapter.
type inFile struct {
	rank   int
	factor float64
}

// widen pads matrices of the module's own rank to the adapter's with zeros, which add
// nothing, and multiplies B by the factor.
func (p *Pair) widen(t Target, o inFile, rank int) {
	if o.rank != rank {
		p.A = append(p.A, make([]float32, (rank-o.rank)*t.In)...)
		wide := make([]float32, t.Out*rank)
		for i := range t.Out {
			copy(wide[i*rank:], p.B[i*o.rank:(i+1)*o.rank])
		}
		p.B = wide
	}
	if o.factor != 1 {
		for i, v := range p.B {
			p.B[i] = float32(float64(v) * o.factor)
		}
	}
}

// maxPadding bounds how many times as many values as its file an adapter may have in
// memory: one module of a huge rank would widen all others.
const maxPadding = 64

func bounded(b Base, stored []inFile) error {
	there, wide := 0.0, 0.0
	for i, t := range b.Targets {
		there += float64(stored[i].rank) * float64(t.In+t.Out)
		wide += float64(b.Rank) * float64(t.In+t.Out)
	}
	if wide > maxPadding*there {
		return fmt.Errorf("a module has rank %d, most others far less: expected ranks that differ less", b.Rank)
	}
	return nil
}

// pattern gives modules a number of their own.
type pattern struct {
	key   string
	match *regexp.Regexp
	value float64
}

// maxPatterns bounds the patterns of a config: each is held to each module.
const maxPatterns = 1024

// parsePatterns reads an object of regular expression and number, in its order, since the
// first that matches counts. A key matches a module's whole name or its last parts, as
// PEFT's get_pattern_key has it.
func parsePatterns(setting string, text json.RawMessage) ([]pattern, error) {
	if isEmpty(text) {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("%s is %s, expected an object of module and number", setting, clip(text))
	}
	var list []pattern
	seen := map[string]bool{}
	for d.More() {
		if len(list) == maxPatterns {
			return nil, fmt.Errorf("%s has more than %d entries", setting, maxPatterns)
		}
		token, err := d.Token()
		key, ok := token.(string)
		p := pattern{key: key}
		if err != nil || !ok || seen[key] || d.Decode(&p.value) != nil {
			return nil, fmt.Errorf("%s is %s, expected an object of module and number, none twice", setting, clip(text))
		}
		seen[key] = true
		if p.match, err = regexp.Compile(`^(?:.*\.)?(?:` + key + `)$`); err != nil {
			return nil, fmt.Errorf("%s names modules as %q, which is not understood: %w", setting, key, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// find is what the first pattern that matches gives a module, otherwise if none does.
func find(list []pattern, module string, otherwise float64) float64 {
	for _, p := range list {
		if p.match.MatchString(module) {
			return p.value
		}
	}
	return otherwise
}

// rankOf is the rank of a module.
func (c *peftConfig) rankOf(module string) int {
	return int(find(c.ranks, module, float64(c.rank)))
}

// alphaOf is the alpha of a module.
func (c *peftConfig) alphaOf(module string) float64 { return find(c.alphas, module, c.alpha) }

// gain is what B·A of a rank is multiplied by.
func (c *peftConfig) gain(rank int, alpha float64) float64 {
	if c.stabilised {
		return alpha / math.Sqrt(float64(rank))
	}
	return alpha / float64(rank)
}
