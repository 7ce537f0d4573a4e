package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// List describes what is in the cache, the latest first, unfinished downloads last. A
// package that several sources are occurs once for each.
func (c *Cache) List() ([]Entry, error) {
	refs, err := c.refs()
	if err != nil {
		return nil, err
	}
	entries := []Entry{}
	whole, err := c.sums("packages")
	if err != nil {
		return nil, err
	}
	for _, sum := range whole {
		e := Entry{SHA256: sum, Dir: c.packageDir(sum)}
		if e.Bytes, err = treeBytes(e.Dir); err != nil {
			return nil, err
		}
		raw, err := readLimited(filepath.Join(e.Dir, manifestName), maxManifest)
		if err == nil {
			if m, err := generator.ParseManifest(raw); err == nil {
				e.Name = m.Name
				if m.Base != nil {
					e.Base = m.Base.Model
				}
			}
		}
		named := false
		for _, r := range refs {
			if r.ref.SHA256 == sum {
				e.Source, e.Commit, e.Fetched, named = r.ref.Source, r.ref.Commit, r.ref.Fetched, true
				entries = append(entries, e)
			}
		}
		if !named {
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return b.Fetched.Compare(a.Fetched) })
	partial, err := c.sums("partial")
	if err != nil {
		return nil, err
	}
	for _, sum := range partial {
		e := Entry{SHA256: sum, Dir: c.partialDir(sum), Unfinished: true}
		if e.Bytes, err = treeBytes(e.Dir); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Remove takes a source out of the cache, and its package with it unless another source is
// the same; or, by at least 8 digits of its SHA-256, a package with all of its sources, also
// one that was not finished. It returns what is gone.
func (c *Cache) Remove(ctx context.Context, name string) ([]Entry, error) {
	all, err := c.List()
	if err != nil {
		return nil, err
	}
	byDigest := len(name) >= 8 && len(name) <= 64 && strings.Trim(name, "0123456789abcdef") == ""
	var gone []Entry
	if byDigest {
		for _, e := range all {
			if strings.HasPrefix(e.SHA256, name) {
				gone = append(gone, e)
			}
		}
		for _, e := range gone {
			if e.SHA256 != gone[0].SHA256 {
				return nil, fmt.Errorf("%s: several packages begin like this: give more digits", name)
			}
		}
	} else {
		s, err := parse(name)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if e.Source != "" && e.Source == s.String() {
				gone = append(gone, e)
			}
		}
	}
	if len(gone) == 0 {
		return nil, fmt.Errorf("%s: is not in the cache %s: dndgen list shows what is", clip(name), c.dir)
	}
	for _, e := range gone {
		if err := c.remove(ctx, e, byDigest); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// remove takes the sources of an entry away, and its package if no other is left. A process
// that is killed in between leaves a package without a source, or trash.
func (c *Cache) remove(ctx context.Context, e Entry, all bool) error {
	unlock, err := c.lock(ctx, e.SHA256)
	if err != nil {
		return err
	}
	defer unlock()
	refs, err := c.refs()
	if err != nil {
		return err
	}
	used := false
	for _, r := range refs {
		switch {
		case r.ref.SHA256 != e.SHA256:
		case all || r.ref.Source == e.Source:
			if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		default:
			used = true
		}
	}
	if used {
		return nil
	}
	// One process at a time empties it.
	unlockTrash, err := c.lock(ctx, "trash")
	if err != nil {
		return err
	}
	defer unlockTrash()
	trash := filepath.Join(c.dir, "trash")
	if err := os.MkdirAll(trash, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(trash, "")
	if err != nil {
		return err
	}
	for i, dir := range []string{c.packageDir(e.SHA256), c.partialDir(e.SHA256)} {
		// Renamed first: a package that is half there must not be seen.
		if err := os.Rename(dir, filepath.Join(tmp, fmt.Sprint(i))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(trash)
}

type namedRef struct {
	path string
	ref  ref
}

// refs reads all files of the folder refs.
func (c *Cache) refs() ([]namedRef, error) {
	names, err := c.names("refs")
	if err != nil {
		return nil, err
	}
	var refs []namedRef
	for _, name := range names {
		// Others are on their way to be renamed.
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		path := filepath.Join(c.dir, "refs", name)
		r, err := readRef(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed a moment ago
		}
		if err != nil {
			return nil, err
		}
		refs = append(refs, namedRef{path, r})
	}
	return refs, nil
}

// sums are the packages in a folder of the cache.
func (c *Cache) sums(sub string) ([]string, error) {
	names, err := c.names(sub)
	return slices.DeleteFunc(names, func(name string) bool { return !digest.MatchString(name) }), err
}

// names are what a folder of the cache holds, sorted. It need not be there.
func (c *Cache) names(sub string) ([]string, error) {
	list, err := os.ReadDir(filepath.Join(c.dir, sub))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, nil
}

// treeBytes is the size of all files in a folder, also while another process changes it.
func treeBytes(dir string) (int64, error) {
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return bytes, err
}
