// Package generators opens what --generator names, with messages and a progress bar: a
// folder, a repository on the Hugging Face hub or a URL (package hub), signed with one of
// the keys that --key names.
package generators

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

// Usage is the help of a flag that names a generator.
const Usage = "generator: a folder, org/name[@revision] on the Hugging Face hub, or a URL"

// KeyVariable names public keys as --key does, separated by commas, for all commands.
const KeyVariable = "DND_KEY"

// Keys are the public keys that --key names.
type Keys []string

// AddKeys declares --key.
func AddKeys(flags *pflag.FlagSet) *Keys {
	keys := &Keys{}
	flags.StringSliceVar((*[]string)(keys), "key", nil, "public keys, as a file or its line: a generator that none of them has signed is refused (default: $"+KeyVariable+")")
	return keys
}

// Parse reads the keys, or those of the environment; none is no keys.
func (k *Keys) Parse() (signature.Keys, error) {
	list := []string(*k)
	if variable := os.Getenv(KeyVariable); len(list) == 0 && variable != "" {
		list = strings.Split(variable, ",")
	}
	keys, err := signature.ParseKeys(list)
	if err != nil {
		return nil, cli.Usagef("--key: %w", err)
	}
	return keys, nil
}

// Open opens a package that is here, or in the cache, or fetches it.
func Open(ctx context.Context, e *cli.Env, name string, keys *Keys) (*generator.Package, error) {
	var entry hub.Entry
	err := With(e, keys, func(c *hub.Cache) (err error) {
		entry, err = c.Get(ctx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	p, err := generator.Open(entry.Dir)
	if err == nil && entry.SHA256 != "" && p.SHA256 != entry.SHA256 {
		p.Close()
		return nil, fmt.Errorf("%s: changed while it was opened", entry.Dir)
	}
	return p, err
}

// With calls use with the cache of fetched packages, and shows what it does.
func With(e *cli.Env, keys *Keys, use func(c *hub.Cache) error) error {
	c, err := hub.New("")
	if err != nil {
		return err
	}
	if c.Keys, err = keys.Parse(); err != nil {
		return err
	}
	bar := e.Bar()
	defer bar.Done()
	c.Note = func(text string) { e.Message("note: %s", text) }
	c.Progress = func(done, total int64) { bar.Set("fetch", done, total, "") }
	return use(c)
}
