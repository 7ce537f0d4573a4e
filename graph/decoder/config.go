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
	// Tokens, if not zero, is the shape (T,h,w) of the weight tokens. Then the last features are
	// not these but their coordinates c in a basis, r values however shaped, and the tokens are the
	// sums of c[i] times column i of output.basis.weight, one more tensor of shape (T·h·w,r):
	// directions in which the adapters of the training tasks differ. Absent in the reference.
	Tokens [3]int `json:"tokens,omitzero"`
	// Affine says that the output y is finished as y·output.scale[t] + output.offset[t,y,x],
	// two more tensors of shapes (T) and (T,h,w): the mean weight tokens of the training
	// checkpoints and their spread. Absent in the reference.
	Affine bool `json:"affine,omitempty"`
}

// MACs is the decoder's cost in multiply-accumulates, its basis included, as direct summation would
// take them with padding counted; normalisation and activations are not.
func (c Config) MACs(batch int) int64 {
	var sum int64
	for i := range len(c.Features) - 1 {
		from, to := c.Features[i], c.Features[i+1]
		taps := int64(batch) * int64(c.KernelSize) * int64(c.KernelSize)
		n, h, w := int64(from[0]), int64(from[1]), int64(from[2])
		no, ho, wo := int64(to[0]), int64(to[1]), int64(to[2])
		sum += taps * n * (h*w*wo + h*ho*wo + h*w*ho + ho*w*wo + ho*wo*no)
	}
	if c.Class == SuperLarge {
		long, short := int64(c.MaxLength), int64(c.ModifiedLength)
		sum += int64(batch) * int64(c.Features[0][0]) * int64(c.Features[0][2]) * (long*short + short*short)
	}
	return sum + int64(batch)*int64(c.Rank())*volume(c.Tokens)
}
