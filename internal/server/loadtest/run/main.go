// Command run is make load-test: dndgen serve --api with many clients, killed in the middle.
// It prints a table and fails if anything went wrong. Its clients need some processor time,
// too, which the server's is short of by that much.
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

	"github.com/drag-and-drop-lora/dnd/internal/server/loadtest"
)

func main() {
	program := pflag.String("dndgen", "build/bin/dndgen", "the command under test")
	out := pflag.String("out", "build/load-test", "folder for result.json; the adapters are removed at the end")
	clients := pflag.Int("clients", 64, "clients")
	duration := pflag.Duration("time", 2*time.Minute, "time under load")
	cores := pflag.Int("cores", 2, "processors of the server: its GOMAXPROCS")
	kill := pflag.Bool("kill", true, "kill the server after half of the time")
	pflag.Parse()
	if err := run(*program, *out, *clients, *cores, *duration, *kill, pflag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "load-test:", err)
		os.Exit(1)
	}
}

func run(program, out string, clients, cores int, duration time.Duration, kill bool, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(out, "results-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begin := time.Now()
	r, err := loadtest.Run(ctx, loadtest.Options{
		Command: func(args ...string) *exec.Cmd {
			cmd := exec.Command(program, args...)
			cmd.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", cores))
			return cmd
		},
		Args: args, Dir: dir, Clients: clients, Time: duration, Kill: kill,
		Note: func(text string) { fmt.Fprintf(os.Stderr, "%7.2f s  %s\n", time.Since(begin).Seconds(), text) },
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d clients, %.0f s, %d cores for the server of %d that it shares with the clients, serve %v\n\n",
		begin.UTC().Format(time.DateOnly), r.Clients, r.Seconds, cores, r.Cores, args)
	r.Print(os.Stdout)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "result.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if r.Wrongs > 0 {
		return fmt.Errorf("%d things went wrong", r.Wrongs)
	}
	return nil
}
