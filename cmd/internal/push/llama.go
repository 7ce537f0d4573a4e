package push

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
)

// Scaled is an adapter that a llama-server has loaded.
type Scaled struct {
	ID    int     `json:"id"`
	Path  string  `json:"path"`
	Scale float64 `json:"scale"`
}

// Llama sets the scale of the adapter that a llama-server was started with from the file
// path; a server that sees the file elsewhere is asked for its name. All other adapters
// keep theirs. It gives the scales that the server reports then.
func (c *Client) Llama(ctx context.Context, path string, scale float64) ([]Scaled, error) {
	list, err := c.scales(ctx)
	if err != nil {
		return nil, err
	}
	at, err := find(list, path)
	if err != nil {
		return nil, err
	}
	// An adapter that is not listed would get the scale 0.
	type entry struct {
		ID    int     `json:"id"`
		Scale float64 `json:"scale"`
	}
	body := make([]entry, len(list))
	for i, s := range list {
		body[i] = entry{s.ID, s.Scale}
	}
	body[at].Scale = scale
	if err := c.call(ctx, "/lora-adapters", body, nil); err != nil {
		return nil, err
	}
	id := list[at].ID
	if list, err = c.scales(ctx); err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.ID == id && math.Abs(s.Scale-scale) <= 1e-5*math.Abs(scale) {
			return list, nil
		}
	}
	return nil, fmt.Errorf("push: the server took scale %g for adapter %d, but reports %+v", scale, id, list)
}

func (c *Client) scales(ctx context.Context) ([]Scaled, error) {
	var list []Scaled
	return list, c.call(ctx, "/lora-adapters", nil, &list)
}

// find looks for the file by its whole path, then by its name and folder, then by its
// name alone.
func find(list []Scaled, path string) (int, error) {
	name := filepath.Base(path)
	folder := filepath.Join(filepath.Base(filepath.Dir(path)), name)
	for _, same := range []func(other string) bool{
		func(other string) bool { return filepath.Clean(other) == filepath.Clean(path) },
		func(other string) bool {
			return filepath.Join(filepath.Base(filepath.Dir(other)), filepath.Base(other)) == folder
		},
		func(other string) bool { return filepath.Base(other) == name },
	} {
		found := -1
		for i, s := range list {
			if !same(s.Path) {
				continue
			}
			if found >= 0 {
				return 0, fmt.Errorf("push: the server has two adapters from %s and %s: which is %s?", list[found].Path, s.Path, path)
			}
			found = i
		}
		if found >= 0 {
			return found, nil
		}
	}
	var paths []string
	for _, s := range list {
		paths = append(paths, s.Path)
	}
	return 0, fmt.Errorf("push: the server has adapters %q, not %s: llama-server loads adapters only as it starts: start it with --lora %s", paths, path, path)
}
