// Command soak is make soak: dndgen serve --api makes thousands of small adapters, and must
// not hold more at the end than after the first of them. It prints a table.
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

	"github.com/drag-and-drop-lora/dnd/internal/madeup"
	"github.com/drag-and-drop-lora/dnd/internal/server/loadtest"
)

func main() {
	program := pflag.String("dndgen", "build/bin/dndgen", "the command under test")
	out := pflag.String("out", "build/soak", "folder for result.json; the adapters are removed at the end")
	generator := pflag.String("generator", "", "generator package (default: a made-up one that is tiny)")
	count := pflag.Int("count", 10_000, "adapters to make")
	samples := pflag.Int("samples", 20, "how often to look at the memory")
	pflag.Parse()
	if err := run(*program, *out, *generator, *count, *samples, pflag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(program, out, generator string, count, samples int, args []string) error {
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
	if generator == "" {
		generator = filepath.Join(dir, "generator")
		if err := madeup.WriteTiny(ctx, generator); err != nil {
			return err
		}
	}
	kept := filepath.Join(dir, "results")
	begin := time.Now()
	list, err := loadtest.Soak(ctx, loadtest.Options{
		Command: func(args ...string) *exec.Cmd { return exec.Command(program, args...) },
		// Old adapters go, as in a server that has run for long.
		Args: append([]string{"--generator", generator, "--results-bytes", "4194304"}, args...), Dir: kept,
		Note: func(text string) { fmt.Fprintf(os.Stderr, "%7.2f s  %s\n", time.Since(begin).Seconds(), text) },
	}, count, max(count/samples, 1))
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d adapters, serve %v\n\n", begin.UTC().Format(time.DateOnly), count, args)
	loadtest.PrintSamples(os.Stdout, list)
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "result.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return loadtest.Flat(list)
}
