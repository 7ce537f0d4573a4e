// Command dndtrain makes generators: it trains LoRA checkpoints on data sets, fits a
// generator on them, and exports that as a package for dndgen.
package main

import "github.com/drag-and-drop-lora/dnd/cmd/internal/cli"

func main() {
	cli.Main("dndtrain", "dndtrain makes generators of LoRA adapters.", []cli.Command{
		{Name: "collect", Short: "train LoRA checkpoints on data sets", Setup: collectCheckpoints},
		{Name: "fit", Short: "fit a generator on collected checkpoints", Setup: fitGenerator},
		{Name: "export", Short: "make a generator package of a fitted run", Setup: exportGenerator},
		{Name: "eval", Short: "score generated adapters on records of tasks, beside the base and all rivals", Setup: evaluate},
		{Name: "experiment", Short: "all of it by a plan: collect, fit, export and eval over splits and seeds", Setup: runExperiment},
		{Name: "precision", Short: "what types of weights cost: of what is generated, and of its scores", Setup: precision},
		{Name: "answer", Short: "a base model's answers to prompts, without and with an adapter", Setup: answer},
		{Name: "science", Short: "the whole claim from nothing: a tiny base, its LoRAs, a generator, unseen tasks", Setup: runScience},
		{Name: "tokens", Short: "turn an adapter into weight tokens, or back", Setup: tokens},
	})
}
