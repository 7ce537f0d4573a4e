// Command run is make kill-test: it kills dndgen and dndtrain again and again in the middle
// of their work, prints what came of it as a table, and fails if anything was lost.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/internal/killtest"
)

func main() {
	dndgen := pflag.String("dndgen", "build/bin/dndgen", "the command under test")
	dndtrain := pflag.String("dndtrain", "build/bin/dndtrain", "the other command under test")
	out := pflag.String("out", "build/kill-test", "folder for result.json")
	kills := pflag.Int("kills", 50, "kills of each command")
	seed := pflag.Uint64("seed", 1, "seed of the moments")
	names := pflag.StringSlice("commands", []string{killtest.Pull, killtest.Generate, killtest.Collect, killtest.Fit}, "what is killed")
	pflag.Parse()
	if err := run(*dndgen, *dndtrain, *out, *names, *kills, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "kill-test:", err)
		os.Exit(1)
	}
}

func run(dndgen, dndtrain, out string, names []string, kills int, seed uint64) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(out, "work-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begin := time.Now()
	command := func(program string) func(args ...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, program, args...) }
	}
	rows, err := killtest.Run(ctx, killtest.Options{
		Dndgen: command(dndgen), Dndtrain: command(dndtrain), Commands: names, Kills: kills, Dir: dir, Seed: seed,
		Note: func(text string) { fmt.Fprintf(os.Stderr, "%7.2f s  %s\n", time.Since(begin).Seconds(), text) },
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s: seed %d, %.0f s\n\n", begin.UTC().Format(time.DateOnly), seed, time.Since(begin).Seconds())
	killtest.Print(os.Stdout, rows)
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "result.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	wrong := 0
	for _, r := range rows {
		wrong += len(r.Wrong)
	}
	if wrong > 0 {
		return fmt.Errorf("%d things went wrong", wrong)
	}
	return nil
}
