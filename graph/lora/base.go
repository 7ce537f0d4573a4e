// Package lora converts between weight tokens and LoRA adapters (reference section c):
// the order of modules, the tilings of the reference and any other that divides the
// matrices, tokens both ways in float32 or bit for bit in bfloat16, and adapter files
// in and out (PEFT, GGUF). Tokens come from package decoder; files go to the user.
package lora

// Base is a base model as far as LoRA sees it: its LoRA targets, in the order of the
// weight tokens.
type Base struct {
	Model        string   `json:"model"`        // Hugging Face id
	Architecture string   `json:"architecture"` // "llama" or "qwen2", as GGUF's general.architecture
	Heads        int      `json:"heads"`        // attention heads; 0 if unknown
	KVHeads      int      `json:"kv_heads"`     // key/value heads; 0 if unknown
	Rank         int      `json:"rank"`
	Alpha        float64  `json:"alpha"`
	Targets      []Target `json:"targets"`
}

// Target is one linear layer with a LoRA pair: A (rank, In) and B (Out, rank).
type Target struct {
	// Name is the module's path in the base model: "model.layers.0.self_attn.q_proj".
	Name string `json:"name"`
	In   int    `json:"in"`
	Out  int    `json:"out"`
}

// Tiling is the size of a weight token and of the chunk of a matrix in it.
type Tiling struct {
	// Kind is the reference's tokenizer class, or "custom".
	Kind   string `json:"kind"`
	Height int    `json:"height"` // h, two frame rows included
	Width  int    `json:"width"`  // w, two frame columns included
	// Chunk is the number of columns of a chunk (its rows are the rank). 0 where the
	// reference's fixed chunk counts decide (reference c.2), see ChunkCounts.
	Chunk int `json:"chunk"`
}
