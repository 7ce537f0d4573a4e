package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/science"
)

func runScience(flags *pflag.FlagSet) cli.Run {
	out := flags.String("out", filepath.Join("build", "science"), "folder for result.json, result.md, result.png and what a stopped run goes on with")
	flags.String("tier", "s", "size of the experiment: s, a tiny base and tasks that compose")
	cli.Values(flags, "tier", "s")
	splits := flags.Int("splits", 2, "divisions of the tasks into training and test")
	firstSplit := flags.Int64("first-split", 0, "seed of the first of them; the others follow (default: the one that docs/science.md reports on, 1 with --ablate)")
	loss := flags.String("loss", science.Defaults().Loss, "the generator's loss: weights, task (the base's, through the generated adapter) or both")
	cli.Values(flags, "loss", science.Losses...)
	strict := flags.Bool("strict", true, "also with a base that never saw the combinations that are held out (with --reduced: only if given)")
	reduced := flags.Bool("reduced", false, "a smaller experiment, of two minutes or so")
	ablate := flags.StringSlice("ablate", nil, "instead, fit generators that differ in one thing each and score them on held out tasks of splits that no result is of: all, or some of "+strings.Join(science.Ablations(), ", "))
	encoderDir := flags.String("encoder", filepath.Join("build", "deps", "minilm"), "text encoder (Hugging Face folder)")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if *splits < 1 || *splits > 16 {
			return cli.Usagef("--splits is %d, expected 1 to 16", *splits)
		}
		if flags.Changed("first-split") && *firstSplit < 1 {
			return cli.Usagef("--first-split is %d, expected a positive number", *firstSplit)
		}
		names := *ablate
		if flags.Changed("ablate") && len(names) == 0 {
			return cli.Usagef("--ablate names no change: expected all, or some of %s", strings.Join(science.Ablations(), ", "))
		}
		for _, name := range names {
			if err := cli.OneOf("ablate", name, append([]string{"all"}, science.Ablations()...)...); err != nil {
				return err
			}
		}
		if slices.Contains(names, "all") {
			names = science.Ablations()
		}
		c := science.Defaults()
		if *reduced {
			c = science.Reduced()
		}
		c.Loss = *loss
		if flags.Changed("strict") {
			c.Strict = *strict
		}
		// The first of the splits that no choice was made on, or of those for choices.
		first := c.Splits[0]
		if len(names) > 0 {
			first = 1
		}
		if *firstSplit > 0 {
			first = *firstSplit
		}
		c.Splits = nil
		for i := range *splits {
			c.Splits = append(c.Splits, first+int64(i))
		}
		b, err := openBackend(e, *name)
		if err != nil {
			return err
		}
		defer b.Finalize()
		bar := e.Bar()
		report := func(p science.Progress) {
			if p.Total == 0 {
				bar.Done()
				e.Message("%s: %s", p.Stage, p.Note)
				return
			}
			bar.Set(p.Stage, int64(p.Done), int64(p.Total), p.Note)
		}
		if len(names) > 0 {
			list, err := science.Ablate(ctx, c, names, *encoderDir, *out, b, report)
			bar.Done()
			if err != nil {
				return err
			}
			var failed error
			err = e.Result(list, func(w io.Writer) { failed = science.AblationTable(w, list) })
			return errors.Join(err, failed)
		}
		result, err := science.Run(ctx, c, *encoderDir, *out, b, report)
		bar.Done()
		if err != nil {
			return err
		}
		var failed error
		err = e.Result(result, func(w io.Writer) { failed = result.Markdown(w) })
		if err != nil {
			return err
		}
		return failed
	}
}
