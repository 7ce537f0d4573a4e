// Command fuzz is make fuzz: it runs every fuzz target of the project for a while, prints a
// table of executions and crashes with their sums, and fails if anything crashed. What
// crashed lies in testdata/fuzz beside the test then, and stays there when it is mended.
//
// With -keep it copies inputs that reached new code from Go's cache into testdata/fuzz,
// from where every go test runs them.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// target is one fuzz target and what came of it.
type target struct {
	Package    string  `json:"package"` // from the module's folder
	Name       string  `json:"target"`
	Seconds    float64 `json:"seconds"`
	Executions int64   `json:"executions"`
	Corpus     int     `json:"corpus"` // inputs that each reach other code
	Crash      string  `json:"crash,omitempty"`
}

func main() {
	var o options
	flag.DurationVar(&o.time, "time", 20*time.Second, "time of each target; 0 fuzzes none, for -keep")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "targets at a time, each on one processor")
	flag.StringVar(&o.only, "only", "", "regular expression of the targets to run, as PACKAGE.TARGET")
	flag.StringVar(&o.out, "out", "build/fuzz", "folder for test binaries and result.json, which later runs add to")
	flag.IntVar(&o.keep, "keep", 0, "inputs of a target to have in testdata/fuzz at the end")
	flag.Parse()
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

type options struct {
	time time.Duration
	jobs int
	only string
	out  string
	keep int
}

