// Package export turns a fitted run into a generator package: the last step of training,
// and where package graph/generator takes over.
package export

import (
	"cmp"
	"context"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// Options say what a package holds beside the fitted weights.
type Options struct {
	Name string
	// EncoderDir is the text encoder the run was fitted with, in Hugging Face layout.
	EncoderDir, EncoderID string
	// Model, Architecture, Heads and KVHeads describe the base model where the
	// checkpoints do not: a Hugging Face id, GGUF's architecture name, attention heads.
	Model, Architecture string
	Heads, KVHeads      int
	// DType is the type to store weights as, F32, F16, Q8 or Q4 (see generator.WriteOptions;
	// the encoder's is generator.EncoderStorage); as they are if empty.
	DType   safetensors.DType
	HeldOut []string // data sets kept from training, for the record
	// FarScale becomes the generator.Coverage's; 0 and 1 leave adapters of far prompts as they are.
	FarScale float64
	// BasisShare is fit.Fitted's; 0 is 1.
	BasisShare float64
	License    string
	Commit     string
	Replace    bool
}

// Write exports the last checkpoint of the run in a folder, or the mean of several runs' (fit.Fitted),
// to the package out.
func Write(ctx context.Context, dirs []string, out string, o Options, progress func(done, total int64)) error {
	share := cmp.Or(o.BasisShare, 1)
	record, tensors, steps, err := fit.Fitted(share, dirs...)
	if err != nil {
		return err
	}
	c := record.Config
	base := record.Base
	if o.Model != "" {
		base.Model = o.Model
	}
	if base.Model == "" {
		return fmt.Errorf("export: the checkpoints do not name their base model: name it with --base-model")
	}
	if o.Architecture != "" {
		base.Architecture, base.Heads, base.KVHeads = o.Architecture, o.Heads, o.KVHeads
	}
	coverage, err := fit.ReadCoverage(dirs[0])
	if err != nil {
		return err
	}
	if o.FarScale != 0 && o.FarScale != 1 {
		if coverage == nil {
			return fmt.Errorf("export: the run does not know where its data sets lie, so that no prompts are far: leave out --far-scale, or fit anew")
		}
		coverage.FarScale = o.FarScale
	}
	m := generator.Manifest{
		Name: o.Name, Coverage: coverage,
		Base: &base, Tiling: c.Tiling, Decoder: c.Decoder,
		Condition: generator.Condition{Texts: c.Texts, Length: c.Length, Width: c.Decoder.Condition()[2], Pads: c.Pads},
		Encoder:   &generator.Encoder{ID: o.EncoderID},
		Provenance: generator.Provenance{Source: "dndtrain fit", DataSets: record.DataSets, HeldOut: o.HeldOut,
			Steps: steps, Seed: c.Seed, Commit: o.Commit, License: o.License},
	}
	if share != 1 {
		m.Provenance.BasisShare = share
	}
	if len(dirs) > 1 {
		m.Provenance.Runs = len(dirs)
	}
	return generator.Write(ctx, out, m, tensors, o.EncoderDir, generator.WriteOptions{
		DType: o.DType, EncoderDType: safetensors.DType(generator.EncoderStorage(string(o.DType))), Replace: o.Replace, Progress: progress})
}
