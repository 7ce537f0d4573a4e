package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Bar shows how far a long task has come: a progress bar on a terminal, elsewhere a line
// every few seconds. Its methods are for one goroutine.
type Bar struct {
	w     io.Writer
	task  string
	total int64
	bar   *progressbar.ProgressBar // nil if w is no terminal
	begin time.Time
	from  int64 // done then, more than a unit where a task goes on
	last  time.Time
}

// interval is the time between lines where there is no terminal.
var interval = 5 * time.Second

// Bar returns a bar that is not yet shown.
func (e *Env) Bar() *Bar {
	if e.Quiet {
		return &Bar{}
	}
	return &Bar{w: e.Stderr}
}

// Set shows that done of total units of a task are behind us. note is a few words about
// the present state. A new task or total begins a new bar.
func (b *Bar) Set(task string, done, total int64, note string) {
	if b.w == nil || total <= 0 {
		return
	}
	if task != b.task || total != b.total {
		b.Done()
		b.task, b.total, b.begin, b.from, b.last = task, total, time.Now(), done, time.Now()
		if terminal(b.w) {
			b.bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(b.w),
				progressbar.OptionSetDescription(task),
				progressbar.OptionSetWidth(30),
				progressbar.OptionSetPredictTime(true),
				progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionClearOnFinish(),
			)
		}
	}
	if b.bar != nil {
		if note != "" {
			b.bar.Describe(task + "  " + note)
		}
		b.bar.Set64(min(done, total))
		return
	}
	if time.Since(b.last) < interval {
		return
	}
	b.last = time.Now()
	left := ""
	if made := done - b.from; made > 0 {
		left = fmt.Sprintf(", %v left", time.Duration(float64(time.Since(b.begin))*float64(total-done)/float64(made)).Round(time.Second))
	}
	if note != "" {
		note = ", " + note
	}
	fmt.Fprintf(b.w, "%s: %d%%%s%s\n", task, int64(100*float64(done)/float64(total)), note, left)
}

// Done takes the bar away.
func (b *Bar) Done() {
	if b.bar != nil {
		b.bar.Finish()
		b.bar = nil
	}
	b.task = ""
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Terminal reports whether results are for a person to look at.
func (e *Env) Terminal() bool { return !e.JSON && terminal(e.Stdout) }

// Width is how many columns results have, 0 if they are not for a person to look at.
func (e *Env) Width() int {
	if !e.Terminal() {
		return 0
	}
	width, _, err := term.GetSize(int(e.Stdout.(*os.File).Fd()))
	if err != nil {
		return 0
	}
	return width
}
