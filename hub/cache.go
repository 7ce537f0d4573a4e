package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

const manifestName = generator.ManifestName

// maxBytes bounds a package, so that a hostile manifest cannot fill a disk unseen: the
// reference's largest generator has 12 GB.
const maxBytes = 64 << 30

// Cache is the packages that were fetched on this machine. Its folders:
//
//	packages/SHA256/     whole, verified packages, named by their generator.json
//	refs/KEY.json        which package a source is
//	partial/SHA256/      what has arrived of a package that is not whole yet
//	locks/SHA256         locked while its package is fetched or removed
//	locks/trash          locked while the trash is emptied
//	trash/               what Remove has taken away but not deleted yet
//
// Its methods are safe for concurrent use, also by several processes.
type Cache struct {
	// Note is told what a person may want to know. It may be nil.
	Note func(string)
	// Progress is told how many bytes of a package have arrived. It may be nil.
	Progress func(done, total int64)
	// Keys, if there are any: one of them must have signed what Get and Pull return, folders
	// included, of which every byte is then checked.
	Keys signature.Keys

	dir     string
	network network
}

// New returns the cache in a folder, which need not be there yet; "" is DefaultDir. How the
// network is reached is read from the environment.
func New(dir string) (*Cache, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	n, err := networkFromEnvironment()
	if err != nil {
		return nil, err
	}
	return &Cache{dir: dir, network: n}, nil
}

// Entry is a package that a source was found to be.
type Entry struct {
	Source string `json:"source,omitempty"` // as people write it; "" if it is not known
	Commit string `json:"commit,omitempty"` // of a repository on the hub
	SHA256 string `json:"sha256,omitempty"` // of generator.json
	Dir    string `json:"dir"`              // for generator.Open
	// Fetched is when; zero for a folder.
	Fetched time.Time `json:"fetched,omitzero"`
	// Bytes on disk, Name and Base are set by List.
	Bytes int64  `json:"bytes,omitempty"`
	Name  string `json:"name,omitempty"`
	Base  string `json:"base_model,omitempty"`
	// Unfinished says that a part is missing: Pull goes on with it.
	Unfinished bool `json:"unfinished,omitempty"`
}

// ref is a file in refs.
type ref struct {
	Source  string    `json:"source"`
	Commit  string    `json:"commit,omitempty"`
	SHA256  string    `json:"sha256"`
	Fetched time.Time `json:"fetched"`
}

// Get returns the package that name is: a folder as it is, everything else from the cache,
// fetched if it is not there.
func (c *Cache) Get(ctx context.Context, name string) (Entry, error) {
	s, err := parse(name)
	if err != nil {
		return Entry{}, err
	}
	if s.folder != "" {
		return c.folderEntry(ctx, s)
	}
	if e, ok, err := c.cached(s); ok || err != nil {
		if err == nil && len(c.Keys) > 0 {
			if _, err = c.Keys.Folder(e.Dir); err != nil {
				err = fmt.Errorf("%s: in the cache: %w: dndgen pull asks its source again", s, err)
			}
		}
		return e, err
	}
	return c.fetch(ctx, s)
}

// Pull returns the package that name is now: a branch that has moved on is fetched again.
func (c *Cache) Pull(ctx context.Context, name string) (Entry, error) {
	s, err := parse(name)
	if err != nil {
		return Entry{}, err
	}
	if s.folder != "" {
		return Entry{}, fmt.Errorf("%s: expected org/name, %sorg/name or a URL: a folder needs no pull", clip(name), hubScheme)
	}
	return c.fetch(ctx, s)
}

// folderEntry is a package outside of the cache.
func (c *Cache) folderEntry(ctx context.Context, s source) (Entry, error) {
	e := Entry{Source: s.folder, Dir: s.folder}
	if len(c.Keys) > 0 {
		if _, err := c.Keys.Folder(s.folder); err != nil {
			return e, err
		}
		r, err := generator.Verify(ctx, s.folder, c.Progress)
		if err != nil {
			return e, err
		}
		e.SHA256 = r.SHA256
		return e, s.check(e.SHA256)
	}
	if s.sha256 == "" {
		return e, nil
	}
	p, err := generator.Open(s.folder)
	if err != nil {
		return e, err
	}
	defer p.Close()
	e.SHA256 = p.SHA256
	return e, s.check(p.SHA256)
}

// check compares the SHA-256 of a generator.json with the one that is wanted.
func (s source) check(got string) error {
	if s.sha256 != "" && got != s.sha256 {
		return fmt.Errorf("%s: SHA-256 of %s is %s, expected %s: changed, or not what was meant", s, manifestName, got, s.sha256)
	}
	return nil
}

