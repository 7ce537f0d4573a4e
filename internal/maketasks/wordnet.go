package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The four files of WordNet's synsets, in the order in which they are read.
var partsOfSpeech = []string{"noun", "verb", "adj", "adv"}

// synset is one line of data.{noun,verb,adj,adv}: words that share a meaning.
type synset struct {
	pos        string // noun, verb, adj or adv
	category   int    // lexicographer file number: 5 is noun.animal
	words      []string
	antonyms   map[int][]target // by index into words
	kinds      []string         // "pos offset" of the hypernyms (@, @i)
	usages     []string         // "pos offset" of the usage domains (;u)
	definition string
	examples   []string
}

type target struct {
	key  string // "pos offset"
	word int    // index into the target's words
}

// wordNet is as much of the database as the tasks need.
type wordNet struct {
	keys       []string // in file order
	synsets    map[string]*synset
	byLemma    map[string][]string // synset keys of a lemma, most usual sense first within a part of speech
	frequency  map[string]int      // times that a lemma is tagged in WordNet's concordance, any sense
	exceptions []exception
}

// exception is an irregular inflection, from *.exc.
type exception struct{ pos, inflected, base string }

var (
	quoted = regexp.MustCompile(`"([^"]*)"`)
	marker = regexp.MustCompile(`\((a|p|ip)\)$`) // syntactic marker of an adjective
)

// readWordNet reads a WordNet 3.0 dict folder.
func readWordNet(dir string) (*wordNet, error) {
	w := &wordNet{synsets: map[string]*synset{}, byLemma: map[string][]string{}, frequency: map[string]int{}}
	for _, pos := range partsOfSpeech {
		err := eachLine(filepath.Join(dir, "data."+pos), func(line string) error {
			if strings.HasPrefix(line, "  ") { // licence text
				return nil
			}
			key, s, err := parseSynset(pos, line)
			if err != nil {
				return err
			}
			w.keys = append(w.keys, key)
			w.synsets[key] = s
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = eachLine(filepath.Join(dir, "index."+pos), func(line string) error {
			if strings.HasPrefix(line, "  ") {
				return nil
			}
			// lemma pos synset_cnt p_cnt [symbol...] sense_cnt tagsense_cnt offset...
			f := strings.Fields(line)
			n, err := strconv.Atoi(f[2])
			if err != nil || len(f) < n {
				return fmt.Errorf("index entry %q: want a count of synsets as third field", f[0])
			}
			for _, offset := range f[len(f)-n:] {
				w.byLemma[f[0]] = append(w.byLemma[f[0]], pos+" "+offset)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = eachLine(filepath.Join(dir, pos+".exc"), func(line string) error {
			for i, f := 1, strings.Fields(line); i < len(f); i++ {
				w.exceptions = append(w.exceptions, exception{pos, f[0], f[i]})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return w, eachLine(filepath.Join(dir, "cntlist.rev"), func(line string) error {
		// lemma%sense_key sense_number tag_cnt
		f := strings.Fields(line)
		n, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			return fmt.Errorf("entry %q: want a count as last field", line)
		}
		lemma, _, _ := strings.Cut(f[0], "%")
		w.frequency[lemma] += n
		return nil
	})
}

// parseSynset reads
// offset category type w_cnt(hex) (word lex_id)... p_cnt (symbol offset pos source/target)... [frames] | gloss
func parseSynset(pos, line string) (string, *synset, error) {
	data, gloss, _ := strings.Cut(line, "|")
	f := strings.Fields(data)
	bad := fmt.Errorf("data.%s: cannot read the line that starts with %.40q", pos, line)
	if len(f) < 6 {
		return "", nil, bad
	}
	category, err1 := strconv.Atoi(f[1])
	words, err2 := strconv.ParseInt(f[3], 16, 32)
	if err1 != nil || err2 != nil || len(f) < 5+2*int(words) {
		return "", nil, bad
	}
	s := &synset{pos: pos, category: category, antonyms: map[int][]target{}}
	for i := range int(words) {
		s.words = append(s.words, marker.ReplaceAllString(f[4+2*i], ""))
	}
	rest := f[4+2*int(words):]
	pointers, err := strconv.Atoi(rest[0])
	if err != nil || len(rest) < 1+4*pointers {
		return "", nil, bad
	}
	for i := range pointers {
		p := rest[1+4*i:]
		key := fileOf[p[2]] + " " + p[1]
		switch p[0] {
		case "!":
			from, err1 := strconv.ParseInt(p[3][:2], 16, 32)
			to, err2 := strconv.ParseInt(p[3][2:], 16, 32)
			if err1 != nil || err2 != nil || from < 1 || to < 1 {
				return "", nil, bad
			}
			s.antonyms[int(from)-1] = append(s.antonyms[int(from)-1], target{key, int(to) - 1})
		case "@", "@i":
			s.kinds = append(s.kinds, key)
		case ";u":
			s.usages = append(s.usages, key)
		}
	}
	for _, m := range quoted.FindAllStringSubmatch(gloss, -1) {
		s.examples = append(s.examples, strings.TrimSpace(m[1]))
	}
	s.definition = strings.TrimSpace(gloss)
	if i := strings.IndexByte(s.definition, '"'); i >= 0 {
		s.definition = strings.TrimRight(s.definition[:i], " ;:,")
	}
	return pos + " " + f[0], s, nil
}

var fileOf = map[string]string{"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}

// readVADER returns the mean sentiment (-4 to 4) of every entry of vader_lexicon.txt. The
// raw ratings are left out.
func readVADER(path string) (map[string]float64, error) {
	scores := map[string]float64{}
	return scores, eachLine(path, func(line string) error {
		f := strings.Split(line, "\t")
		if len(f) < 2 {
			return fmt.Errorf("line %q: want a word, a tab and a score", line)
		}
		score, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return err
		}
		scores[f[0]] = score
		return nil
	})
}

func eachLine(path string, f func(string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if s.Text() == "" {
			continue
		}
		if err := f(s.Text()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
