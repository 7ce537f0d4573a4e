package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// planFlags are fit's dry run.
type planFlags struct {
	plan, measure bool
	rates         string
}

func addPlanFlags(flags *pflag.FlagSet) *planFlags {
	p := &planFlags{}
	flags.BoolVar(&p.plan, "plan", false, "only print what the run takes: parameters, memory, work, and hours at measured rates")
	flags.BoolVar(&p.measure, "measure", false, "with --plan: measure this device's rate in the run's convolutions, and plan with it")
	flags.StringVar(&p.rates, "rates", "", "with --plan: file of measured rates in place of those that come with the program; --measure adds to it")
	return p
}

func (p *planFlags) check() error {
	if !p.plan && (p.measure || p.rates != "") {
		return cli.Usagef("--measure and --rates go with --plan")
	}
	return nil
}

// run prints the plan of a run of a shape, or of a layout file.
func (p *planFlags) run(ctx context.Context, e *cli.Env, c *fit.Config, what string, devices int, backendName string) error {
	plan, err := fit.NewPlan(c, devices)
	if err != nil {
		return cli.Usagef("%w", err)
	}
	if p.measure {
		r, err := measure(ctx, e, c, what, backendName)
		if err != nil {
			return err
		}
		if p.rates != "" {
			if err := fit.AddRate(p.rates, r); err != nil {
				return err
			}
		}
		plan.Add(r)
	} else {
		list, err := fit.Rates(p.rates)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.DType == c.DType {
				plan.Add(r)
			}
		}
	}
	return e.Result(plan, plan.Print)
}

func measure(ctx context.Context, e *cli.Env, c *fit.Config, what, backendName string) (fit.Rate, error) {
	b, err := openBackend(e, backendName)
	if err != nil {
		return fit.Rate{}, err
	}
	defer b.Finalize()
	bar := e.Bar()
	defer bar.Done()
	r, err := fit.MeasureRate(ctx, c, b, what, func(done, total int) { bar.Set("measure", int64(done), int64(total), "") })
	if err != nil {
		return r, fmt.Errorf("measure: %w", err)
	}
	return r, nil
}