// cached finds a package without the network.
func (c *Cache) cached(s source) (e Entry, ok bool, err error) {
	r, err := readRef(c.refPath(s))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.sha256 == "" {
			return e, false, nil
		}
		// Whatever its source: this is the one that is wanted.
		r = ref{Source: s.String(), SHA256: s.sha256}
	case err != nil:
		return e, false, err
	case s.sha256 != "" && r.SHA256 != s.sha256:
		return e, false, nil
	}
	dir := c.packageDir(r.SHA256)
	if _, err := os.Stat(filepath.Join(dir, manifestName)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return e, false, nil
		}
		return e, false, err
	}
	return r.entry(dir), true, nil
}

func (r ref) entry(dir string) Entry {
	return Entry{Source: r.Source, Commit: r.Commit, SHA256: r.SHA256, Dir: dir, Fetched: r.Fetched}
}

func (c *Cache) packageDir(sum string) string { return filepath.Join(c.dir, "packages", sum) }
func (c *Cache) partialDir(sum string) string { return filepath.Join(c.dir, "partial", sum) }

// refPath is the file that says which package a source is. Two endpoints are two hubs.
func (c *Cache) refPath(s source) string {
	key := hubScheme + s.repo + "@" + s.revision + "\n" + c.network.endpoint.String()
	if s.base != nil {
		key = s.base.String()
	}
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(c.dir, "refs", hex.EncodeToString(sum[:16])+".json")
}

func readRef(path string) (ref, error) {
	var r ref
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w: remove it", path, err)
	}
	if !digest.MatchString(r.SHA256) {
		return r, fmt.Errorf("%s: sha256 %q, expected 64 hex digits: remove it", path, clip(r.SHA256))
	}
	return r, nil
}

// fetch brings a package into the cache, as it is at its source now.
func (c *Cache) fetch(ctx context.Context, s source) (Entry, error) {
	o, err := c.network.origin(ctx, s, c.note)
	if err != nil {
		return Entry{}, err
	}
	raw, err := o.manifest(ctx)
	if err != nil {
		return Entry{}, err
	}
	m, err := generator.ParseManifest(raw)
	if err != nil {
		return Entry{}, fmt.Errorf("%s: %w", s, err)
	}
	sum := sha256.Sum256(raw)
	r := ref{Source: s.String(), Commit: o.commit, SHA256: hex.EncodeToString(sum[:]), Fetched: time.Now().UTC().Truncate(time.Second)}
	if err := s.check(r.SHA256); err != nil {
		return Entry{}, err
	}
	var signed []byte
	if len(c.Keys) > 0 {
		if signed, err = o.signature(ctx); err != nil {
			return Entry{}, err
		}
		if _, err := c.Keys.Check(raw, signed); err != nil {
			return Entry{}, fmt.Errorf("%s: %w", s, err)
		}
	}
	unlock, err := c.lock(ctx, r.SHA256)
	if err != nil {
		return Entry{}, err
	}
	defer unlock()
	dir := c.packageDir(r.SHA256)
	if _, err := os.Stat(filepath.Join(dir, manifestName)); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return Entry{}, err
		}
		if err := c.download(ctx, s, o, raw, m, r.SHA256); err != nil {
			return Entry{}, err
		}
	}
	// Also where the package is there: whoever made it whole may have been killed at this line.
	if err := os.RemoveAll(c.partialDir(r.SHA256)); err != nil {
		return Entry{}, err
	}
	if signed != nil {
		if err := signature.Write(dir, signed); err != nil {
			return Entry{}, err
		}
	}
	path := c.refPath(s)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Entry{}, err
	}
	atomicfile.Sweep(filepath.Dir(path))
	err = atomicfile.Write(path, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) })
	return r.entry(dir), err
}

// download makes the package of a manifest. The caller holds its lock.
func (c *Cache) download(ctx context.Context, s source, o origin, raw []byte, m *generator.Manifest, sum string) error {
	t := transfer{origin: o, source: s.String(), dir: c.partialDir(sum), progress: c.Progress}
	for _, f := range m.Files {
		if f.Bytes > maxBytes-t.total {
			return fmt.Errorf("%s: its files have more than %d bytes together, expected at most that many", s, int64(maxBytes))
		}
		t.total += f.Bytes
	}
	if err := t.run(ctx, raw, m.Files); err != nil {
		return err
	}
	if _, err := generator.Verify(ctx, t.files(), nil); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, os.RemoveAll(t.dir))
		}
		return fmt.Errorf("%s: %w", s, err)
	}
	dir := c.packageDir(sum)
	// There may be a folder whose manifest somebody has removed.
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o755), os.RemoveAll(dir)); err != nil {
		return err
	}
	return os.Rename(t.files(), dir)
}

// lock waits until no other process works on what name is. A process that ends, however it
// does, gives its locks back. Lock files stay: to remove one that another process has just
// opened would give the lock to two.
func (c *Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	dir := filepath.Join(c.dir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, name))
	ok, err := l.TryLock()
	if err == nil && !ok {
		c.note("another process is working on the same package: waiting for it")
		_, err = l.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.Path(), err)
	}
	return func() { l.Unlock() }, nil
}

func (c *Cache) note(text string) {
	if c.Note != nil {
		c.Note(text)
	}
}
