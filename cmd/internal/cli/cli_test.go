package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

func TestMain(m *testing.M) {
	clitest.Main(m, func() { cli.Main("program", "A program.", commands) })
}

var commands = []cli.Command{
	{Name: "greet", Short: "says hello", Setup: func(flags *pflag.FlagSet) cli.Run {
		name := flags.String("name", "", "whom to greet")
		tone := flags.String("tone", "warm", "warm or cold")
		cli.Values(flags, "tone", "warm", "cold")
		return func(_ context.Context, e *cli.Env, _ []string) error {
			if err := cli.Required(flags, "name"); err != nil {
				return err
			}
			e.Message("about to greet, %s", *tone)
			return e.Result(map[string]string{"hello": *name}, func(w io.Writer) { fmt.Fprintln(w, "hello", *name) })
		}
	}},
	{Name: "fail", Args: "FILE", Short: "fails", Setup: func(*pflag.FlagSet) cli.Run {
		return func(_ context.Context, e *cli.Env, args []string) error {
			return fmt.Errorf("%s: %w", args[0], errors.New("first line\n  second line"))
		}
	}},
	{Name: "hang", Args: "DIR", Short: "writes and does not look at its context", Setup: func(*pflag.FlagSet) cli.Run {
		return func(_ context.Context, e *cli.Env, args []string) error {
			return atomicfile.Dir(filepath.Join(args[0], "out"), false, func(tmp string) error {
				if err := os.WriteFile(filepath.Join(tmp, "half"), []byte("x"), 0o644); err != nil {
					return err
				}
				fmt.Fprintln(e.Stdout, "ready")
				time.Sleep(time.Minute)
				return nil
			})
		}
	}},
	{Name: "drain", Args: "DIR", Short: "takes a while after its context", Grace: time.Minute, Setup: func(*pflag.FlagSet) cli.Run {
		return func(ctx context.Context, e *cli.Env, args []string) error {
			fmt.Fprintln(e.Stdout, "ready")
			<-ctx.Done()
			if args[0] == "ever" {
				select {}
			}
			time.Sleep(time.Second)
			return nil
		}
	}},
	{Name: "wait", Args: "DIR", Short: "waits for its context", Setup: func(*pflag.FlagSet) cli.Run {
		return func(ctx context.Context, e *cli.Env, _ []string) error {
			fmt.Fprintln(e.Stdout, "ready")
			<-ctx.Done()
			return fmt.Errorf("deep inside: %w", ctx.Err())
		}
	}},
}

func TestCall(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"greet", "--name", "Ada"}, cli.Done, "hello Ada\n", "about to greet, warm\n"},
		{[]string{"greet", "--name", "Ada", "--quiet"}, cli.Done, "hello Ada\n", ""},
		{[]string{"greet", "--name", "Ada", "--quiet", "--json"}, cli.Done, "{\n  \"hello\": \"Ada\"\n}\n", ""},
		{[]string{"greet"}, cli.Usage, "", "program greet: --name is missing: whom to greet\n"},
		{[]string{"greet", "--name", "Ada", "--tone", "hot"}, cli.Usage, "", "program greet: --tone \"hot\": expected warm, cold\n"},
		{[]string{"greet", "Ada"}, cli.Usage, "", "program greet: unexpected argument \"Ada\"\n"},
		{[]string{"greet", "--nope"}, cli.Usage, "", "program greet: unknown flag: --nope\n"},
		{[]string{"fail"}, cli.Usage, "", "program fail: expected FILE, not 0 arguments\n"},
		{[]string{"fail", "a.txt"}, cli.Failed, "", "program fail: a.txt: first line second line\n"},
		{[]string{"greet", "--tine", "cold"}, cli.Usage, "", "program greet: unknown flag: --tine: did you mean --tone?\n"},
		{[]string{"greet", "--nmae=Ada"}, cli.Usage, "", "program greet: unknown flag: --nmae: did you mean --name?\n"},
		{[]string{"nope"}, cli.Usage, "", "program: unknown command \"nope\": expected greet, fail, hang, drain, wait, completion, man, version\n"},
		{[]string{"geret"}, cli.Usage, "", "program: unknown command \"geret\": did you mean greet?\n"},
		{[]string{"Fail"}, cli.Usage, "", "program: unknown command \"Fail\": did you mean fail?\n"},
		{[]string{"completion", "csh"}, cli.Usage, "", "program completion: \"csh\": expected bash, zsh or fish\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := cli.Call(t.Context(), "program", "A program.", commands, c.args, &stdout, &stderr)
		if code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", c.args, code, stdout.String(), stderr.String())
		}
	}
}

// Text from files and servers cannot steer a terminal; JSON is exact.
func TestTerminalEscapes(t *testing.T) {
	const evil = "a\x1b]0;title\x07\u009b2J\u202eb\tü"
	var stdout, stderr bytes.Buffer
	cli.Call(t.Context(), "program", "A program.", commands, []string{"greet", "--name", evil}, &stdout, &stderr)
	if want := "hello a\ufffd]0;title\ufffd\ufffd2J\ufffdb\tü\n"; stdout.String() != want {
		t.Errorf("stdout %q, want %q", stdout.String(), want)
	}
	stdout.Reset()
	cli.Call(t.Context(), "program", "A program.", commands, []string{"greet", "--json", "--name", evil}, &stdout, &stderr)
	var r map[string]string
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || r["hello"] != evil {
		t.Errorf("%q, %v", stdout.String(), err)
	}
	stderr.Reset()
	cli.Call(t.Context(), "program", "A program.", commands, []string{"fail", evil}, &stdout, &stderr)
	if strings.ContainsAny(stderr.String(), "\x1b\x07\u009b\u202e") {
		t.Errorf("stderr %q", stderr.String())
	}
}

// Ctrl-C ends a command within a second, whether it looks at its context or not, and
// leaves nothing half-written.
func TestInterrupt(t *testing.T) {
	for _, name := range []string{"wait", "hang"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := clitest.Command(t, name, dir)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := stdout.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
			if d := time.Since(begin); d > time.Second {
				t.Errorf("ended after %v", d)
			}
			if code := cmd.ProcessState.ExitCode(); code != cli.Failed || !strings.HasSuffix(stderr.String(), "interrupted\n") {
				t.Errorf("exit code %d, stderr %q", code, stderr.String())
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A command with a grace of its own gets it, unless Ctrl-C comes twice.
func TestGrace(t *testing.T) {
	for _, c := range []struct {
		arg      string
		again    bool
		code     int
		min, max time.Duration
	}{{"while", false, cli.Done, time.Second, 5 * time.Second}, {"ever", true, cli.Failed, 0, 5 * time.Second}} {
		cmd := clitest.Command(t, "drain", c.arg)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		cmd.Process.Signal(os.Interrupt)
		if c.again {
			time.Sleep(100 * time.Millisecond)
			cmd.Process.Signal(os.Interrupt)
		}
		cmd.Wait()
		if d := time.Since(begin); d < c.min || d > c.max || cmd.ProcessState.ExitCode() != c.code {
			t.Errorf("%s: exit code %d after %v", c.arg, cmd.ProcessState.ExitCode(), d)
		}
	}
}

func TestBarWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	bar := (&cli.Env{Stderr: &out}).Bar()
	for i := range int64(1000) {
		bar.Set("task", i, 1000, "")
	}
	bar.Done()
	if out.Len() > 0 {
		t.Errorf("a short task printed %q", out.String())
	}
	quiet := (&cli.Env{Stderr: &out, Quiet: true}).Bar()
	quiet.Set("task", 1, 2, "")
	quiet.Done()
}
