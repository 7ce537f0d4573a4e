package main

import (
	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// taskFlags are fit's loss on answers.
type taskFlags struct {
	flags     *pflag.FlagSet
	loss      string
	base      string
	records   []string
	set       fit.TaskConfig
	maxTokens int
}

func addTaskFlags(flags *pflag.FlagSet) *taskFlags {
	o := &taskFlags{flags: flags}
	flags.StringVar(&o.loss, "loss", fit.LossWeights, fit.LossWeights+" (mean square of weight tokens), "+fit.LossTask+
		" (the base model's on answers, through the generated adapter) or "+fit.LossBoth+" (weights first, then task with a share of weights)")
	flags.StringVar(&o.base, "base", "", "with --loss task or both: base model, a GGUF file or a Hugging Face folder")
	flags.StringSliceVar(&o.records, "records", nil, "with --loss task or both: the data sets that collect read, files with prompt and response or folders of them")
	flags.IntVar(&o.set.Records, "task-records", 0, "with --loss task or both: records of the data set that each pair of a step answers (default 4)")
	flags.StringVar(&o.set.BaseDType, "base-dtype", lm.F32, "with --loss task or both: precision of the base model's products: "+lm.F32+" or "+lm.BF16)
	flags.IntVar(&o.set.From, "task-from", 0, "with --loss both: steps with the loss on weights alone (default a fifth)")
	flags.Float64Var(&o.set.Share, "weights-share", 0, "with --loss both: share of the loss on weights afterwards (default 0.1)")
	flags.IntVar(&o.maxTokens, "max-tokens", collect.Defaults().MaxTokens, "with --loss task or both: records with more tokens are left out")
	return o
}

// configure sets the loss in a configuration whose steps are known.
func (o *taskFlags) configure(c *fit.Config) error {
	if err := cli.OneOf("loss", o.loss, fit.Losses...); err != nil {
		return err
	}
	if c.Loss != fit.LossWeights && !o.flags.Changed("loss") {
		o.loss = c.Loss // a recipe's
	} else {
		c.SetLoss(o.loss)
	}
	for _, x := range []struct {
		flag string
		set  func()
	}{{"task-records", func() { c.Task.Records = o.set.Records }}, {"task-from", func() { c.Task.From = o.set.From }},
		{"weights-share", func() { c.Task.Share = o.set.Share }}, {"base-dtype", func() { c.Task.BaseDType = o.set.BaseDType }}} {
		if o.flags.Changed(x.flag) {
			x.set()
		}
	}
	if o.loss == fit.LossWeights && (o.base != "" || len(o.records) > 0) {
		return cli.Usagef("--base and --records go with --loss %s or %s", fit.LossTask, fit.LossBoth)
	}
	return nil
}

// required is the error of a flag that the loss needs.
func (o *taskFlags) required() error {
	if o.loss == fit.LossWeights {
		return nil
	}
	if err := cli.Required(o.flags, "base"); err != nil {
		return err
	}
	if len(o.records) == 0 {
		return cli.Usagef("--records is missing: %s", o.flags.Lookup("records").Usage)
	}
	return nil
}

// check is what load would refuse of the base.
func (o *taskFlags) check(b backend.Backend) error {
	if o.loss == fit.LossWeights {
		return nil
	}
	return lm.Check(o.base, b)
}

// load reads the base model and the data sets' records; nil with the loss on weights.
func (o *taskFlags) load(e *cli.Env, c *fit.Config, sets []fit.DataSet, b backend.Backend) (*fit.Task, error) {
	if o.loss == fit.LossWeights {
		return nil, nil
	}
	names := make([]string, len(sets))
	for i, s := range sets {
		names[i] = s.Name
	}
	list, err := collect.ReadDataSets(o.records, names)
	if err != nil {
		return nil, err
	}
	m, err := lm.LoadWith(o.base, lm.Options{DType: c.Task.BaseDType}, b)
	if err != nil {
		return nil, err
	}
	examples, err := collect.ExamplesOf(m, list, o.maxTokens, func(s string) { e.Message("note: %s", s) })
	if err != nil {
		m.Close()
		return nil, err
	}
	return &fit.Task{Model: m, Examples: examples}, nil
}
