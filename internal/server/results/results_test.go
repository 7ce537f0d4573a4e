package results_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/internal/server/results"
)

func open(t testing.TB, dir string, limit int64) *results.Store {
	t.Helper()
	s, err := results.Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(name string) results.Key { return sha256.Sum256([]byte(name)) }

func put(t testing.TB, s *results.Store, name, contents string) {
	t.Helper()
	if err := s.Put(key(name), []byte("info of "+name), func(w io.Writer) error { _, err := io.WriteString(w, contents); return err }); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *results.Store, name string) (contents string, ok bool) {
	t.Helper()
	r, err := s.Get(key(name))
	if errors.Is(err, results.ErrNotFound) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Info) != "info of "+name {
		t.Errorf("info %q", r.Info)
	}
	return string(raw), true
}

func TestPutGet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	s := open(t, dir, 1<<20)
	if _, ok := get(t, s, "a"); ok {
		t.Error("found before it was put")
	}
	for name, contents := range map[string]string{"a": "contents of a", "empty": "", "large": strings.Repeat("x", 100_000)} {
		put(t, s, name, contents)
		if got, ok := get(t, s, name); !ok || got != contents {
			t.Errorf("%s: %.20q, %v", name, got, ok)
		}
		if got, ok := get(t, open(t, dir, 1<<20), name); !ok || got != contents {
			t.Errorf("%s, opened again: %.20q, %v", name, got, ok)
		}
	}
	if n := s.Stats(); n.Hits != 3 || n.Misses != 1 || n.Corrupt != 0 {
		t.Errorf("%+v", n)
	}
}

// What fails while it is written leaves nothing, and what stood there stays.
func TestPutFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1000)
	fault := errors.New("fault")
	if err := s.Put(key("a"), nil, func(io.Writer) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("%v", err)
	}
	put(t, s, "b", "good")
	err := s.Put(key("b"), nil, func(w io.Writer) error { _, err := w.Write(make([]byte, 2000)); return err })
	if err == nil || !strings.Contains(err.Error(), "raise its limit") {
		t.Errorf("larger than the folder may be: %v", err)
	}
	if got, _ := get(t, s, "b"); got != "good" {
		t.Errorf("%q", got)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if err := s.Put(key("c"), make([]byte, 2<<20), nil); err == nil {
		t.Error("an info of 2 MiB is taken")
	}
}

// A result under another's name is not that other's.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	put(t, s, "a", "contents")
	if err := os.Rename(filepath.Join(dir, key("a").String()+".result"), filepath.Join(dir, key("b").String()+".result")); err != nil {
		t.Fatal(err)
	}
	if _, ok := get(t, s, "b"); ok {
		t.Error("a's result is b's")
	}
	if n := s.Stats(); n.Corrupt != 1 {
		t.Errorf("%+v", n)
	}
}

// Old temporary files of processes that were killed go; new ones and others' files stay.
func TestTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	name := "." + key("a").String() + ".result.tmp-"
	for file, age := range map[string]time.Duration{name + "old": 2 * time.Hour, name + "new": time.Minute, "mine.txt": 99 * time.Hour} {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir, 1)
	for file, want := range map[string]bool{name + "old": false, name + "new": true, "mine.txt": true} {
		if _, err := os.Stat(filepath.Join(dir, file)); (err == nil) != want {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// However many write at once, also through several stores, the folder stays within its
// limit by more than one file at most, and what is found is whole.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	stores := []*results.Store{open(t, dir, 50_000), open(t, dir, 50_000)}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			s := stores[c%2]
			for i := range 40 {
				name := fmt.Sprint((c*7 + i) % 60)
				contents := strings.Repeat(name, 1000)
				if got, ok := get(t, s, name); ok && got != contents {
					t.Errorf("%s: %.20q", name, got)
				} else if !ok {
					put(t, s, name, contents)
				}
			}
		})
	}
	wg.Wait()
	open(t, dir, 50_000)
	total := int64(0)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil {
			total += i.Size()
		}
	}
	if total == 0 || total > 50_000 {
		t.Errorf("%d bytes in %d files", total, len(entries))
	}
}

// A folder that cannot be used is an error at once, not with the first adapter.
func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "folder"), "/proc/none"} {
		if _, err := results.Open(dir, 1); err == nil {
			t.Errorf("%s is taken", dir)
		}
	}
	if _, err := results.Open(t.TempDir(), 0); err == nil {
		t.Error("a limit of 0 is taken")
	}
}

func TestParseKey(t *testing.T) {
	k := key("a")
	if got, err := results.ParseKey(k.String()); err != nil || got != k {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "0", strings.ToUpper(k.String()), k.String() + "0", strings.Repeat("g", 64), "../../../../../../../../../../../../../../../../../../../etc/shadow"} {
		if _, err := results.ParseKey(s); err == nil {
			t.Errorf("%q is a key", s)
		}
	}
}

// FuzzGet puts any bytes where a result is expected: it is found only if its hash is right.
func FuzzGet(f *testing.F) {
	dir := f.TempDir()
	s := open(f, dir, 1<<20)
	put(f, s, "a", "contents")
	path := filepath.Join(dir, key("a").String()+".result")
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Get(key("a"))
		if errors.Is(err, results.ErrNotFound) {
			if _, err := os.Stat(path); err == nil {
				t.Error("it stays")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		body := raw[:len(raw)-sha256.Size]
		if sum := sha256.Sum256(body); string(sum[:]) != string(raw[len(body):]) {
			t.Error("found, and its hash is wrong")
		}
		if got, err := io.ReadAll(r); err != nil || !strings.HasSuffix(string(body), string(got)) {
			t.Errorf("%v", err)
		}
	})
}

// BenchmarkGet is what a hit costs: the hash of an adapter of 10 MB.
func BenchmarkGet(b *testing.B) {
	s := open(b, b.TempDir(), 1<<30)
	contents := strings.Repeat("0123456789abcdef", 10<<20/16)
	put(b, s, "a", contents)
	b.SetBytes(int64(len(contents)))
	for b.Loop() {
		r, err := s.Get(key("a"))
		if err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
