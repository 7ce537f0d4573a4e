// Package encoder is the frozen text encoder (a BERT such as all-MiniLM): it adds the
// dispatches from token ids and mask to the condition (N, L, width) to a Program
// (reference section a.2). Tokenising is package text's; what the condition turns into
// is package decoder's.
package encoder

// Config is what a Hugging Face config.json says of a BERT encoder.
type Config struct {
	HiddenSize            int     `json:"hidden_size"`
	NumHiddenLayers       int     `json:"num_hidden_layers"`
	NumAttentionHeads     int     `json:"num_attention_heads"`
	IntermediateSize      int     `json:"intermediate_size"`
	MaxPositionEmbeddings int     `json:"max_position_embeddings"`
	TypeVocabSize         int     `json:"type_vocab_size"`
	VocabSize             int     `json:"vocab_size"`
	LayerNormEps          float64 `json:"layer_norm_eps"`
	HiddenAct             string  `json:"hidden_act"`
	ModelType             string  `json:"model_type"`
}
