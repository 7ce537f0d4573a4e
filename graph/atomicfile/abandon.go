package atomicfile

import (
	"errors"
	"os"
	"sync"
)

// errAbandoned is what Write and Dir return once Abandon was called.
var errAbandoned = errors.New("abandoned")

// pending are the temporary files and folders of calls that are under way.
var pending = registry{paths: map[string]bool{}}

type registry struct {
	mu    sync.Mutex
	paths map[string]bool
	over  bool
}

func (r *registry) add(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return errAbandoned
	}
	r.paths[path] = true
	return nil
}

func (r *registry) remove(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.paths, path)
}

// rename is os.Rename, unless everything was abandoned before.
func (r *registry) rename(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return errAbandoned
	}
	return os.Rename(from, to)
}

// swap renames tmp to path. What stood at path is renamed out of the way and returned as
// old: it is the caller's to remove. Where names cannot be exchanged in one step, a process
// that is killed between two leaves what stood there as the file with the ending of aside,
// which bringBack puts back.
func (r *registry) swap(tmp, path string) (old string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return "", errAbandoned
	}
	if _, err := os.Lstat(path); err == nil {
		if exchange(tmp, path) == nil {
			r.paths[tmp] = true
			return tmp, nil
		}
		old = tmp + aside
		if err := os.Rename(path, old); err != nil {
			return "", err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, path))
		}
		return "", err
	}
	if old != "" {
		r.paths[old] = true
	}
	return old, nil
}

// Abandon removes what calls of Write and Dir have written so far and makes them, and all
// later ones, fail: for a process that ends now, while other goroutines may still write.
func Abandon() {
	pending.mu.Lock()
	defer pending.mu.Unlock()
	pending.over = true
	for path := range pending.paths {
		os.RemoveAll(path)
	}
}
