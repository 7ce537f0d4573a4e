package cli_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/spf13/pflag"
)

// awkward has words that shells and troff would take for their own.
var awkward = cli.Command{Name: "awkward", Args: "FILE", Short: "it's 50% [of] all: a \\ & \"b\"", Setup: func(flags *pflag.FlagSet) cli.Run {
	flags.String("file", "", "a file's `name`: .json, [or] $HOME \\n")
	flags.Int("count", 3, "how many")
	return func(context.Context, *cli.Env, []string) error { return nil }
}}

func call(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := cli.Call(t.Context(), "program", "program does things.", append(commands, awkward), args, &stdout, &stderr); code != cli.Done {
		t.Fatalf("%q: exit code %d, %s", args, code, stderr.String())
	}
	return stdout.String()
}

// shell runs a script with the completion of a shell sourced before it.
func shell(t *testing.T, name, script string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	file := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(file, []byte(call(t, "completion", name)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, append(args, "-c", strings.ReplaceAll(script, "FILE", file))...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestBashCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"gr":                      "greet",
		"":                        "greet fail hang drain wait awkward completion man version help",
		"greet --":                "--name --tone --json --quiet",
		"greet --tone ":           "warm cold",
		"greet --name x --tone c": "cold",
		"greet --tone = c":        "cold",
		"greet --tone =":          "warm cold",
		"completion ":             "bash zsh fish",
		"completion --q":          "--quiet",
		"fail --":                 "--json --quiet",
		"fail x":                  "",
		"awkward --f":             "--file",
		"unknown --":              "",
	} {
		words := strings.Split("program "+line, " ")
		quoted := "'" + strings.Join(words, "' '") + "'"
		got := shell(t, "bash", "source FILE; COMP_WORDS=("+quoted+"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _program; echo -n \"${COMPREPLY[*]}\"")
		if got != want {
			t.Errorf("%q completes to %q, want %q", line, got, want)
		}
	}
}

func TestFishCompletion(t *testing.T) {
	for line, want := range map[string][]string{
		"program gr":             {"greet\tsays hello"},
		"program greet --to":     {"--tone\twarm or cold"},
		"program greet --tone ":  {"cold", "warm"},
		"program completion b":   {"bash"},
		"program awkward --fi":   {"--file\ta file's name: .json, [or] $HOME \\n"},
		"program wait --unknown": nil,
	} {
		got := strings.Split(strings.TrimSpace(shell(t, "fish", "source FILE; complete -C '"+line+"'", "--no-config")), "\n")
		for _, w := range want {
			found := false
			for _, g := range got {
				found = found || strings.HasPrefix(g, w)
			}
			if !found {
				t.Errorf("%q completes to %q, want %q in it", line, got, w)
			}
		}
	}
}

// zsh completes only on a terminal, so what it is given is caught.
func TestZshCompletion(t *testing.T) {
	got := shell(t, "zsh", `compdef() { echo "compdef $@" }
_arguments() { print -rl -- "$@" }
_describe() { print -rl -- $commands }
source FILE
words=(program greet --t); CURRENT=3; _program
words=(program awkward ''); CURRENT=3; _program
words=(program ''); CURRENT=2; _program`, "-f")
	for _, want := range []string{
		"compdef _program program", "--tone=[warm or cold]:value:(warm cold)", "--quiet[no messages and no progress]",
		`--file=[a file's name: .json, \[or\] $HOME \\n]:file:_files`, "--count=[how many]:value: ", "*:file:_files",
		"greet:says hello", `awkward:it's 50% [of] all: a \ & "b"`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("zsh gets no %q in\n%s", want, got)
		}
	}
}

func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	call(t, "man", dir)
	list, err := os.ReadDir(dir)
	// The program's own, awkward's, and those of the three that every program has.
	if err != nil || len(list) != len(commands)+5 {
		t.Fatalf("%v, %v", list, err)
	}
	man, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		// The date is left out, so that the same sources make the same page.
		lint, _ := exec.Command(man, "-T", "lint", "-W", "warning", path).CombinedOutput()
		for line := range strings.Lines(string(lint)) {
			if !strings.Contains(line, "missing date") && !strings.Contains(line, "more.") {
				t.Errorf("%s", line)
			}
		}
	}
	out, err := exec.Command(man, "-T", "utf8", "-O", "width=200", filepath.Join(dir, "program-awkward.1")).Output()
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.NewReplacer("\b", "").Replace(overstrike(string(out)))
	for _, want := range []string{`program-awkward - it's 50% [of] all: a \ & "b"`, "--file name", `a file's name: .json, [or] $HOME \n`, "how many (default: 3)"} {
		if !strings.Contains(plain, want) {
			t.Errorf("the page has no %q:\n%s", want, plain)
		}
	}
}

// overstrike takes out the letters that are printed again, for bold and underlined text.
func overstrike(s string) string {
	r := []rune(s)
	var out []rune
	for i := 0; i < len(r); i++ {
		if i+1 < len(r) && r[i+1] == '\b' {
			i++
			continue
		}
		out = append(out, r[i])
	}
	return string(out)
}

func TestVersion(t *testing.T) {
	var b cli.BuildInfo
	clitest.JSON(t, &b, "version", "--json")
	if b.Version == "" || b.System == "" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("%+v", b)
	}
	if plain, flag := clitest.OK(t, "version"), clitest.OK(t, "--version"); plain.Stdout == "" || plain != flag {
		t.Errorf("version prints %q, --version %q", plain.Stdout, flag.Stdout)
	}
	if help, flag := call(t, "help", "greet"), call(t, "greet", "--help"); !strings.Contains(help, "--tone") || help != flag {
		t.Errorf("help greet prints %q", help)
	}
}
