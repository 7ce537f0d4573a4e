package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// entry is a tensor in the header.
type entry struct {
	DType   DType
	Shape   []uint64
	Offsets []uint64
}

// UnmarshalJSON takes what the reference reader takes, which is less than package json does:
// keys as they are written and each of them once, no null for a number.
func (e *entry) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("expected an object")
	}
	var shape []*uint64
	var offsets []*uint64
	var seen []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		var into any
		switch name {
		case "dtype":
			into = &e.DType
		case "shape":
			into = &shape
		case "data_offsets":
			into = &offsets
		default:
			into = new(json.RawMessage)
		}
		if slices.Contains(seen, name) && len(seen) > 0 {
			return fmt.Errorf("%q occurs twice", name)
		}
		if name == "dtype" || name == "shape" || name == "data_offsets" {
			seen = append(seen, name)
		}
		if err := d.Decode(into); err != nil {
			return err
		}
	}
	if shape == nil || offsets == nil {
		return errors.New("shape or data_offsets is missing")
	}
	var err error
	if e.Shape, err = numbers(shape); err != nil {
		return err
	}
	e.Offsets, err = numbers(offsets)
	return err
}

// numbers are a list without null.
func numbers[T any](list []*T) ([]T, error) {
	out := make([]T, len(list))
	for i, p := range list {
		if p == nil {
			return nil, errors.New("null in a list of numbers")
		}
		out[i] = *p
	}
	return out, nil
}

// metadata is a table of strings without null.
func metadata(d *json.Decoder) (map[string]string, error) {
	var table map[string]*string
	if err := d.Decode(&table); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(table))
	for key, value := range table {
		if value == nil {
			return nil, fmt.Errorf("%q is null", key)
		}
		out[key] = *value
	}
	return out, nil
}

// checkText refuses what package json would mend: bytes that are no UTF-8, and halves of
// surrogate pairs.
func checkText(text []byte) error {
	if !utf8.Valid(text) {
		return formatErrorf("", "header is not UTF-8")
	}
	unit := func(i int) (uint64, bool) {
		if i+6 > len(text) || text[i] != '\\' || text[i+1] != 'u' {
			return 0, false
		}
		v, err := strconv.ParseUint(string(text[i+2:i+6]), 16, 16)
		return v, err == nil
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		v, ok := unit(i)
		switch {
		case !ok || v < 0xD800 || v > 0xDFFF:
			i++ // whatever is escaped
		default:
			low, ok := unit(i + 6)
			if v >= 0xDC00 || !ok || low < 0xDC00 || low > 0xDFFF {
				return formatErrorf("", "header has half a surrogate pair, at byte %d", i)
			}
			i += 11
		}
	}
	return nil
}

func parseHeader(text []byte, dataBytes, dataStart int64) (*Header, error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, formatErrorf("", "header does not start with {")
	}
	if err := checkText(text); err != nil {
		return nil, err
	}
	h := &Header{byName: map[string]int{}}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, formatErrorf("", "header is not JSON: %v", err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, formatErrorf("", "header is not JSON: %v", err)
		}
		name, _ := key.(string)
		if name == "__metadata__" {
			if h.Metadata != nil {
				return nil, formatErrorf("", "__metadata__ occurs twice")
			}
			if h.Metadata, err = metadata(dec); err != nil {
				return nil, formatErrorf("", "__metadata__ is not a table of strings: %v", err)
			}
			continue
		}
		var e entry
		if err := dec.Decode(&e); err != nil {
			return nil, formatErrorf(name, "bad header entry: %v", err)
		}
		if _, twice := h.byName[name]; twice {
			return nil, formatErrorf(name, "occurs twice")
		}
		info, err := e.check(name, dataBytes)
		if err != nil {
			return nil, err
		}
		h.byName[name] = len(h.Tensors)
		h.Tensors = append(h.Tensors, info)
	}
	if _, err := dec.Token(); err != nil {
		return nil, formatErrorf("", "header is not JSON: %v", err)
	}
	if rest, _ := io.ReadAll(dec.Buffered()); strings.TrimRight(string(rest), " \n\t\r") != "" {
		return nil, formatErrorf("", "header has text after its JSON object")
	}
	sort.SliceStable(h.Tensors, func(i, j int) bool {
		a, b := h.Tensors[i], h.Tensors[j]
		return a.Offset < b.Offset || a.Offset == b.Offset && a.Bytes < b.Bytes
	})
	end := int64(0)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		h.byName[t.Name] = i
		if t.Offset != end {
			return nil, formatErrorf(t.Name, "data begins at %d, expected %d: hole or overlap", t.Offset, end)
		}
		end += t.Bytes
		t.Offset += dataStart
	}
	if end != dataBytes {
		return nil, formatErrorf("", "tensors end at byte %d of the data, the file has %d", end, dataBytes)
	}
	return h, nil
}

func (e *entry) check(name string, dataBytes int64) (Info, error) {
	size := e.DType.Size()
	if size == 0 {
		return Info{}, formatErrorf(name, "unknown dtype %q", e.DType)
	}
	if len(e.Offsets) != 2 || e.Offsets[0] > e.Offsets[1] {
		return Info{}, formatErrorf(name, "data_offsets %v are not a range", e.Offsets)
	}
	if e.Offsets[1] > uint64(dataBytes) {
		return Info{}, formatErrorf(name, "data ends at %d, but the file has only %d bytes of data: truncated?", e.Offsets[1], dataBytes)
	}
	want := size
	shape := make([]int, len(e.Shape))
	for i, d := range e.Shape {
		if d > math.MaxInt32 || d > 0 && want > math.MaxInt64/int64(d) {
			return Info{}, formatErrorf(name, "shape %v is out of range", e.Shape)
		}
		want *= int64(d)
		shape[i] = int(d)
	}
	if have := int64(e.Offsets[1] - e.Offsets[0]); have != want {
		return Info{}, formatErrorf(name, "%s of shape %v needs %d bytes, the header gives %d", e.DType, e.Shape, want, have)
	}
	return Info{Name: name, DType: e.DType, Shape: shape, Offset: int64(e.Offsets[0]), Bytes: want}, nil
}
