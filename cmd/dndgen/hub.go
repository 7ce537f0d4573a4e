package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/hub"
)

// cached is what pull, list and remove print.
type cached struct {
	Packages []hub.Entry `json:"packages"`
}

func pull(flags *pflag.FlagSet) cli.Run {
	keys := generators.AddKeys(flags)
	return func(ctx context.Context, e *cli.Env, args []string) error {
		var entry hub.Entry
		err := generators.With(e, keys, func(c *hub.Cache) (err error) {
			entry, err = c.Pull(ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return e.Result(entry, func(w io.Writer) {
			fmt.Fprintf(w, "source      %s\n", entry.Source)
			if entry.Commit != "" {
				fmt.Fprintf(w, "commit      %s\n", entry.Commit)
			}
			fmt.Fprintf(w, "sha256      %s\n", entry.SHA256)
			fmt.Fprintf(w, "folder      %s\n", entry.Dir)
		})
	}
}

func list(*pflag.FlagSet) cli.Run {
	return func(_ context.Context, e *cli.Env, _ []string) error {
		c, err := hub.New("")
		if err != nil {
			return err
		}
		entries, err := c.List()
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			e.Message("note: none yet: dndgen pull fetches one")
		}
		return printEntries(e, entries)
	}
}

func remove(*pflag.FlagSet) cli.Run {
	return func(ctx context.Context, e *cli.Env, args []string) error {
		var gone []hub.Entry
		err := generators.With(e, &generators.Keys{}, func(c *hub.Cache) (err error) {
			gone, err = c.Remove(ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return printEntries(e, gone)
	}
}

func printEntries(e *cli.Env, entries []hub.Entry) error {
	return e.Result(cached{entries}, func(w io.Writer) {
		for _, x := range entries {
			source := x.Source
			switch {
			case x.Unfinished:
				source = "(unfinished)"
			case source == "":
				source = "(no source)"
			}
			fmt.Fprintf(w, "%-40s %s %10s  %s for %s\n", source, x.SHA256[:12], size(x.Bytes), orDash(x.Name), orDash(x.Base))
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
