package text

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// MaxPromptFile is the largest prompt file that is read, in bytes.
const MaxPromptFile = 256 << 20

// ReadPrompts reads prompts from a file by its extension: .txt (one a line, blank lines
// skipped), .jsonl (a string or record a line), .json (an array of strings or records)
// or .csv (with a header line). "-" is standard input, which like a file without
// extension shows its format by how it begins. field names the record's prompt, "prompt" if empty; where a record of a
// JSON file lacks it, all are read as conversations[0].value (reference a.1). Errors are
// one line and name the file, and the line or the record.
func ReadPrompts(path string, stdin io.Reader, field string) ([]string, error) {
	raw, name, err := ReadPromptFile(path, stdin)
	if err != nil {
		return nil, err
	}
	prompts, err := ParsePrompts(raw, strings.ToLower(filepath.Ext(path)), field)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return prompts, nil
}

// ReadPromptFile reads the bytes of a prompt file, of standard input if path is "-". name
// is what to call it in errors.
func ReadPromptFile(path string, stdin io.Reader) (raw []byte, name string, err error) {
	name, r := path, stdin
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, name, err
		}
		defer f.Close()
		r = f
	}
	raw, err = io.ReadAll(io.LimitReader(r, MaxPromptFile+1))
	if err != nil {
		return nil, name, fmt.Errorf("%s: %w", name, err)
	}
	return raw, name, nil
}

// ParsePrompts is ReadPrompts of a file's contents; format is its extension, with the
// dot, or "" to tell from the contents.
func ParsePrompts(raw []byte, format, field string) ([]string, error) {
	if len(raw) > MaxPromptFile {
		return nil, fmt.Errorf("more than %d MiB of prompts: give a sample of them", MaxPromptFile>>20)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	if at := invalidUTF8(raw); at >= 0 {
		return nil, fmt.Errorf("line %d: not valid UTF-8: convert the file to UTF-8", 1+bytes.Count(raw[:at], []byte{'\n'}))
	}
	if field == "" {
		field = "prompt"
	}
	var prompts []string
	var err error
	switch format {
	case ".txt":
		prompts = lines(raw)
	case ".json":
		prompts, err = jsonArray(raw, field)
	case ".jsonl", ".ndjson":
		prompts, err = jsonLines(raw, field)
	case ".csv":
		prompts, err = csvRecords(raw, field)
	case "":
		switch sniff(raw) {
		case ".json":
			prompts, err = jsonArray(raw, field)
		case ".jsonl":
			prompts, err = jsonLines(raw, field)
		default:
			prompts = lines(raw)
		}
	default:
		return nil, fmt.Errorf("unknown kind of prompt file %q: expected .txt, .jsonl, .json or .csv", format)
	}
	if err != nil {
		return nil, err
	}
	if len(prompts) == 0 {
		return nil, errors.New("no prompt in it: expected at least one")
	}
	for i, p := range prompts {
		if strings.TrimSpace(p) == "" {
			return nil, fmt.Errorf("prompt %d of %d is empty: fill it in or leave it out", i+1, len(prompts))
		}
	}
	return prompts, nil
}

// sniff tells JSON from plain lines. A line of prose may begin with a bracket or a
// quotation mark, but not with a bracket and then a string or a record, or with a brace.
func sniff(raw []byte) string {
	raw = bytes.TrimSpace(raw)
	first, _, _ := bytes.Cut(raw, []byte{'\n'})
	switch {
	case len(raw) == 0:
	case raw[0] == '[':
		if next := bytes.TrimSpace(raw[1:]); len(next) > 0 && (next[0] == '"' || next[0] == '{') {
			return ".json"
		}
	case raw[0] == '{', raw[0] == '"' && json.Valid(first):
		return ".jsonl"
	}
	return ".txt"
}

func invalidUTF8(raw []byte) int {
	for at := 0; at < len(raw); {
		r, size := utf8.DecodeRune(raw[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
	return -1
}

func lines(raw []byte) []string {
	var prompts []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" {
			prompts = append(prompts, line)
		}
	}
	return prompts
}

func jsonArray(raw []byte, field string) ([]string, error) {
	var texts []json.RawMessage
	if err := json.Unmarshal(raw, &texts); err != nil || texts == nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line := 1 + bytes.Count(raw[:min(int(syntax.Offset), len(raw))], []byte{'\n'})
			return nil, fmt.Errorf("line %d: not valid JSON: %w: expected an array of strings or records; one record a line is .jsonl", line, err)
		}
		return nil, errors.New("expected a JSON array of strings or records; one record a line is .jsonl")
	}
	records := make([]record, len(texts))
	for i, text := range texts {
		records[i] = record{text, "record", i + 1}
	}
	return fromRecords(records, field)
}

