// Package pth reads the tensors of PyTorch checkpoints as the reference saves them
// (section d.6): a zip by torch.save that holds a flat state dict, or a single tensor.
//
// It is no unpickler. It knows the opcodes and globals that a state dict of float
// tensors is made of, and anything else is an error that names it; nothing in a file is
// ever run. Values stay in the file: the result is a table of byte ranges, as package
// safetensors has one, and package generator's Import streams them into a package.
package pth

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

const (
	// maxPickle bounds data.pkl: the reference's have up to 20 kB, a decoder of 256
	// layers has half a megabyte.
	maxPickle = 2 << 20
	// maxDirectory bounds the zip's directory and its number of members.
	maxDirectory = 8 << 20
	maxMembers   = 1 << 17
)

// FormatError says what is wrong with a file, and in which tensor if it is one's.
type FormatError struct {
	Tensor string
	Reason string
}

func (e *FormatError) Error() string {
	if e.Tensor == "" {
		return "pth: " + e.Reason
	}
	return fmt.Sprintf("pth: tensor %q: %s", e.Tensor, e.Reason)
}

func formatErrorf(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}

// File is an open checkpoint. Its methods are safe for concurrent use.
type File struct {
	Path string
	// Tensors in the order of the state dict, with their place in the file. They may
	// overlap: tensors can share a storage. A file that holds a single tensor instead of
	// a state dict has one without a name.
	Tensors []safetensors.Info

	byName map[string]int
	r      io.ReaderAt
	c      io.Closer
}

// Open opens a checkpoint and checks everything but the values. Errors name the path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	file, err := NewFile(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.Path, file.c = path, f
	return file, nil
}

// NewFile reads a checkpoint of size bytes from memory or any other place.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	text, err := a.small("data.pkl", maxPickle)
	if err != nil {
		return nil, err
	}
	if order, err := a.small("byteorder", 64); err == nil && string(order) != "little" {
		return nil, formatErrorf("byteorder is %q, expected \"little\"", order)
	} else if err != nil && !errors.Is(err, errNoMember) {
		return nil, err
	}
	top, err := unpickle(text)
	if err != nil {
		return nil, err
	}
	f := &File{r: r, byName: map[string]int{}}
	add := func(name string, t *tensor) error {
		info, err := a.locate(name, t)
		if err != nil {
			return err
		}
		f.byName[name] = len(f.Tensors)
		f.Tensors = append(f.Tensors, info)
		return nil
	}
	switch top := top.(type) {
	case *tensor:
		return f, add("", top)
	case *dict:
		for _, name := range top.keys {
			t, ok := top.values[name].(*tensor)
			if !ok {
				return nil, &FormatError{name, fmt.Sprintf("is %s, expected a tensor: only a flat state dict is read", kindOf(top.values[name]))}
			}
			if err := add(name, t); err != nil {
				return nil, err
			}
		}
		return f, nil
	}
	return nil, formatErrorf("holds %s, expected a state dict or a tensor", kindOf(top))
}

// Close closes the file underneath, if Open opened it.
func (f *File) Close() error {
	if f.c == nil {
		return nil
	}
	return f.c.Close()
}

// Lookup finds a tensor by name.
func (f *File) Lookup(name string) (safetensors.Info, bool) {
	i, ok := f.byName[name]
	if !ok {
		return safetensors.Info{}, false
	}
	return f.Tensors[i], true
}

// ReadRange fills p with the tensor's bytes, little-endian elements, from off on.
func (f *File) ReadRange(name string, off int64, p []byte) error {
	t, ok := f.Lookup(name)
	if !ok {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, safetensors.ErrNoTensor)
	}
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return fmt.Errorf("%s: tensor %q: range %d+%d exceeds its %d bytes", f.Path, name, off, len(p), t.Bytes)
	}
	if n, err := f.r.ReadAt(p, t.Offset+off); n < len(p) {
		return fmt.Errorf("%s: tensor %q: %w", f.Path, name, err)
	}
	return nil
}

// archive is the zip: the members below the one folder that torch.save makes.
type archive struct {
	r       io.ReaderAt
	size    int64
	stem    string
	members map[string]*zip.File
}

var errNoMember = errors.New("no such member")

func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	if err := checkEnd(r, size); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(&budget{r: r, left: maxDirectory}, size)
	if err != nil {
		return nil, fmt.Errorf("pth: zip directory: %w", err)
	}
	a := &archive{r: r, size: size, members: make(map[string]*zip.File, len(z.File))}
	for _, m := range z.File {
		if a.members[m.Name] != nil {
			return nil, formatErrorf("zip member %q occurs twice", m.Name)
		}
		a.members[m.Name] = m
		if stem, ok := strings.CutSuffix(m.Name, "/data.pkl"); ok && stem != "" && !strings.Contains(stem, "/") {
			if a.stem != "" {
				return nil, formatErrorf("zip has both %q and %q, expected one data.pkl", a.stem+"/data.pkl", m.Name)
			}
			a.stem = stem
		}
	}
	if a.stem == "" {
		return nil, formatErrorf("zip without NAME/data.pkl: not written by torch.save")
	}
	return a, nil
}

