package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/grid"
	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

func collectCheckpoints(flags *pflag.FlagSet) cli.Run {
	c := collect.Defaults()
	base := flags.String("base", "", "base model: a GGUF file or a Hugging Face folder, of Llama or Qwen2 architecture")
	model := flags.String("base-model", "", "base model's Hugging Face id, for the adapters' adapter_config.json (default: what its files say)")
	data := flags.StringSlice("data", nil, "data sets: .json files with an array, or .jsonl with a line each, of prompt, response and, where the base is asked something else than the prompt, input; or folders of them")
	sets := flags.StringSlice("sets", nil, "names of the data sets to take (default: all)")
	grid := flags.String("grid", "", "JSON file whose list \"train\" names the data sets to take")
	joint := flags.String("joint", "", "tune one LoRA of this name on the records of all data sets together: the rival of a generator (see eval)")
	start := flags.String("start", "", "tune every data set's LoRA from this one: a PEFT folder, generated say, or one that collect wrote (OUT/NAME), of --joint say (default: a new one)")
	out := flags.String("out", "", "folder for the checkpoints, a folder a data set; those that are there already are kept, one that was stopped goes on")
	name := flags.String("backend", backend.Auto, "auto, pjrt or cpu")
	cli.Values(flags, "backend", backend.Auto, backend.PJRT, backend.CPU)
	devices := flags.Int("devices", 1, "devices of the backend that share the data sets")
	flags.StringVar(&c.DType, "dtype", c.DType, "precision of the base's matrices: "+lm.F32+", or "+lm.BF16+", which is faster where the processor has products of it")
	cli.Values(flags, "dtype", lm.F32, lm.BF16)
	flags.IntVar(&c.Rank, "rank", c.Rank, "rank of the LoRA")
	flags.Float64Var(&c.Alpha, "alpha", c.Alpha, "alpha of the LoRA")
	flags.BoolVar(&c.TrainA, "train-a", c.TrainA, "train lora_A too; otherwise it is random and the same for all data sets")
	flags.Int64Var(&c.Seed, "seed", c.Seed, "seed of lora_A and of the order of examples, the same for all data sets")
	flags.IntVar(&c.Batch, "batch", c.Batch, "examples a step")
	flags.IntVar(&c.Steps, "steps", c.Steps, "steps of the first phase")
	flags.Float64Var(&c.Rate, "learning-rate", c.Rate, "peak of the first phase's schedule")
	flags.IntVar(&c.WarmUp, "warm-up", c.WarmUp, "steps of linear warm-up")
	flags.IntVar(&c.Late, "late-steps", c.Late, "steps of the late phase, after each of which the adapter is saved")
	flags.Float64Var(&c.LateRate, "late-learning-rate", c.LateRate, "constant rate of the late phase")
	flags.IntVar(&c.MaxTokens, "max-tokens", c.MaxTokens, "examples with more tokens are left out")
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "base", "out"); err != nil {
			return err
		}
		if len(*data) == 0 {
			return cli.Usagef("--data is missing: %s", flags.Lookup("data").Usage)
		}
		if err := c.Validate(); err != nil {
			return cli.Usagef("%w", err)
		}
		names, err := wanted(*sets, *grid)
		if err != nil {
			return err
		}
		b, err := openBackend(e, *name)
		if err != nil {
			return err
		}
		defer b.Finalize()
		// What is wrong with one is no reason to keep quiet about the other.
		list, errData := collect.ReadDataSets(*data, names)
		var errStart error
		if *start != "" {
			errStart = c.SetStart(*start)
		}
		if err := errors.Join(errData, errStart, lm.Check(*base, b)); err != nil {
			return err
		}
		if *joint != "" {
			list = []*collect.DataSet{collect.Join(*joint, list)}
		}
		models, err := loadModels(*base, *model, c.DType, *devices, b)
		if err != nil {
			return err
		}
		defer closeModels(models)

		bar := e.Bar()
		dropped := map[string]int{}
		err = collect.Run(ctx, c, models, list, *out, func(p collect.Progress) {
			dropped[p.DataSet] = p.Dropped
			if p.Skipped {
				return
			}
			note := fmt.Sprintf("%s, loss %.4f, %.0f tokens/s", p.DataSet, p.Loss, p.TokensPerSecond)
			bar.Set("collect", int64(p.Made), int64(p.Total), note)
		})
		bar.Done()
		if err != nil {
			return err
		}
		result := struct {
			Out         string         `json:"out"`
			DataSets    []string       `json:"data_sets"`
			Checkpoints int            `json:"checkpoints"` // of each data set
			Dropped     map[string]int `json:"dropped"`     // examples with too many tokens
		}{Out: *out, Checkpoints: c.Late, Dropped: map[string]int{}}
		for _, s := range list {
			result.DataSets = append(result.DataSets, s.Name)
			if n := dropped[s.Name]; n > 0 {
				result.Dropped[s.Name] = n
				e.Message("note: data set %s: %d of %d examples have more than %d tokens and were left out", s.Name, n, len(s.Records), c.MaxTokens)
			}
		}
		return e.Result(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d data sets with %d checkpoints each\n", *out, len(list), c.Late)
		})
	}
}

// wanted are the names of data sets to take, nil for all.
func wanted(sets []string, file string) ([]string, error) {
	if file == "" {
		return sets, nil
	}
	if len(sets) > 0 {
		return nil, cli.Usagef("--sets and --grid: give one of them")
	}
	g, err := grid.Read(file)
	if err != nil {
		return nil, err
	}
	return g.Train, nil
}

// loadBase opens a backend and loads a base model onto it.
func loadBase(e *cli.Env, name, path string) (backend.Backend, *lm.Model, error) {
	b, err := openBackend(e, name)
	if err != nil {
		return b, nil, err
	}
	m, err := lm.Load(path, b)
	if err != nil {
		b.Finalize()
		return b, nil, err
	}
	return b, m, nil
}
