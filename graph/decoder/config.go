// Package decoder is the hyper-convolutional decoder: it adds the dispatches from a
// condition (N, L, C) to weight tokens (T, h, w) to a Program (reference section b).
// The condition comes from package encoder or from a file; the tokens go to package
// lora.
package decoder

// The two model classes of the reference (section b.1).
const (
	FullCond   = "HyperConvDecoderModel_FullCond"
	SuperLarge = "HyperConvDecoderModel_SuperLarge"
)

// Config is the decoder's architecture.
type Config struct {
	// Class is FullCond, or SuperLarge, which projects the condition first.
	Class string `json:"class"`
	// Features are the shapes (N, H, W) from the first layer's input to the output.
	Features [][3]int `json:"features"`
	// KernelSize is k of every convolution, odd or even.
	KernelSize int `json:"kernel_size"`
	// MaxLength and ModifiedLength are SuperLarge's L and m (b.1).
	MaxLength      int `json:"max_length,omitempty"`
	ModifiedLength int `json:"modified_length,omitempty"`
	// Affine says that the output y is finished as y·output.scale[t] + output.offset[t,y,x],
	// two more tensors of shapes (T) and (T,h,w): the mean weight tokens of the training
	// checkpoints and their spread. Absent in the reference.
	Affine bool `json:"affine,omitempty"`
}