func jsonLines(raw []byte, field string) ([]string, error) {
	var records []record
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if !json.Valid(line) {
			return nil, fmt.Errorf("line %d: not valid JSON: expected a string or a record a line", n)
		}
		records = append(records, record{line, "line", n})
	}
	return fromRecords(records, field)
}

// record is valid JSON and where it stands: "line" 3, "record" 1.
type record struct {
	text json.RawMessage
	unit string
	at   int
}

func fromRecords(records []record, field string) ([]string, error) {
	prompts := make([]string, len(records))
	for i, r := range records {
		found, err := promptOf(r.text, field, &prompts[i])
		if err != nil {
			return nil, fmt.Errorf("%s %d: %w", r.unit, r.at, err)
		}
		if found {
			continue
		}
		for j, other := range records {
			if err := firstTurn(other.text, &prompts[j]); err != nil {
				return nil, fmt.Errorf("%s %d has no field %q, and %s %d %w either: name the field with --field", r.unit, r.at, field, other.unit, other.at, err)
			}
		}
		return prompts, nil
	}
	return prompts, nil
}

// promptOf reads a record that is a string or has the field.
func promptOf(raw json.RawMessage, field string, prompt *string) (bool, error) {
	if raw[0] == '"' {
		return true, json.Unmarshal(raw, prompt)
	}
	var record map[string]json.RawMessage
	if err := json.Unmarshal(raw, &record); err != nil || record == nil {
		return false, errors.New("expected a string or a record")
	}
	value, ok := record[field]
	if !ok {
		return false, nil
	}
	if value[0] != '"' {
		return false, fmt.Errorf("field %q is not a string: name another with --field", field)
	}
	return true, json.Unmarshal(value, prompt)
}

func firstTurn(raw json.RawMessage, prompt *string) error {
	var record struct {
		Conversations []struct {
			Value *string `json:"value"`
		} `json:"conversations"`
	}
	if err := json.Unmarshal(raw, &record); err != nil || len(record.Conversations) == 0 || record.Conversations[0].Value == nil {
		return errors.New("has no conversations[0].value")
	}
	*prompt = *record.Conversations[0].Value
	return nil
}

func csvRecords(raw []byte, field string) ([]string, error) {
	rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("not valid CSV: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	column := -1
	for i, name := range rows[0] {
		if strings.TrimSpace(name) == field {
			column = i
		}
	}
	if column < 0 {
		return nil, fmt.Errorf("line 1: no column %q among %q: name it with --field", field, rows[0])
	}
	prompts := make([]string, 0, len(rows)-1)
	for _, row := range rows[1:] {
		prompts = append(prompts, row[column])
	}
	return prompts, nil
}

// Draw picks the n prompts of one condition: without repetition and in random order, as
// the reference's random.sample, the same for the same seed and draw. From fewer than n
// it takes all, in random order, and then all again until there are n; cycled says so.
func Draw(prompts []string, n int, seed int64, draw int) (drawn []string, cycled bool) {
	rng := rand.New(rand.NewPCG(uint64(seed), uint64(draw)))
	drawn = make([]string, 0, n)
	for len(drawn) < n && len(prompts) > 0 {
		for _, i := range rng.Perm(len(prompts))[:min(len(prompts), n-len(drawn))] {
			drawn = append(drawn, prompts[i])
		}
	}
	return drawn, len(prompts) < n
}

// Hash is the SHA-256 of all prompts, each with its length before it, in lower-case hex.
func Hash(prompts []string) string {
	sum := sha256.New()
	for _, p := range prompts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
