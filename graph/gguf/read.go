package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
	"unicode/utf8"
)

// File is the checked table of contents of a GGUF file. Its methods are safe for
// concurrent use.
type File struct {
	Path    string
	Version uint32
	Values  []KeyValue   // in the order of the file
	Tensors []TensorInfo // in the order of the data
	keys    map[string]int
	tensors map[string]int
	r       io.ReaderAt
	c       io.Closer
}

// Open opens a file and checks it as Read does. Errors name the path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	file, err := Read(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.Path, file.c = path, f
	return file, nil
}

// Close closes the file underneath, if Open opened it.
func (f *File) Close() error {
	if f.c == nil {
		return nil
	}
	return f.c.Close()
}

// Lookup finds a metadata value by its key.
func (f *File) Lookup(key string) (KeyValue, bool) {
	i, ok := f.keys[key]
	if !ok {
		return KeyValue{}, false
	}
	return f.Values[i], true
}

// Tensor finds a tensor by its name.
func (f *File) Tensor(name string) (TensorInfo, bool) {
	i, ok := f.tensors[name]
	if !ok {
		return TensorInfo{}, false
	}
	return f.Tensors[i], true
}

// Array reads the elements of a metadata array.
func (f *File) Array(key string) (RawArray, error) {
	kv, _ := f.Lookup(key)
	a, ok := kv.Value.(ArrayInfo)
	if !ok {
		return RawArray{}, formatErrorf(fmt.Sprintf("key %q", key), "is no array of the file")
	}
	raw := RawArray{Type: a.Type, Count: a.Count, Data: make([]byte, a.Bytes)}
	if _, err := f.r.ReadAt(raw.Data, a.Offset); err != nil {
		return RawArray{}, fmt.Errorf("%s: key %q: %w", f.Path, key, err)
	}
	return raw, nil
}

// ReadRange fills p with the tensor's bytes from off on.
func (f *File) ReadRange(name string, off int64, p []byte) error {
	t, ok := f.Tensor(name)
	if !ok {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, ErrNoTensor)
	}
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return fmt.Errorf("%s: tensor %q: range %d+%d exceeds its %d bytes", f.Path, name, off, len(p), t.Bytes)
	}
	if _, err := f.r.ReadAt(p, t.Offset+off); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, err)
	}
	return nil
}

// Read checks a file of size bytes: magic, version, every metadata value, and every
// tensor's name, type, shape and place. Array elements are not kept, see ArrayInfo.
func Read(r io.ReaderAt, size int64) (*File, error) {
	s := &scanner{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}
	f := &File{r: r, keys: map[string]int{}, tensors: map[string]int{}}
	if head := s.bytes(4); s.err == nil && string(head) != magic {
		return nil, formatErrorf("", "file begins with %q, expected %q", head, magic)
	}
	f.Version = uint32(s.uint(4))
	if s.err == nil && f.Version != 2 && f.Version != 3 {
		return nil, formatErrorf("", "version %d, expected 2 or 3 (little-endian)", f.Version)
	}
	// A tensor's entry has at least 24 bytes (name length, axes, type, offset), a pair 13.
	tensors, values := s.count(24, "tensors"), s.count(13, "metadata values")
	for range values {
		kv, err := s.keyValue()
		if err != nil {
			return nil, err
		}
		if _, twice := f.keys[kv.Key]; twice {
			return nil, formatErrorf(fmt.Sprintf("key %q", kv.Key), "occurs twice")
		}
		f.keys[kv.Key] = len(f.Values)
		f.Values = append(f.Values, kv)
	}
	for range tensors {
		t, err := s.tensor()
		if err != nil {
			return nil, err
		}
		f.Tensors = append(f.Tensors, t)
	}
	if s.err != nil {
		return nil, s.err
	}
	return f, f.place(s.pos, size)
}

// place turns the tensors' offsets, which count from the start of the data, into the
// file's, and checks that they are aligned, inside and apart.
func (f *File) place(end, size int64) error {
	align := int64(defaultAlignment)
	if kv, ok := f.Lookup("general.alignment"); ok {
		v, ok := kv.Value.(uint64)
		if !ok || v < 8 || v > maxAlignment || v&(v-1) != 0 {
			return formatErrorf(`key "general.alignment"`, "value %v, expected a power of two from 8 to %d", kv.Value, maxAlignment)
		}
		align = int64(v)
	}
	start := (end + align - 1) / align * align
	sort.SliceStable(f.Tensors, func(i, j int) bool { return f.Tensors[i].Offset < f.Tensors[j].Offset })
	at := int64(0)
	for i := range f.Tensors {
		t := &f.Tensors[i]
		item := fmt.Sprintf("tensor %q", t.Name)
		if _, twice := f.tensors[t.Name]; twice {
			return formatErrorf(item, "occurs twice")
		}
		f.tensors[t.Name] = i
		if t.Offset%align != 0 {
			return formatErrorf(item, "data begins at %d, expected a multiple of %d", t.Offset, align)
		}
		if t.Offset < at {
			return formatErrorf(item, "data begins at %d, inside the tensor before it", t.Offset)
		}
		if t.Offset > size-start || t.Bytes > size-start-t.Offset {
			return formatErrorf(item, "data ends beyond the file's %d bytes: truncated?", size)
		}
		at = t.Offset + t.Bytes
		t.Offset += start
	}
	return nil
}

