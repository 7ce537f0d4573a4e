package main

import (
	"os/exec"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/killtest"
)

// make kill-test, but fewer kills: killed at any moment, collect and fit leave what is
// whole, and the next process goes on.
func TestKilled(t *testing.T) {
	rows, err := killtest.Run(t.Context(), killtest.Options{
		Dndtrain: func(args ...string) *exec.Cmd { return clitest.Command(t, args...) },
		Commands: []string{killtest.Collect, killtest.Fit}, Kills: 3, Dir: t.TempDir(), Seed: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		t.Logf("%+v", r)
		if len(r.Wrong) > 0 || r.Finished == 0 {
			t.Errorf("%s: %d killed, %d results, wrong: %q", r.Command, r.Killed, r.Finished, r.Wrong)
		}
	}
}
