package science

import (
	"math/rand/v2"
	"testing"
)

// Every record of every task is words that the base knows and fits its batches, and no two
// tasks have the same answers.
func TestSuite(t *testing.T) {
	v := newVocabulary()
	rng := rand.New(rand.NewPCG(1, 1))
	words := []string{"cat", "dog", "bird", "sun"}
	answers := map[string]Task{}
	for _, task := range tasks(Defaults().Values) {
		answer := task.answer(words)
		if other, ok := answers[answer]; ok {
			t.Errorf("%v and %v both answer %q", task, other, answer)
		}
		answers[answer] = task
		for i := range 50 {
			r := task.record(rng, i%2 == 0)
			e, err := v.example(r)
			if err != nil {
				t.Fatal(err)
			}
			if e.Tokens() > size.Length || len(e.Answer) > size.Answers {
				t.Errorf("%v: %d tokens, %d of them answer, expected at most %+v", r, e.Tokens(), len(e.Answer), size)
			}
		}
	}
	for task, want := range map[Task]string{
		{0, 0, 0}: "cat dog bird sun",
		{1, 1, 1}: "SUN , BIRD , DOG , CAT",
		{2, 2, 2}: "[ chien oiseau soleil chat ]",
		{3, 3, 3}: "sure : sonne hund vogel katze",
		{4, 0, 0}: "cat dog",
		{5, 0, 1}: "bird , sun",
	} {
		if got := task.answer(words); got != want {
			t.Errorf("%v answers %q, want %q", task, got, want)
		}
	}
}

// What the strict variant's base learns beside its combinations is no combination itself.
func TestFurther(t *testing.T) {
	words := []string{"cat", "dog", "bird", "sun"}
	answers := map[string]Task{}
	for _, task := range tasks([3]int{len(operations), len(vocabularies), len(styles)}) {
		answers[task.answer(words)] = task
	}
	c := Defaults()
	list := further(c.Values, c.Further)
	if len(list) != c.Further*c.Values[1]*c.Values[2] {
		t.Errorf("%d further tasks", len(list))
	}
	for _, task := range list {
		answer := task.answer(words)
		if other, ok := answers[answer]; ok {
			t.Errorf("%v answers %q, as %v does", task, answer, other)
		}
		answers[answer] = task
	}
	c.Further = len(furtherOperations) + 1
	if err := c.Validate(); err == nil {
		t.Error("more further operations than there are were accepted")
	}
}

// No phrase of the unseen wording is one of training's, of any value.
func TestWordings(t *testing.T) {
	seen := map[string]string{}
	for _, list := range attributes {
		for _, v := range list {
			for _, p := range v.phrases {
				if other, ok := seen[p]; ok {
					t.Errorf("%q says both %s and %s", p, v.name, other)
				}
				seen[p] = v.name
			}
		}
	}
	for _, list := range attributes {
		for _, v := range list {
			for _, p := range v.unseen {
				if other, ok := seen[p]; ok {
					t.Errorf("%q of %s is kept for tests, but trains %s", p, v.name, other)
				}
			}
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []Config{Defaults(), Reduced()} {
		for _, seed := range c.Splits {
			s, err := newSplit(seed, &c)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[Task]bool{}
			for _, task := range collectionTasks(&s) {
				if seen[task] {
					t.Errorf("split %d: %v twice", seed, task)
				}
				seen[task] = true
			}
			if len(s.Train) != c.Train || len(s.Validation) != c.Validation || len(s.Test) != c.Test || !pairsCovered(s.Train, c.Values) {
				t.Errorf("split %d: %d, %d, %d tasks", seed, len(s.Train), len(s.Validation), len(s.Test))
			}
		}
	}
	c := Defaults()
	c.Train = 3
	if _, err := newSplit(1, &c); err == nil {
		t.Error("three training tasks cannot hold every pair")
	}
}
