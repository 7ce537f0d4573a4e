package science

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

// Every record's options are its own answer and those of the tasks that differ in one
// attribute, all different; the prompts that say more end as the plain ones do.
func TestExams(t *testing.T) {
	c := Defaults()
	c.Records, c.TestItems = 4, 10
	d, err := newCorpus(&c)
	if err != nil {
		t.Fatal(err)
	}
	wide := (1 + shots) * (size.Length + 1)
	for task, e := range d.seen {
		if task[0] >= c.Values[0] {
			continue // an outsider
		}
		if e.plain.choices != c.options() || len(e.plain.records) != c.TestItems || len(e.plain.options) != optionRecords*c.options() {
			t.Fatalf("%v: %d records, %d options of %d", task, len(e.plain.records), len(e.plain.options), e.plain.choices)
		}
		for i, r := range e.plain.records {
			for _, other := range []exam{e.formatted, e.fewShot} {
				x := other.records[i]
				if !slices.Equal(x.Answer, r.Answer) || !slices.Equal(x.Prompt[len(x.Prompt)-len(r.Prompt):], r.Prompt) || len(x.Prompt) <= len(r.Prompt) || x.Tokens() > wide {
					t.Errorf("%v, record %d: prompt of %d tokens, plainly %d", task, i, len(x.Prompt), len(r.Prompt))
				}
			}
			if i >= optionRecords {
				continue
			}
			options := e.plain.options[i*c.options() : (i+1)*c.options()]
			for j, x := range options {
				if !slices.Equal(x.Prompt, r.Prompt) || slices.Equal(x.Answer, r.Answer) != (j == 0) {
					t.Errorf("%v, record %d, option %d: %v for %v", task, i, j, x.Answer, r.Answer)
				}
			}
		}
	}
	for task, want := range map[Task]string{{0, 0, 1}: "word , word , word , word", {4, 2, 2}: "[ word word ]", {1, 3, 3}: "sure : word word word word"} {
		if got := task.form(); got != want {
			t.Errorf("%v has the form %q, want %q", task, got, want)
		}
	}
}

func TestSpearman(t *testing.T) {
	x := []float64{1, 2, 3, 4, 5}
	for _, c := range []struct {
		y    []float64
		want float64
	}{{[]float64{1, 4, 9, 16, 25}, 1}, {[]float64{5, 4, 3, 2, -9}, -1}, {[]float64{7, 7, 7, 7, 7}, 0}, {[]float64{1, 1, 2, 2, 2}, 0.866025}} {
		if got := spearman(x, c.y); math.Abs(got-c.want) > 1e-5 {
			t.Errorf("%v: %v, want %v", c.y, got, c.want)
		}
	}
}

// A change of the ablations is one: it is a configuration that is valid, and not another's.
func TestChanges(t *testing.T) {
	seen := map[string]string{}
	for _, x := range changes {
		c := Reduced()
		x.apply(&c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
		key := string(mustJSON(t, c))
		if other, ok := seen[key]; ok {
			t.Errorf("%s is what %s is", x.name, other)
		}
		seen[key] = x.name
	}
}

func mustJSON(t *testing.T, v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
