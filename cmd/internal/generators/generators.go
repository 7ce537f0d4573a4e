// Package generators opens what --generator names, with messages and a progress bar: a
// folder, a repository on the Hugging Face hub or a URL (package hub).
package generators

import (
	"context"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
)

// Usage is the help of a flag that names a generator.
const Usage = "generator: a folder, org/name[@revision] on the Hugging Face hub, or a URL"

// Open opens a package that is here, or in the cache, or fetches it.
func Open(ctx context.Context, e *cli.Env, name string) (*generator.Package, error) {
	var entry hub.Entry
	err := With(e, func(c *hub.Cache) (err error) {
		entry, err = c.Get(ctx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return generator.Open(entry.Dir)
}

// With calls use with the cache of fetched packages, and shows what it does.
func With(e *cli.Env, use func(c *hub.Cache) error) error {
	c, err := hub.New("")
	if err != nil {
		return err
	}
	bar := e.Bar()
	defer bar.Done()
	c.Note = func(text string) { e.Message("note: %s", text) }
	c.Progress = func(done, total int64) { bar.Set("fetch", done, total, "") }
	return use(c)
}
