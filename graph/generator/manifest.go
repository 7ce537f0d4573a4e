// Package generator is a generator on disk and what it compiles to.
//
// A generator package is a folder: generator.json (the Manifest), the decoder's weights
// as safetensors and, usually, the text encoder in Hugging Face layout. Compile turns a
// manifest into a graph.Program, Feed turns prompts into the Program's inputs, Finish
// turns what the Program read back into an adapter. Open and Verify check a package
// before anything is made from it.
package generator

import (
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
	"github.com/drag-and-drop-lora/dnd/graph/encoder"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// FormatVersion of generator.json. Readers take exactly this one.
const FormatVersion = 1

// ManifestName is the manifest's file name in a package.
const ManifestName = "generator.json"

// SignatureName is the file with a signature of the manifest, which a package may have.
// Package hub/signature reads and writes it.
const SignatureName = ManifestName + ".minisig"

// Manifest is generator.json: everything that Compile needs, and the provenance that an
// adapter carries on.
type Manifest struct {
	FormatVersion int    `json:"format_version"`
	Name          string `json:"name"`
	// Base is absent in a package imported without a donor: such a package decodes only.
	Base *lora.Base `json:"base,omitempty"`
	// Tiling says how weight tokens and LoRA matrices correspond.
	Tiling    lora.Tiling    `json:"tiling"`
	Condition Condition      `json:"condition"`
	Decoder   decoder.Config `json:"decoder"`
	// Encoder is absent in a package imported without one: such a package decodes only.
	Encoder *Encoder `json:"encoder,omitempty"`
	// Coverage is absent where the training tasks' prompts are not known.
	Coverage   *Coverage  `json:"coverage,omitempty"`
	Provenance Provenance `json:"provenance"`
	// Files lists every other file of the package, sorted by path.
	Files []File `json:"files"`
}

// Condition is the shape of what the text encoder hands to the decoder, (N, L, Width)
// (reference section a).
type Condition struct {
	Texts  int `json:"texts"`  // N
	Length int `json:"length"` // L, text tokens a text
	Width  int `json:"width"`  // C
	// Pads is "encoded" (the encoder's own outputs at pad positions, as the reference) or
	// "zero" (set to zero).
	Pads string `json:"pads"`
}

// The two treatments of pad positions.
const (
	PadsEncoded = "encoded"
	PadsZero    = "zero"
)

// Encoder names the frozen text encoder: id on the Hugging Face hub, folder in the
// package, and its config.
type Encoder struct {
	ID     string         `json:"id"`
	Dir    string         `json:"dir"`
	Config encoder.Config `json:"config"`
}

// Provenance says where a generator comes from.
type Provenance struct {
	Source   string   `json:"source"`              // "dndtrain fit", "imported from FILE"
	DataSets []string `json:"data_sets,omitempty"` // training data sets
	HeldOut  []string `json:"held_out,omitempty"`  // never seen in training
	Steps    int      `json:"steps,omitempty"`
	Seed     int64    `json:"seed,omitempty"`
	// Runs is of how many fits, of different seeds, the weights are the mean; 0 is one. Seed is the first one's.
	Runs int `json:"runs,omitempty"`
	// BasisShare is the share of what the fit changed in a basis that the package has; 0 is all.
	BasisShare float64 `json:"basis_share,omitempty"`
	Commit     string  `json:"commit,omitempty"`
	License    string  `json:"license,omitempty"`
}

// File is one file of a package with its checksum.
type File struct {
	Path   string `json:"path"` // with slashes, relative to the package
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // lower-case hex
}
