// Package killtest kills dndgen and dndtrain with SIGKILL at random moments of their work,
// looks at what is left, and lets the next process go on: with dndgen pull and generate,
// dndtrain collect and fit, on a base, a generator and data sets that are made up.
//
// What must never happen is counted in Row.Wrong: something that looks finished and is not,
// or that differs from what a process made that nobody killed; something finished that is
// gone; a process that cannot go on. Temporary files of a killed process may stay: they are
// counted, too.
package killtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The commands that can be killed.
const (
	Pull     = "pull"
	Generate = "generate"
	Collect  = "collect"
	Fit      = "fit"
)

// Options say what is killed.
type Options struct {
	// Dndgen and Dndtrain make the commands. One may be nil if its commands are not among
	// those killed.
	Dndgen, Dndtrain func(args ...string) *exec.Cmd
	Commands         []string
	Kills            int    // of each command
	Dir              string // an empty folder
	Seed             uint64
	// Note is told what happens. It may be nil.
	Note func(string)
}

// Row is what came of the trials with one command.
type Row struct {
	Command string `json:"command"`
	Killed  int    `json:"killed"`
	Before  int    `json:"before"`  // processes that were done before they could be killed
	Writing int    `json:"writing"` // of the killed, those that left a temporary file
	// Resumed are the processes that went on with what a killed one had done.
	Resumed   int      `json:"resumed"`
	Finished  int      `json:"finished"`  // results, each the same as without kills
	Temporary int      `json:"temporary"` // files and folders left in the end
	Seconds   float64  `json:"seconds"`   // that the command takes when it is not killed
	Wrong     []string `json:"wrong"`
}

// subject is a command and the folder that it works on.
type subject struct {
	row Row
	// command makes the next process.
	command func() *exec.Cmd
	// out is where temporary files appear.
	out string
	// look checks what a killed process has left, and says whether it is finished.
	look func() (finished bool, err error)
	// check compares what is finished with what it should be.
	check func() error
	// resumed says how many processes have gone on so far.
	resumed func() int
	// clear makes room for the next result.
	clear func() error
}

// Run kills each command as often as it is told to. It returns an error when it could not,
// not for what the commands did wrong: that is in the rows.
func Run(ctx context.Context, o Options) ([]Row, error) {
	if o.Note == nil {
		o.Note = func(string) {}
	}
	w, err := newWorkshop(ctx, o)
	if err != nil {
		return nil, err
	}
	defer w.close()
	var rows []Row
	for i, name := range o.Commands {
		s, err := w.subject(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("killtest: %s: %w", name, err)
		}
		o.Note(fmt.Sprintf("%s takes %.2f s", name, s.row.Seconds))
		random := rand.New(rand.NewPCG(o.Seed, uint64(i)))
		for trial := 0; s.row.Killed < o.Kills; trial++ {
			if trial > 10*o.Kills {
				return nil, fmt.Errorf("killtest: %s: %d processes, and only %d could be killed", name, trial, s.row.Killed)
			}
			before := s.row.Killed
			if err := s.trial(ctx, random, trial%2 == 1); err != nil {
				return nil, fmt.Errorf("killtest: %s: %w", name, err)
			}
			if s.row.Killed > before && s.row.Killed%10 == 0 {
				o.Note(fmt.Sprintf("%s: %d killed, %d wrong", name, s.row.Killed, len(s.row.Wrong)))
			}
		}
		// The last one is left alone.
		if err := s.finish(ctx); err != nil {
			return nil, fmt.Errorf("killtest: %s: %w", name, err)
		}
		s.row.Resumed = s.resumed()
		rows = append(rows, s.row)
	}
	return rows, nil
}

func (s *subject) wrong(err error) {
	if err != nil {
		s.row.Wrong = append(s.row.Wrong, err.Error())
	}
}

