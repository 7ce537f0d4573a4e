package fftconv

import "golang.org/x/sys/cpu"

// Fast says that this machine has the vector instructions without which the direct
// convolution of another library is faster.
var Fast = cpu.X86.HasAVX2 && cpu.X86.HasFMA

//go:noescape
func kernelAVX2(k int, a, b *float32, bStride int, c *float32, cStride int, add bool)

// kernel is kernelGo in vector instructions, where there are any.
func kernel(k int, a, b []float32, bStride int, c []float32, cStride int, add bool) {
	if !Fast {
		kernelGo(k, a, b, bStride, c, cStride, add)
		return
	}
	// The last values that are touched: out of bounds is a panic here, not a fault there.
	_, _, _ = a[k*block-1], b[(k-1)*bStride+lanes-1], c[(block-1)*cStride+lanes-1]
	kernelAVX2(k, &a[0], &b[0], bStride, &c[0], cStride, add)
}