func run(o options, w io.Writer) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	targets, err := find(".", only)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target: run it in the module's folder")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if o.time == 0 {
		return commit(targets, o.keep)
	}
	binaries := map[string]string{}
	for _, t := range targets {
		if binaries[t.Package] == "" {
			if binaries[t.Package], err = build(o.out, t.Package); err != nil {
				return err
			}
		}
	}
	turns := make(chan *target)
	var workers sync.WaitGroup
	for range max(o.jobs, 1) {
		workers.Go(func() {
			for t := range turns {
				t.fuzz(binaries[t.Package], o.time)
				fmt.Fprintf(os.Stderr, "%-60s %12d executions%s\n", t.Package+"."+t.Name, t.Executions, t.Crash)
			}
		})
	}
	for _, t := range targets {
		turns <- t
	}
	close(turns)
	workers.Wait()
	if err := commit(targets, o.keep); err != nil {
		return err
	}
	if err := add(filepath.Join(o.out, "result.json"), targets); err != nil {
		return err
	}
	return report(w, targets)
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(f \*testing\.F\)`)

// find lists the targets in all test files below dir.
func find(dir string, only *regexp.Regexp) ([]*target, error) {
	var targets []*target
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != dir) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			t := &target{Package: filepath.ToSlash(filepath.Dir(path)), Name: string(m[1])}
			if only.MatchString(t.Package + "." + t.Name) {
				targets = append(targets, t)
			}
		}
		return nil
	})
	slices.SortFunc(targets, func(a, b *target) int {
		return strings.Compare(a.Package+"."+a.Name, b.Package+"."+b.Name)
	})
	return targets, err
}

// build compiles a package's tests with the counters that fuzzing goes by.
func build(out, pkg string) (string, error) {
	path, err := filepath.Abs(filepath.Join(out, strings.ReplaceAll(pkg, "/", "_")+".test"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-fuzz=.", "-o", path, "./"+pkg)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
}

// The last lines that the testing package prints while it fuzzes.
var progress = regexp.MustCompile(`fuzz: elapsed: .*execs: (\d+) .*\(total: (\d+)\)`)

// fuzz runs one target on one processor.
func (t *target) fuzz(binary string, d time.Duration) {
	cache, err := cacheDir(t)
	if err != nil {
		t.Crash = " " + err.Error()
		return
	}
	cmd := exec.Command(binary, "-test.run=^$", "-test.fuzz=^"+t.Name+"$", "-test.fuzztime="+d.String(), "-test.fuzzminimizetime=20x",
		"-test.parallel=1", "-test.fuzzcachedir="+cache, "-test.timeout=0")
	cmd.Dir = filepath.FromSlash(t.Package)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	begin := time.Now()
	err = cmd.Run()
	t.Seconds = time.Since(begin).Seconds()
	lines := bufio.NewScanner(bytes.NewReader(text.Bytes()))
	for lines.Scan() {
		if m := progress.FindStringSubmatch(lines.Text()); m != nil {
			t.Executions, _ = strconv.ParseInt(m[1], 10, 64)
			t.Corpus, _ = strconv.Atoi(m[2])
		}
	}
	if err != nil && !endedOnly(text.Bytes()) {
		t.Crash = " " + err.Error() + "\n" + text.String()
	}
}

// endedOnly says that nothing failed but the end of the time itself, which the testing package
// now and then takes for a failure when it falls into an execution (go.dev/issue/75804).
func endedOnly(text []byte) bool {
	return bytes.Contains(text, []byte("context deadline exceeded")) && !bytes.Contains(text, []byte("Failing input written to"))
}

// cacheDir is where go test -fuzz keeps a target's inputs, too.
func cacheDir(t *target) (string, error) {
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "", err
	}
	module, err := exec.Command("go", "list", "-m").Output()
	return filepath.Join(strings.TrimSpace(string(cache)), "fuzz", strings.TrimSpace(string(module)), filepath.FromSlash(t.Package)), err
}

// commit fills up testdata/fuzz of every target.
func commit(targets []*target, n int) error {
	for _, t := range targets {
		if err := t.commit(n); err != nil {
			return err
		}
	}
	return nil
}

// maxKept is the largest input that is worth its place in the repository, in bytes.
const maxKept = 4 << 10

// commit fills up testdata/fuzz with the smallest inputs of the cache.
func (t *target) commit(n int) error {
	cache, err := cacheDir(t)
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.FromSlash(t.Package), "testdata", "fuzz", t.Name)
	have, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	found, err := os.ReadDir(filepath.Join(cache, t.Name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	type input struct {
		name string
		text []byte
	}
	var inputs []input
	for _, e := range found {
		text, err := os.ReadFile(filepath.Join(cache, t.Name, e.Name()))
		if err != nil {
			return err
		}
		if len(text) <= maxKept {
			inputs = append(inputs, input{e.Name(), text})
		}
	}
	slices.SortFunc(inputs, func(a, b input) int { return len(a.text) - len(b.text) })
	// Evenly over the sizes: the smallest are often variants of each other.
	room := max(n-len(have), 0)
	for i := range min(room, len(inputs)) {
		in := inputs[i*len(inputs)/min(room, len(inputs))]
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, in.name), in.text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// add adds the runs to those of earlier calls, target by target.
func add(path string, targets []*target) error {
	var all []*target
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w: remove it", path, err)
	}
	for _, t := range targets {
		i := slices.IndexFunc(all, func(other *target) bool { return other.Package == t.Package && other.Name == t.Name })
		if i < 0 {
			all = append(all, t)
			continue
		}
		all[i].Seconds += t.Seconds
		all[i].Executions += t.Executions
		all[i].Corpus, all[i].Crash = t.Corpus, t.Crash
	}
	text, err = json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func report(w io.Writer, targets []*target) error {
	fmt.Fprintf(w, "| target | time | executions | corpus | crashes |\n|---|---|---|---|---|\n")
	var sum target
	crashes := 0
	var texts []string
	for _, t := range targets {
		crashed := 0
		if t.Crash != "" {
			crashed = 1
			texts = append(texts, t.Package+"."+t.Name+":"+t.Crash)
		}
		fmt.Fprintf(w, "| `%s.%s` | %.0f s | %d | %d | %d |\n", t.Package, t.Name, t.Seconds, t.Executions, t.Corpus, crashed)
		sum.Seconds += t.Seconds
		sum.Executions += t.Executions
		sum.Corpus += t.Corpus
		crashes += crashed
	}
	fmt.Fprintf(w, "| %d targets | %.0f s | %d | %d | %d |\n", len(targets), sum.Seconds, sum.Executions, sum.Corpus, crashes)
	if crashes > 0 {
		return fmt.Errorf("%d targets failed\n%s", crashes, strings.Join(texts, "\n"))
	}
	return nil
}
