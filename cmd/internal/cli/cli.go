// Package cli is what dndgen and dndtrain share: a table of commands with their flags,
// results on stdout and everything else on stderr, one JSON object with --json, progress,
// exit codes and Ctrl-C. It knows nothing of generators or adapters.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// The exit codes.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
)

// Command is one word after the program's name.
type Command struct {
	Name  string
	Args  string // a word for each argument behind the flags, "" when nothing may follow: "PATH"
	Short string // one line, for the list of commands
	// Setup declares the flags and returns what runs when they are parsed.
	Setup func(*pflag.FlagSet) Run
	// Grace is how long the command may take to return after Ctrl-C, if that is longer than
	// for others. A second Ctrl-C makes it as short as theirs.
	Grace time.Duration
}

// Run does a command's work. It returns soon after ctx is done.
type Run func(ctx context.Context, e *Env, args []string) error

// Env is where a command writes to.
type Env struct {
	Stdout, Stderr io.Writer
	Quiet          bool // no messages and no progress
	JSON           bool // results as one object
}

// usageError ends a program with exit code 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// Usagef is an error in how a command was called: exit code 2.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Required returns a usage error that names the first of the flags that was not given.
func Required(flags *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		f := flags.Lookup(name)
		list, ok := f.Value.(pflag.SliceValue)
		if f.Value.String() == "" || ok && len(list.GetSlice()) == 0 {
			return Usagef("--%s is missing: %s", name, f.Usage)
		}
	}
	return nil
}

// OneOf returns a usage error if a flag's value is not among those allowed.
func OneOf(flag, value string, allowed ...string) error {
	for _, a := range allowed {
		if a == value {
			return nil
		}
	}
	return Usagef("--%s %q: expected %s", flag, value, strings.Join(allowed, ", "))
}

// Message tells a person something, on stderr.
func (e *Env) Message(format string, args ...any) {
	if !e.Quiet {
		message(person(e.Stderr), fmt.Sprintf(format, args...))
	}
}

// Result prints what a command found out: object as JSON with --json, else what text
// writes.
func (e *Env) Result(object any, text func(w io.Writer)) error {
	if !e.JSON {
		text(person(e.Stdout))
		return nil
	}
	enc := json.NewEncoder(e.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(object)
}

// grace is how long a command may take to return after Ctrl-C.
const grace = 700 * time.Millisecond

// Main runs the command that os.Args names and ends the process. A command that does not
// return soon after Ctrl-C (a driver or XLA may be deep in work that cannot be stopped) is
// ended all the same; what it was writing is removed first.
func Main(program, about string, commands []Command) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- Call(ctx, program, about, commands, os.Args[1:], os.Stdout, os.Stderr) }()
	select {
	case c := <-code:
		os.Exit(c)
	case <-signals:
		cancel()
	}
	wait := grace
	for _, c := range commands {
		if len(os.Args) > 1 && c.Name == os.Args[1] {
			wait = max(wait, c.Grace)
		}
	}
	over := time.After(wait)
	for waiting := true; waiting; {
		select {
		case c := <-code:
			os.Exit(c)
		case <-signals:
			over = time.After(grace)
		case <-over:
			waiting = false
		}
	}
	atomicfile.Abandon()
	fmt.Fprintf(os.Stderr, "%s: interrupted\n", program)
	os.Exit(Failed)
}

// Call is Main without a process: it runs the command that args name and returns the exit
// code.
func Call(ctx context.Context, name, about string, commands []Command, args []string, stdout, stderr io.Writer) int {
	p := newProgram(name, about, commands)
	if len(args) == 2 && args[0] == "help" {
		args = []string{args[1], "--help"}
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		w, code := stderr, Usage
		if len(args) > 0 {
			w, code = stdout, Done
		}
		fmt.Fprintf(w, "%s\n\nUsage: %s COMMAND [flags]\n\n", about, name)
		for _, c := range p.commands {
			fmt.Fprintf(w, "  %-10s %s\n", c.Name, c.Short)
		}
		fmt.Fprintf(w, "\n%s COMMAND --help lists a command's flags.\n", name)
		return code
	}
	if args[0] == "--version" {
		args = append([]string{"version"}, args[1:]...)
	}
	for _, c := range p.commands {
		if c.Name == args[0] {
			return c.call(ctx, name, args[1:], stdout, stderr)
		}
	}
	names := p.names()
	what := didYouMean("", args[0], names)
	if what == "" {
		what = ": expected " + strings.Join(names, ", ")
	}
	fmt.Fprintf(stderr, "%s: unknown command %q%s\n", name, args[0], what)
	return Usage
}

func (c Command) call(ctx context.Context, program string, args []string, stdout, stderr io.Writer) (code int) {
	e := &Env{Stdout: stdout, Stderr: stderr}
	flags, run := c.flags(e)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		usage := strings.TrimSpace(fmt.Sprintf("%s %s [flags] %s", program, c.Name, c.Args))
		fmt.Fprintf(stdout, "%s\n\nUsage: %s\n\n%s", c.Short, usage, emptyDefaults.ReplaceAllString(flags.FlagUsages(), ""))
		return Done
	case err != nil:
		err = mistyped(err, flags)
	case c.Args == "" && flags.NArg() > 0:
		err = Usagef("unexpected argument %q", flags.Arg(0))
	case c.Args != "" && flags.NArg() != len(strings.Fields(c.Args)):
		err = Usagef("expected %s, not %d arguments", c.Args, flags.NArg())
	default:
		if err = checkValues(flags); err == nil {
			err = run(ctx, e, flags.Args())
		}
	}
	if err == nil {
		return Done
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	out := person(stderr)
	Styled(out, Red, "%s %s:", program, c.Name)
	fmt.Fprintf(out, " %s\n", oneLine(err))
	if errors.As(err, new(usageError)) {
		return Usage
	}
	return Failed
}

// oneLine is an error's text on one line, whatever a driver wrote into it.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
