package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What no message needs more of.
const (
	maxParts = 1 << 10
	maxName  = 1 << 10 // bytes of a part's name
	maxBytes = 1<<31 - 1
)

// Part is a named piece of a message.
type Part struct {
	Name string
	Data []byte
}

// Message is what crosses the border between host and guest. No name occurs twice.
type Message []Part

// Encode writes a message: u32le count; for each part u32le length of the name, name,
// u32le length of the data, data.
func (m Message) Encode() ([]byte, error) {
	n := 4
	for _, p := range m {
		if len(p.Data) > maxBytes-n-len(p.Name)-8 {
			return nil, fmt.Errorf("message: part %.64q: %d bytes are too many, a message has at most %d", p.Name, len(p.Data), maxBytes)
		}
		n += 8 + len(p.Name) + len(p.Data)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	raw := binary.LittleEndian.AppendUint32(make([]byte, 0, n), uint32(len(m)))
	for _, p := range m {
		raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(p.Name))), p.Name...)
		raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(p.Data))), p.Data...)
	}
	return raw, nil
}

// Decode reads a message. The parts' data are raw's own memory.
func Decode(raw []byte) (Message, error) {
	count, rest, ok := word(raw)
	if !ok {
		return nil, fmt.Errorf("message: %d bytes, expected a count of parts", len(raw))
	}
	if count > maxParts || count > len(rest)/8 {
		return nil, fmt.Errorf("message: %d parts in %d bytes, at most %d are allowed", count, len(raw), maxParts)
	}
	m := make(Message, 0, count)
	for i := range count {
		name, after, ok := field(rest)
		if !ok {
			return nil, fmt.Errorf("message: part %d of %d: the name is cut off", i, count)
		}
		if len(name) > maxName {
			return nil, fmt.Errorf("message: part %d of %d: name of %d bytes, at most %d are allowed", i, count, len(name), maxName)
		}
		data, after, ok := field(after)
		if !ok {
			return nil, fmt.Errorf("message: part %.64q: the data are cut off", name)
		}
		m, rest = append(m, Part{string(name), data}), after
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("message: %d bytes behind the last part", len(rest))
	}
	return m, m.check()
}

func (m Message) check() error {
	if len(m) > maxParts {
		return fmt.Errorf("message: %d parts, at most %d are allowed", len(m), maxParts)
	}
	names := make(map[string]bool, len(m))
	for i, p := range m {
		if p.Name == "" || len(p.Name) > maxName || !utf8.ValidString(p.Name) {
			return fmt.Errorf("message: part %d: name %.64q, expected 1 to %d bytes of UTF-8", i, p.Name, maxName)
		}
		if names[p.Name] {
			return fmt.Errorf("message: part %.64q occurs twice", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// Get is the data of a part; ok says whether there is one of that name.
func (m Message) Get(name string) (data []byte, ok bool) {
	i := slices.IndexFunc(m, func(p Part) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return m[i].Data, true
}

// Err is the error that a guest answered with, nil if it answered.
func (m Message) Err() error {
	if text, ok := m.Get(PartError); ok {
		return errors.New(Line(string(text)))
	}
	return nil
}

// maxLine bounds what a guest says when something failed, in bytes.
const maxLine = 1 << 12

// Line is text of any origin as one line that can be printed anywhere: without control
// characters, white space made single spaces, cut if it is long.
func Line(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxLine)], "\ufffd")
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// field reads a length and as many bytes.
func field(raw []byte) (data, rest []byte, ok bool) {
	n, rest, ok := word(raw)
	if !ok || n > len(rest) {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}

func word(raw []byte) (v int, rest []byte, ok bool) {
	if len(raw) < 4 {
		return 0, nil, false
	}
	return int(binary.LittleEndian.Uint32(raw)), raw[4:], true
}