// checkEnd looks at the record that ends every zip. torch.save writes no comment behind
// it; with that rule the record that archive/zip will find is this one, so that the
// number of members is bounded before archive/zip makes room for them.
func checkEnd(r io.ReaderAt, size int64) error {
	const endLen, locatorLen, end64Len = 22, 20, 56
	var end [endLen]byte
	if size < endLen {
		return formatErrorf("file has %d bytes: not a checkpoint, or truncated", size)
	}
	if _, err := r.ReadAt(end[:], size-endLen); err != nil && err != io.EOF {
		return fmt.Errorf("pth: read the zip's end: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(end[:]) != 0x06054b50 || le.Uint16(end[20:]) != 0 {
		return formatErrorf("no zip directory at the end: truncated, or not written by torch.save of torch 1.6 or newer")
	}
	members := uint64(le.Uint16(end[10:]))
	var locator [locatorLen]byte
	if size >= endLen+locatorLen {
		if _, err := r.ReadAt(locator[:], size-endLen-locatorLen); err != nil {
			return fmt.Errorf("pth: read the zip's end: %w", err)
		}
	}
	if le.Uint32(locator[:]) == 0x07064b50 {
		var end64 [end64Len]byte
		at := le.Uint64(locator[8:])
		if at > uint64(size-end64Len) {
			return formatErrorf("the zip64 directory is beyond the file's end: truncated?")
		}
		if _, err := r.ReadAt(end64[:], int64(at)); err != nil {
			return fmt.Errorf("pth: read the zip's end: %w", err)
		}
		members = max(members, le.Uint64(end64[32:]))
	}
	if members > maxMembers {
		return formatErrorf("zip of %d members, expected at most %d", members, maxMembers)
	}
	return nil
}

// budget bounds what archive/zip reads, and so what it allocates, for the directory.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, formatErrorf("zip directory is larger than %d bytes", maxDirectory)
	}
	return b.r.ReadAt(p, off)
}

// extent is where a stored member's bytes lie in the file.
func (a *archive) extent(name string) (off, n int64, err error) {
	m := a.members[a.stem+"/"+name]
	if m == nil {
		return 0, 0, fmt.Errorf("pth: zip member %q: %w", a.stem+"/"+name, errNoMember)
	}
	if m.Method != zip.Store || m.Flags&1 != 0 || m.CompressedSize64 != m.UncompressedSize64 {
		return 0, 0, formatErrorf("zip member %q is compressed or encrypted: torch.save stores its members as they are", m.Name)
	}
	off, err = m.DataOffset()
	if err != nil {
		return 0, 0, fmt.Errorf("pth: zip member %q: %w", m.Name, err)
	}
	if off < 0 || off > a.size || m.UncompressedSize64 > uint64(a.size-off) {
		return 0, 0, formatErrorf("zip member %q of %d bytes at %d lies beyond the file's end at %d: truncated?", m.Name, m.UncompressedSize64, off, a.size)
	}
	return off, int64(m.UncompressedSize64), nil
}

// small reads a member of at most limit bytes. Its checksum is not looked at: torch can
// be told to leave it out, and does not look at it either.
func (a *archive) small(name string, limit int64) ([]byte, error) {
	off, n, err := a.extent(name)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, formatErrorf("zip member %q has %d bytes, expected at most %d", a.stem+"/"+name, n, limit)
	}
	p := make([]byte, n)
	if k, err := a.r.ReadAt(p, off); k < len(p) {
		return nil, fmt.Errorf("pth: zip member %q: %w", a.stem+"/"+name, err)
	}
	return p, nil
}

// locate turns a tensor into a range of the file.
func (a *archive) locate(name string, t *tensor) (safetensors.Info, error) {
	fail := func(format string, args ...any) (safetensors.Info, error) {
		return safetensors.Info{}, &FormatError{name, fmt.Sprintf(format, args...)}
	}
	off, bytes, err := a.extent("data/" + t.storage.key)
	if errors.Is(err, errNoMember) {
		return fail("its storage %q is not in the zip", t.storage.key)
	} else if err != nil {
		return fail("%s", strings.TrimPrefix(err.Error(), "pth: "))
	}
	size := t.storage.dtype.Size()
	if t.storage.count > math.MaxInt64/size || t.storage.count*size != bytes {
		return fail("its storage %q has %d bytes, expected %d values of %s", t.storage.key, bytes, t.storage.count, t.storage.dtype)
	}
	elements := int64(1)
	for _, d := range t.shape {
		if d < 0 || d > math.MaxInt32 || d > 0 && elements > math.MaxInt64/d {
			return fail("shape %v is out of range", t.shape)
		}
		elements *= d
	}
	if t.offset < 0 || t.offset > t.storage.count || elements > t.storage.count-t.offset {
		return fail("shape %v from value %d on exceeds its storage of %d values", t.shape, t.offset, t.storage.count)
	}
	if elements > 0 && !t.contiguous() {
		return fail("strides %v of shape %v: only contiguous tensors are read; save it after .contiguous()", t.stride, t.shape)
	}
	info := safetensors.Info{Name: name, DType: t.storage.dtype, Shape: make([]int, len(t.shape)), Offset: off + t.offset*size, Bytes: elements * size}
	for i, d := range t.shape {
		info.Shape[i] = int(d)
	}
	return info, nil
}

// contiguous reports row-major order. An axis of size 1 may have any stride.
func (t *tensor) contiguous() bool {
	want := int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		if t.shape[i] != 1 && t.stride[i] != want {
			return false
		}
		want *= t.shape[i]
	}
	return true
}
