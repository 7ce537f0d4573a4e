// Package results keeps finished adapters in a folder, each under the hash of the request
// that it answers, so that a request that was answered before costs no computation: not in
// this process, nor after a restart, nor in another process with the same folder.
//
// A file appears whole or not at all and ends with the SHA-256 of everything before it,
// which Get checks before it hands out a byte. What does not fit its hash is removed and
// not found: the caller computes it again. When the files exceed the folder's limit, those
// that were not asked for the longest go. It knows nothing of jobs or HTTP.
package results

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// A file is magic, the info's length as u32le, the key as 32 bytes, the info, the contents
// and the SHA-256 of all of them.
const (
	magic     = "dndres\x00\x01"
	headBytes = len(magic) + 4 + sha256.Size
	maxInfo   = 1 << 20
	ending    = ".result"
)

// ErrNotFound says that there is no such result, or no longer.
var ErrNotFound = errors.New("results: not found")

// Key is the hash of a request.
type Key [sha256.Size]byte

// String is the key in lower-case hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey reads a key from lower-case hex.
func ParseKey(s string) (k Key, err error) {
	if len(s) != 2*sha256.Size || strings.ToLower(s) != s {
		return k, fmt.Errorf("results: key of %d characters, expected 64 of lower-case hex", len(s))
	}
	_, err = hex.Decode(k[:], []byte(s))
	return k, err
}

// Stats count what a Store has done since it was opened.
type Stats struct {
	Hits, Misses, Corrupt, Evicted int64
	Bytes                          int64 // of all files, as of the last look at the folder
}

// Store is a folder of results. It is safe for concurrent use, also by several processes.
type Store struct {
	dir   string
	limit int64

	mu    sync.Mutex
	stats Stats
}

// stale is after how long the temporary file of a process that died is removed. One that is
// still being written is younger.
const stale = time.Hour

var temporary = regexp.MustCompile(`^\.[0-9a-f]{64}\` + ending + `\.tmp-`)

// Open opens the folder, which is made if it is missing. limit is the most bytes of results
// that stay in it.
func Open(dir string, limit int64) (*Store, error) {
	if limit < 1 {
		return nil, fmt.Errorf("results: limit of %d bytes, expected more than 0", limit)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	// Better now than with the first adapter.
	probe, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	s := &Store{dir: dir, limit: limit}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && temporary.MatchString(e.Name()) && time.Since(i.ModTime()) > stale {
			// Another process may have been quicker.
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return s, s.evict("")
}

// Stats are the counts so far.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Store) path(k Key) string { return filepath.Join(s.dir, k.String()+ending) }

// Put keeps a result: info, at most 1 MiB, and the contents that write writes.
func (s *Store) Put(k Key, info []byte, write func(w io.Writer) error) error {
	if len(info) > maxInfo {
		return fmt.Errorf("results: info of %d bytes, expected at most %d", len(info), maxInfo)
	}
	path := s.path(k)
	var total int64
	err := atomicfile.Write(path, func(w io.Writer) error {
		sum := sha256.New()
		to := &bounded{w: io.MultiWriter(w, sum), left: s.limit}
		head := append(binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(info))), k[:]...)
		for _, part := range [][]byte{head, info} {
			if _, err := to.Write(part); err != nil {
				return err
			}
		}
		if err := write(to); err != nil {
			return err
		}
		total = s.limit - to.left + sha256.Size
		_, err := w.Write(sum.Sum(nil))
		return err
	})
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	s.mu.Lock()
	s.stats.Bytes += total
	over := s.stats.Bytes > s.limit
	s.mu.Unlock()
	if over {
		return s.evict(filepath.Base(path))
	}
	return nil
}

// bounded is a writer for at most left bytes.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errors.New("larger than the folder may become: raise its limit")
	}
	n, err := b.w.Write(p)
	b.left -= int64(n)
	return n, err
}

// Result is a result that was found. Its contents fit their hash when it was opened.
type Result struct {
	*io.SectionReader // the contents
	Info              []byte
	file              *os.File
}

// Close closes the file.
func (r *Result) Close() error { return r.file.Close() }

// Get opens a result, or returns ErrNotFound.
func (s *Store) Get(k Key) (*Result, error) {
	path := s.path(k)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		s.count(func(c *Stats) { c.Misses++ })
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	r, err := read(f, k)
	if err != nil {
		f.Close()
		if !errors.Is(err, errCorrupt) {
			return nil, fmt.Errorf("results: %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("results: %w", err)
		}
		s.count(func(c *Stats) { c.Corrupt++; c.Misses++ })
		return nil, ErrNotFound
	}
	s.count(func(c *Stats) { c.Hits++ })
	now := time.Now()
	// A folder that is not ours to write to still serves; its files age.
	_ = os.Chtimes(path, now, now)
	return r, nil
}

func (s *Store) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// errCorrupt is a file that is not what Put wrote.
var errCorrupt = errors.New("corrupt")

// read checks a file. Errors other than errCorrupt are the disk's.
func read(f *os.File, k Key) (*Result, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() < int64(headBytes+sha256.Size) {
		return nil, errCorrupt
	}
	body := st.Size() - sha256.Size
	head := make([]byte, headBytes)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	rest := head[len(magic):]
	n := int64(binary.LittleEndian.Uint32(rest))
	if string(head[:len(magic)]) != magic || !bytes.Equal(rest[4:], k[:]) || n > maxInfo || n > body-int64(headBytes) {
		return nil, errCorrupt
	}
	sum, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, body)); err != nil {
		return nil, err
	}
	if _, err := f.ReadAt(want, body); err != nil {
		return nil, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return nil, errCorrupt
	}
	info := make([]byte, n)
	if _, err := f.ReadAt(info, int64(headBytes)); err != nil {
		return nil, err
	}
	at := int64(headBytes) + n
	return &Result{SectionReader: io.NewSectionReader(f, at, body-at), Info: info, file: f}, nil
}

// evict removes the files that were not asked for the longest, until nine tenths of the
// limit are left, if there is more than the limit. It spares the file keep.
func (s *Store) evict(keep string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	var files []fs.FileInfo
	total := int64(0)
	for _, e := range entries {
		// A file that another process removes meanwhile has no info.
		if i, err := e.Info(); err == nil && i.Mode().IsRegular() && strings.HasSuffix(e.Name(), ending) {
			files = append(files, i)
			total += i.Size()
		}
	}
	if total > s.limit {
		slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
		for _, f := range files {
			if total <= s.limit/10*9 {
				break
			}
			if f.Name() == keep {
				continue
			}
			if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("results: %w", err)
			}
			total -= f.Size()
			s.stats.Evicted++
		}
	}
	s.stats.Bytes = total
	return nil
}
