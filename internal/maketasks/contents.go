package main

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
)

// item is one thing to answer about, before any instruction is put to it.
type item struct {
	text  string // as it stands in the prompt
	label string // the right answer, lower-case words
	group string // items of one group are never on both sides of the train/test split
}

// content is a question that can be asked of many items.
type content struct {
	name     string
	wordings []string
	items    func(*sources, *rand.Rand) []item // shuffled, as many as there are
	classes  int                               // number of labels to balance; 0 when the answer is free
}

type sources struct {
	net   *wordNet
	vader map[string]float64
}

var contents = []content{
	{"topic", []string{
		"Is this an animal, a food, a plant or a person?",
		"Sort the entry into one of four topics: animal, food, plant, person.",
		"Name the topic of this dictionary entry: animal, food, plant or person.",
		"Choose what the word stands for: animal, food, plant or person.",
	}, topicItems, 4},
	{"pos", []string{
		"Which part of speech is this entry: noun, verb, adjective or adverb?",
		"Name the word class of the entry: noun, verb, adjective or adverb.",
		"Read the definition and tell whether the word is a noun, verb, adjective or adverb.",
		"Classify the word by its grammar as noun, verb, adjective or adverb.",
	}, posItems, 4},
	{"sentiment", []string{
		"Is the feeling of this word positive or negative?",
		"Tell whether the word sounds positive or negative.",
		"Rate the sentiment of the entry as positive or negative.",
		"Does the word carry a positive or a negative mood?",
	}, sentimentItems, 2},
	{"last", []string{
		"Give the last word of the text.",
		"Which word ends this text?",
		"Copy the final word of the line.",
		"Find the word that comes last in the text.",
	}, lastItems, 0},
	{"opposite", []string{
		"Give the opposite of the word.",
		"Which word means the contrary?",
		"Name the antonym of this word.",
		"Find the word with the opposite meaning.",
	}, oppositeItems, 0},
	{"base", []string{
		"Give the base form of the word, as a dictionary lists it.",
		"Under which dictionary form is this word listed?",
		"Undo the inflection and name the base word.",
		"Name the lemma of the word.",
	}, baseItems, 0},
}

// topic is a branch of WordNet's tree of nouns. The lexicographer files of the same names
// are wider: noun.animal holds gills, noun.plant mushrooms.
type topic struct{ root, except string }

var topics = map[string]topic{
	"animal": {root: "noun 00015388"},
	"food":   {root: "noun 00021265", except: "noun 07881800"}, // not beverages
	"person": {root: "noun 00007846"},
	"plant":  {root: "noun 00017222"},
}

func topicItems(src *sources, r *rand.Rand) []item {
	var items []item
	for _, key := range src.net.keys {
		s := src.net.synsets[key]
		word, ok := src.net.entry(s)
		if !ok && twoWords.MatchString(s.words[0]) {
			word, ok = strings.ReplaceAll(s.words[0], "_", " "), src.net.describes(s)
		}
		if !ok || s.pos != "noun" {
			continue
		}
		for _, label := range sortedKeys(topics) {
			t := topics[label]
			if src.net.isKind(key, t.root) && !(t.except != "" && src.net.isKind(key, t.except)) && !namesAnother(s.definition, label) {
				items = append(items, item{word + ": " + s.definition, label, word})
				break
			}
		}
	}
	return shuffle(items, r)
}

// namesAnother reports whether a definition names a topic other than its own, as "a person
// who keeps animals" does.
func namesAnother(definition, label string) bool {
	for other := range topics {
		if other != label && strings.Contains(definition, other) {
			return true
		}
	}
	return false
}