// scanner reads forward and keeps the first error; after it, all results are zero.
type scanner struct {
	r         *bufio.Reader
	pos, size int64
	err       error
	buf       [8]byte
}

func (s *scanner) left() int64 { return s.size - s.pos }

func (s *scanner) bytes(n int64) []byte {
	if s.err != nil {
		return nil
	}
	if n > s.left() {
		s.err = formatErrorf("", "%d bytes expected at %d, but the file has only %d: truncated?", n, s.pos, s.size)
		return nil
	}
	p := s.buf[:]
	if n > int64(len(p)) {
		p = make([]byte, n)
	}
	p = p[:n]
	if _, err := io.ReadFull(s.r, p); err != nil {
		s.err = fmt.Errorf("gguf: read at %d: %w", s.pos, err)
		return nil
	}
	s.pos += n
	return p
}

// uint reads an unsigned number of n bytes.
func (s *scanner) uint(n int64) uint64 {
	p := s.bytes(n)
	if p == nil {
		return 0
	}
	var b [8]byte
	copy(b[:], p)
	return binary.LittleEndian.Uint64(b[:])
}

// count reads the number of items that have at least each bytes.
func (s *scanner) count(each int64, what string) int64 {
	n := s.uint(8)
	if s.err == nil && n > uint64(s.left()/each) {
		s.err = formatErrorf("", "%d %s do not fit in the %d bytes left of the file", n, what, s.left())
	}
	if s.err != nil {
		return 0
	}
	return int64(n)
}

func (s *scanner) skip(n int64) {
	if s.err != nil {
		return
	}
	if n > s.left() {
		s.bytes(n)
		return
	}
	// bufio discards an int at a time; on wasm an int has 32 bits.
	for n > 0 {
		part := min(n, 1<<30)
		if _, err := s.r.Discard(int(part)); err != nil {
			s.err = fmt.Errorf("gguf: read at %d: %w", s.pos, err)
			return
		}
		s.pos, n = s.pos+part, n-part
	}
}

func (s *scanner) string(what string) string {
	n := s.count(1, "bytes of a "+what)
	text := string(s.bytes(n))
	if s.err == nil && !utf8.ValidString(text) {
		s.err = formatErrorf("", "a %s before byte %d is not UTF-8", what, s.pos)
	}
	return text
}

func (s *scanner) keyValue() (KeyValue, error) {
	kv := KeyValue{Key: s.string("key")}
	kv.Type = ValueType(s.uint(4))
	item := fmt.Sprintf("key %q", kv.Key)
	switch n := kv.Type.size(); {
	case s.err != nil:
	case n > 0:
		kv.Value = scalar(kv.Type, s.uint(n))
	case kv.Type == String:
		kv.Value = s.string("value of " + item)
	case kv.Type == Array:
		a := ArrayInfo{Type: ValueType(s.uint(4))}
		switch n := a.Type.size(); {
		case n > 0:
			a.Count = s.count(n, "elements of "+item)
			a.Offset = s.pos
			s.skip(a.Count * n)
		case a.Type == String:
			a.Count = s.count(8, "elements of "+item)
			a.Offset = s.pos
			for i := int64(0); i < a.Count && s.err == nil; i++ {
				s.skip(s.count(1, "bytes of an element of "+item))
			}
		default:
			return kv, formatErrorf(item, "array of unknown type %d", a.Type)
		}
		a.Bytes = s.pos - a.Offset
		kv.Value = a
	default:
		return kv, formatErrorf(item, "unknown type %d", kv.Type)
	}
	return kv, s.err
}

func scalar(t ValueType, bits uint64) any {
	switch t {
	case Bool:
		return bits != 0
	case Float32:
		return float64(math.Float32frombits(uint32(bits)))
	case Float64:
		return math.Float64frombits(bits)
	case Int8:
		return int64(int8(bits))
	case Int16:
		return int64(int16(bits))
	case Int32:
		return int64(int32(bits))
	case Int64:
		return int64(bits)
	}
	return bits
}

func (s *scanner) tensor() (TensorInfo, error) {
	t := TensorInfo{Name: s.string("tensor name")}
	dims := s.uint(4)
	if s.err == nil && dims > maxDims {
		return t, formatErrorf(fmt.Sprintf("tensor %q", t.Name), "%d axes, expected at most %d", dims, maxDims)
	}
	for range dims {
		// Out of range turns negative or too large, and tensorBytes refuses both.
		t.Shape = append(t.Shape, int64(s.uint(8)))
	}
	t.Type = TensorType(s.uint(4))
	offset := s.uint(8)
	if s.err != nil {
		return t, s.err
	}
	if offset > uint64(s.size) {
		return t, formatErrorf(fmt.Sprintf("tensor %q", t.Name), "data begins at %d, but the file has only %d bytes: truncated?", offset, s.size)
	}
	t.Offset = int64(offset)
	var err error
	t.Bytes, err = tensorBytes(t.Name, t.Type, t.Shape)
	return t, err
}
