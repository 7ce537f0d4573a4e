package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// program is a whole program as its help, completion and man pages describe it.
type program struct {
	name, about string
	commands    []Command
}

// newProgram adds the commands that every program has.
func newProgram(name, about string, commands []Command) *program {
	p := &program{name: name, about: about}
	p.commands = append(append(p.commands, commands...),
		Command{Name: "completion", Args: "SHELL", Short: "a script that lets bash, zsh or fish complete commands and flags", Setup: p.completion},
		Command{Name: "man", Args: "DIR", Short: "man pages of all commands, into a folder", Setup: p.man},
		Command{Name: "version", Short: "what was built, from what and with what", Setup: version})
	return p
}

// flags are a command's, with those that every command has.
func (c Command) flags(e *Env) (*pflag.FlagSet, Run) {
	flags := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.SortFlags = false
	run := c.Setup(flags)
	flags.BoolVar(&e.JSON, "json", false, "print the result as one JSON object")
	flags.BoolVar(&e.Quiet, "quiet", false, "no messages and no progress")
	return flags, run
}

func (p *program) completion(*pflag.FlagSet) Run {
	shells := map[string]func(io.Writer){"bash": p.bash, "zsh": p.zsh, "fish": p.fish}
	return func(_ context.Context, e *Env, args []string) error {
		write, ok := shells[args[0]]
		if !ok {
			return Usagef("%q: expected bash, zsh or fish", args[0])
		}
		if e.JSON {
			return Usagef("--json: a script is no result")
		}
		write(e.Stdout)
		return nil
	}
}

func (p *program) man(*pflag.FlagSet) Run {
	return func(_ context.Context, e *Env, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return err
		}
		written := struct {
			Files []string `json:"files"`
		}{}
		for _, page := range p.pages() {
			path := filepath.Join(args[0], page.name)
			if err := atomicfile.Write(path, func(w io.Writer) error { _, err := io.WriteString(w, page.text); return err }); err != nil {
				return err
			}
			written.Files = append(written.Files, path)
		}
		return e.Result(written, func(w io.Writer) {
			for _, path := range written.Files {
				fmt.Fprintln(w, path)
			}
		})
	}
}

// BuildInfo is what is known of how a program was built.
type BuildInfo struct {
	Version  string `json:"version"` // of the module: a tag, or made of the commit
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"`     // of the commit
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
	Go       string `json:"go"`
	System   string `json:"system"` // linux/amd64
	CGO      bool   `json:"cgo"`
	// Settings are the build's others: GOAMD64, GOEXPERIMENT, -tags.
	Settings map[string]string `json:"settings,omitempty"`
}

// Build returns what is known of how this program was built.
func Build() BuildInfo {
	b := BuildInfo{Version: "(devel)", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Settings: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "CGO_ENABLED":
			b.CGO = s.Value == "1"
		case "GOAMD64", "GOARM64", "GOEXPERIMENT", "-tags", "-trimpath":
			b.Settings[s.Key] = s.Value
		}
	}
	return b
}

func version(*pflag.FlagSet) Run {
	return func(_ context.Context, e *Env, _ []string) error {
		b := Build()
		return e.Result(b, func(w io.Writer) {
			fmt.Fprintf(w, "version  %s\n", b.Version)
			if b.Commit != "" {
				changed := ""
				if b.Modified {
					changed = ", with changes"
				}
				fmt.Fprintf(w, "commit   %s of %s%s\n", b.Commit, b.Time, changed)
			}
			cgo := "with cgo"
			if !b.CGO {
				cgo = "without cgo"
			}
			fmt.Fprintf(w, "built    by %s for %s, %s\n", b.Go, b.System, cgo)
		})
	}
}

// mistyped adds what was meant to pflag's error of an unknown flag.
func mistyped(err error, flags *pflag.FlagSet) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{err}
	}
	return usageError{fmt.Errorf("%w%s", err, didYouMean("--", unknown.GetSpecifiedName(), flagNames(flags)))}
}