var posLabels = map[string]string{"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}

func posItems(src *sources, r *rand.Rand) []item {
	var items []item
	for _, key := range src.net.keys {
		s := src.net.synsets[key]
		word, ok := src.net.entry(s)
		if !ok || src.net.frequency[word] == 0 || src.net.sense(word, key) > 1 {
			continue
		}
		items = append(items, item{word + ": " + s.definition, posLabels[s.pos], word})
	}
	return shuffle(items, r)
}

const strongSentiment = 1.8 // of 4, in VADER's scale

func sentimentItems(src *sources, r *rand.Rand) []item {
	words := make([]string, 0, len(src.vader))
	for word := range src.vader {
		words = append(words, word)
	}
	slices.Sort(words)
	var items []item
	for _, word := range words {
		label := "positive"
		if src.vader[word] < 0 {
			label = "negative"
		}
		if max(src.vader[word], -src.vader[word]) < strongSentiment || !plainWord.MatchString(word) || src.net.rude(word) || !decent(word) {
			continue
		}
		// The adjective's sense is the one that the raters most likely had in mind.
		for _, pos := range []string{"adj", "verb", "noun", "adv"} {
			if s := src.net.firstSense(word, pos); s != nil {
				if decent(s.definition) && readable(s.definition) {
					items = append(items, item{word + ": " + s.definition, label, word})
				}
				break
			}
		}
	}
	return shuffle(items, r)
}

var (
	plainSentence = regexp.MustCompile(`^[A-Za-z]?[a-z]*( [a-z']+,?)+$`)
	maxSameLast   = 2
)

func lastItems(src *sources, r *rand.Rand) []item {
	var items []item
	seen := map[string]bool{}
	for _, key := range src.net.keys {
		for _, example := range src.net.synsets[key].examples {
			words := strings.Fields(example)
			if len(words) < 4 || len(words) > 10 || !plainSentence.MatchString(example) || !decent(example) || seen[example] {
				continue
			}
			last := words[len(words)-1]
			if !plainWord.MatchString(last) || src.net.frequency[last] == 0 {
				continue
			}
			seen[example] = true
			items = append(items, item{"Text: " + example, last, example})
		}
	}
	used := map[string]int{}
	return slices.DeleteFunc(shuffle(items, r), func(it item) bool {
		used[it.label]++
		return used[it.label] > maxSameLast
	})
}

func oppositeItems(src *sources, r *rand.Rand) []item {
	// Both words must have one antonym over all their senses, so that one answer is right.
	antonyms := map[string]map[string]bool{}
	for _, key := range src.net.keys {
		s := src.net.synsets[key]
		for i, targets := range s.antonyms {
			for _, t := range targets {
				if antonyms[s.words[i]] == nil {
					antonyms[s.words[i]] = map[string]bool{}
				}
				antonyms[s.words[i]][src.net.synsets[t.key].words[t.word]] = true
			}
		}
	}
	var items []item
	for _, word := range sortedKeys(antonyms) {
		if len(antonyms[word]) != 1 {
			continue
		}
		opposite := sortedKeys(antonyms[word])[0]
		if len(antonyms[opposite]) != 1 || !src.net.usual(word) || !src.net.usual(opposite) {
			continue
		}
		items = append(items, item{"Word: " + word, opposite, min(word, opposite)})
	}
	return shuffle(items, r)
}

func baseItems(src *sources, r *rand.Rand) []item {
	bases := map[string]map[string]bool{}
	for _, e := range src.net.exceptions {
		if bases[e.inflected] == nil {
			bases[e.inflected] = map[string]bool{}
		}
		bases[e.inflected][e.base] = true
	}
	var items, rare []item
	for _, inflected := range sortedKeys(bases) {
		base := sortedKeys(bases[inflected])[0]
		// A form that is a word of its own ("left") has two right answers.
		if len(bases[inflected]) != 1 || len(src.net.byLemma[inflected]) > 0 || !plainWord.MatchString(inflected) || !src.net.usual(base) {
			continue
		}
		it := item{"Word: " + inflected, base, base}
		if src.net.frequency[base] < 2 {
			rare = append(rare, it)
			continue
		}
		items = append(items, it)
	}
	// Words that are rarer come last: they are taken only where the usual ones run out.
	return append(shuffle(items, r), shuffle(rare, r)...)
}

var (
	plainWord       = regexp.MustCompile(`^[a-z]{3,14}$`)
	twoWords        = regexp.MustCompile(`^[a-z]{3,10}_[a-z]{3,10}$`)
	plainDefinition = regexp.MustCompile(`^[a-z][a-z',;\- ]*$`)
)

// entry returns the first word of a synset, and whether the two make a good dictionary entry.
func (w *wordNet) entry(s *synset) (string, bool) {
	return s.words[0], plainWord.MatchString(s.words[0]) && w.describes(s)
}

// describes reports whether a synset has a readable definition and a first word that may be shown.
func (w *wordNet) describes(s *synset) bool {
	return readable(s.definition) && decent(s.definition) && decent(strings.ReplaceAll(s.words[0], "_", " ")) && !w.rude(s.words[0])
}

func (w *wordNet) usual(word string) bool {
	return plainWord.MatchString(word) && w.frequency[word] > 0 && !w.rude(word)
}

// isKind reports whether a synset lies below another one.
func (w *wordNet) isKind(key, root string) bool {
	if key == root {
		return true
	}
	return slices.ContainsFunc(w.synsets[key].kinds, func(k string) bool { return w.isKind(k, root) })
}

// sense returns which sense of a word a synset is within its part of speech, the most usual
// one being 0.
func (w *wordNet) sense(word, key string) int {
	n := 0
	for _, other := range w.byLemma[word] {
		if other == key {
			return n
		}
		if other[:4] == key[:4] {
			n++
		}
	}
	return n
}

func (w *wordNet) firstSense(word, pos string) *synset {
	for _, key := range w.byLemma[word] {
		if strings.HasPrefix(key, pos+" ") {
			return w.synsets[key]
		}
	}
	return nil
}

// readable reports whether a definition is short, plain English.
func readable(definition string) bool {
	n := len(strings.Fields(definition))
	return n >= 4 && n <= 14 && plainDefinition.MatchString(definition)
}

var rudeUsages = regexp.MustCompile(`^(obscenity|vulgarism|ethnic_slur|disparagement|derogation|depreciation|dirty_word|profanity|swearword)$`)

// rude reports whether any sense of a word is vulgar or disparaging.
func (w *wordNet) rude(word string) bool {
	for _, key := range w.byLemma[word] {
		s := w.synsets[key]
		if indecent.MatchString(s.definition) {
			return true
		}
		for _, usage := range s.usages {
			for _, name := range w.synsets[usage].words {
				if rudeUsages.MatchString(name) {
					return true
				}
			}
		}
	}
	return false
}

var indecent = regexp.MustCompile(`(?i)\b(obscene|vulgar|slurs?|ethnic|disparag\w*|derogat\w*|offensive (term|name|word)\w*|insulting|sexual\w*|sexually|sex|prostitut\w*|rap(e|ed|ing|ist)|penis|vagina|vulva|anus|genital\w*|breasts?|copulat\w*|homosexual\w*|incest|pornograph\w*|erotic|naked|excrement|feces|fecal|urine|negro\w*|blacks?|colored|race|racial|jew\w*|jews|nazi\w*|slaves?|suicide|whore|slut|bitch|bastard\w*)\b`)

func decent(text string) bool { return !indecent.MatchString(text) }

func shuffle[T any](s []T, r *rand.Rand) []T {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