// trial starts a process, kills it at a random moment, and looks at what it leaves. With
// writing the moment is soon after a temporary file has appeared.
func (s *subject) trial(ctx context.Context, random *rand.Rand, writing bool) error {
	whole := time.Duration(s.row.Seconds * float64(time.Second))
	wait := time.Duration(random.Int64N(int64(whole)))
	before := temporary(s.out)
	cmd := s.command()
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &text
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	after := time.After(wait)
	if writing {
		after = s.appears(before, whole, time.Duration(random.Int64N(int64(5*time.Millisecond))))
	}
	var err error
	select {
	case err = <-ended:
		s.row.Before++
		if err != nil {
			s.wrong(fmt.Errorf("a process that was not killed: %w: %s", err, text.String()))
		}
	case <-after:
		cmd.Process.Kill()
		if err := <-ended; err != nil {
			s.row.Killed++
		} else {
			s.row.Before++
		}
	case <-ctx.Done():
		cmd.Process.Kill()
		<-ended
		return ctx.Err()
	}
	if temporary(s.out) > before {
		s.row.Writing++
	}
	finished, err := s.look()
	s.wrong(err)
	if !finished {
		return nil
	}
	return s.done()
}

// appears is a channel that gets a value a while after there are more temporary files than
// before, or when most has passed.
func (s *subject) appears(before int, most, while time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	go func() {
		for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
			if temporary(s.out) > before {
				break
			}
		}
		time.Sleep(while)
		c <- time.Now()
	}()
	return c
}

// finish lets a process work to its end.
func (s *subject) finish(ctx context.Context) error {
	if out, err := s.command().CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.wrong(fmt.Errorf("after the kills: %w: %s", err, out))
		return nil
	}
	finished, err := s.look()
	s.wrong(err)
	if !finished {
		s.wrong(errors.New("after the last process there is nothing finished"))
		return nil
	}
	return s.done()
}

// done compares and puts away a result.
func (s *subject) done() error {
	s.wrong(s.check())
	s.row.Finished++
	s.row.Temporary += temporary(s.out)
	return s.clear()
}

// temporary counts what package atomicfile names while it is written.
func temporary(dir string) int {
	n := 0
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is gone by now
		}
		if strings.HasPrefix(d.Name(), ".") && strings.Contains(d.Name(), ".tmp-") {
			n++
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	return n
}

// Print writes rows as a table in Markdown.
func Print(w io.Writer, rows []Row) {
	fmt.Fprintf(w, "| command | killed | of them while writing | done before | went on with what was there | results, each exact | temporary files left | lost, corrupt or wrong |\n|---|---|---|---|---|---|---|---|\n")
	sum := Row{}
	line := func(name string, r Row) {
		fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %d | %d | %d |\n", name, r.Killed, r.Writing, r.Before, r.Resumed, r.Finished, r.Temporary, len(r.Wrong))
	}
	for _, r := range rows {
		line("`"+r.Command+"`", r)
		sum.Killed += r.Killed
		sum.Before += r.Before
		sum.Writing += r.Writing
		sum.Resumed += r.Resumed
		sum.Finished += r.Finished
		sum.Temporary += r.Temporary
		sum.Wrong = append(sum.Wrong, r.Wrong...)
	}
	line("together", sum)
	for _, text := range sum.Wrong {
		fmt.Fprintf(w, "\n%s\n", text)
	}
}

// sameFile compares a file with its twin.
func sameFile(path, want string) error {
	a, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(want)
	if err != nil {
		return err
	}
	if string(a) != string(b) {
		return fmt.Errorf("%s: %d bytes, not the %d of %s", path, len(a), len(b), want)
	}
	return nil
}

// sameFolder compares the files of a folder, but for those that skip names, with their
// twins.
func sameFolder(dir, want string, skip func(name string) bool) error {
	read := func(dir string) (map[string]bool, error) {
		names := map[string]bool{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if !skip(name) {
				names[name] = true
			}
			return err
		})
		return names, err
	}
	have, err := read(dir)
	if err != nil {
		return err
	}
	wanted, err := read(want)
	if err != nil {
		return err
	}
	for name := range wanted {
		if !have[name] {
			return fmt.Errorf("%s: has no %s", dir, name)
		}
		if err := sameFile(filepath.Join(dir, name), filepath.Join(want, name)); err != nil {
			return err
		}
	}
	if len(have) != len(wanted) {
		return fmt.Errorf("%s: %d files, %s has %d", dir, len(have), want, len(wanted))
	}
	return nil
}
