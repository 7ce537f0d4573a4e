package main

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
)

func TestScienceBadInput(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{cli.Usage, `--tier "m": expected s`, []string{"--tier", "m"}},
		{cli.Usage, `--loss "none": expected weights, task, both`, []string{"--loss", "none"}},
		{cli.Usage, "--splits is 0", []string{"--splits", "0"}},
		{cli.Usage, "--first-split is 0", []string{"--first-split", "0"}},
		{cli.Usage, `--ablate "kernel-9": expected all, recipe, `, []string{"--ablate", "kernel-1,kernel-9"}},
		{cli.Usage, "--ablate names no change", []string{"--ablate="}},
		{cli.Failed, "missing", []string{"--encoder", filepath.Join(t.TempDir(), "missing")}},
	} {
		clitest.Fails(t, c.code, []string{c.says}, append([]string{"science", "--quiet", "--out", out}, c.args...)...)
	}
}
