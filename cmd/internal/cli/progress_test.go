package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The time that is left goes by what was done since the bar began: a task that goes on
// from 70 of 100 units has not done those.
func TestTimeLeft(t *testing.T) {
	before := interval
	interval = 0
	t.Cleanup(func() { interval = before })
	var out bytes.Buffer
	bar := (&Env{Stderr: &out}).Bar()
	bar.Set("work", 70, 100, "")
	time.Sleep(100 * time.Millisecond)
	bar.Set("work", 71, 100, "well")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if want := regexp.MustCompile(`^work: 71%, well, ([3-9]|\d\d+)s left$`); !want.MatchString(lines[len(lines)-1]) {
		t.Errorf("%q, expected at least 3 seconds left of 29 units that take 100 ms each", lines)
	}
	out.Reset()
	(&Env{Stderr: &out, Quiet: true}).Bar().Set("work", 71, 100, "")
	if out.Len() > 0 {
		t.Errorf("quiet, and yet %q", out.String())
	}
}
