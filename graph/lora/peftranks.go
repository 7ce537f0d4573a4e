package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"
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
	match *regexp.Regexp // nil for a name, in which a dot is any character
	value float64
}

// Bounds of a config's patterns: each is held to each module. Real configs have a name for
// each module, and a few expressions.
const (
	maxPatterns    = 4096
	maxExpressions = 64
	maxExpression  = 256 // bytes
)

// expression are the characters that make a key more than a name.
const expression = `\+*?()|[]{}^$`

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
	expressions := 0
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
		if strings.ContainsAny(key, expression) {
			// Counted repetition can make a short expression a huge machine.
			if expressions++; expressions > maxExpressions || len(key) > maxExpression || strings.Contains(key, "{") {
				return nil, fmt.Errorf("%s names modules as %q: expected at most %d expressions of %d bytes, without {}", setting, clip([]byte(key)), maxExpressions, maxExpression)
			}
			if p.match, err = regexp.Compile(`^(?:.*\.)?(?:` + key + `)$`); err != nil {
				return nil, fmt.Errorf("%s names modules as %q, which is not understood: %s", setting, clip([]byte(key)), reason(err))
			}
		}
		list = append(list, p)
	}
	return list, nil
}

// reason is why an expression was not understood, without the expression, which may have
// several lines.
func reason(err error) string {
	var e *syntax.Error
	if errors.As(err, &e) {
		return e.Code.String()
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// matches says whether the pattern is for a module.
func (p *pattern) matches(module string) bool {
	if p.match != nil {
		return p.match.MatchString(module)
	}
	before := len(module) - len(p.key)
	if before < 0 || before > 0 && module[before-1] != '.' {
		return false
	}
	for i := range len(p.key) {
		if p.key[i] != '.' && p.key[i] != module[before+i] {
			return false
		}
	}
	return true
}

// find is what the first pattern that matches gives a module, otherwise if none does.
func find(list []pattern, module string, otherwise float64) float64 {
	for i := range list {
		if list[i].matches(module) {
			return list[i].value
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
