package collect

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Record is one example of a data set. Prompt is what conditions are made of, and what the
// base is asked, unless Input says that otherwise: then the adapter is to stand in for what
// the prompt says beyond it.
type Record struct {
	System   string `json:"system,omitempty"`
	Prompt   string `json:"prompt"`
	Input    string `json:"input,omitempty"`
	Response string `json:"response"`
}

// Question is what the base is asked.
func (r Record) Question() string {
	if r.Input != "" {
		return r.Input
	}
	return r.Prompt
}

// DataSet is records under a name.
type DataSet struct {
	Name    string
	Records []Record
}

// Extensions are those of data sets' files: an array of records, or a record a line.
var Extensions = []string{".json", ".jsonl"}

// nameOf is the data set that a file holds.
func nameOf(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}

// Find is the data sets' files among places, files and folders of them: of those names, in their
// order, or all if there are none. All that is missing or there twice comes back in one error.
func Find(places, names []string) ([]string, error) {
	var files []string
	for _, place := range places {
		st, err := os.Stat(place)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			files = append(files, place)
			continue
		}
		entries, err := os.ReadDir(place) // by name
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if slices.Contains(Extensions, filepath.Ext(e.Name())) {
				files = append(files, filepath.Join(place, e.Name()))
			}
		}
	}
	var all []error
	by := map[string]string{}
	for _, path := range files {
		name := nameOf(path)
		if there, ok := by[name]; ok && (len(names) == 0 || slices.Contains(names, name)) {
			all = append(all, fmt.Errorf("data set %s is in %s and in %s: leave one of them out", name, there, path))
		}
		by[name] = path
	}
	if len(names) > 0 {
		files = nil
		for _, name := range names {
			path, ok := by[name]
			if !ok {
				all = append(all, fmt.Errorf("data set %s: no file %s%s in %s", name, name, strings.Join(Extensions, " or "+name), strings.Join(places, ", ")))
			}
			files = append(files, path)
		}
	} else if len(files) == 0 {
		all = append(all, fmt.Errorf("no %s file in %s", strings.Join(Extensions, " or "), strings.Join(places, ", ")))
	}
	return files, errors.Join(all...)
}

// ReadDataSets reads the data sets that Find finds. All that is wrong with them comes back in one error.
func ReadDataSets(places, names []string) ([]*DataSet, error) {
	files, err := Find(places, names)
	if err != nil {
		return nil, err
	}
	var list []*DataSet
	var all []error
	for _, path := range files {
		set, err := ReadDataSet(path)
		if err != nil {
			all = append(all, err)
			continue
		}
		list = append(list, set)
	}
	return list, errors.Join(all...)
}

// ReadDataSet reads a file of records, one of Extensions; its name is the file's.
func ReadDataSet(path string) (*DataSet, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &DataSet{Name: nameOf(path)}
	if strings.EqualFold(filepath.Ext(path), ".jsonl") {
		if d.Records, err = lines(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	} else if err := json.Unmarshal(raw, &d.Records); err != nil {
		return nil, fmt.Errorf("%s: expected an array of records with prompt and response: %w", path, err)
	}
	if len(d.Records) == 0 {
		return nil, fmt.Errorf("%s: no record in it", path)
	}
	for i, r := range d.Records {
		if strings.TrimSpace(r.Prompt) == "" || strings.TrimSpace(r.Response) == "" {
			return nil, fmt.Errorf("%s: record %d: prompt or response is missing or empty", path, i+1)
		}
		if r.Input != "" && strings.TrimSpace(r.Input) == "" {
			return nil, fmt.Errorf("%s: record %d: input is blank: leave it out where the base is asked the prompt", path, i+1)
		}
	}
	return d, nil
}

// lines reads a record a line; blank lines are none.
func lines(raw []byte) ([]Record, error) {
	var list []Record
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("line %d: expected a record with prompt and response: %w", n, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// Join is one data set of all records, of each data set in turn.
func Join(name string, sets []*DataSet) *DataSet {
	d := &DataSet{Name: name}
	for i := 0; ; i++ {
		n := len(d.Records)
		for _, s := range sets {
			if i < len(s.Records) {
				d.Records = append(d.Records, s.Records[i])
			}
		}
		if len(d.Records) == n {
			return d
		}
	}
}

// digest identifies the records.
func (d *DataSet) digest() (string, error) {
	raw, err := json.Marshal(d.Records)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}
